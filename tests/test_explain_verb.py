"""The verb ``explain``, through the command and with checkpoints that the command has trained."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out
from cli_runs import ROOT
from rdkit import Chem
from torch_geometric.data import Batch

from plstm_graph.chem import smiles_to_data
from plstm_graph.commands.main import main
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.ensemble import Ensemble
from plstm_graph.explain import contributions
from plstm_graph.models import PLSTM
from plstm_graph.task import GraphTask

ROWS = ["CCO", "c1ccccc1O", "C(C", "CC(=O)[O-].[Na+]", "", "C", "CC(=O)Nc1ccc(O)cc1"]
READABLE = [0, 1, 3, 5, 6]


def trained(folder: Path, *arguments: object) -> Path:
    """The checkpoint of one epoch."""
    places = ["--trainer.max_epochs", 1, "--trainer.default_root_dir", folder, "--data.cache", folder]
    carry_out("fit", *arguments, *SMALL, *places)
    [best] = folder.rglob("best*.ckpt")
    return best


@pytest.fixture(scope="module")
def solvation(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("solvation"), "--config", "freesolv")


@pytest.fixture(scope="module")
def toxicity(tmp_path_factory) -> Path:
    """With branches, of two targets, whose names are hard to make file names of."""
    folder = tmp_path_factory.mktemp("toxicity")
    smiles = [f"{'C' * length}{end}" for length in range(1, 9) for end in ("O", "N", "Cl")]
    labels = np.arange(len(smiles)) % 3 == 0
    frame = pd.DataFrame({"smiles": smiles, "NR/AR": labels.astype(int), "NR AR": 1 - labels})
    frame.to_csv(folder / "train.csv", index=False)
    data = ["--data", "CSV", "--data.path", folder / "train.csv", "--data.task", "classification"]
    data += ["--data.target_columns", "['NR/AR', 'NR AR']", "--data.split", "random"]
    network = ["--model.network", "PLSTM"]
    for branch in ("CircularFingerprint", "GaussianProcess"):
        network += ["--model.network.init_args.branches+", branch]
    return trained(folder, *network, *data)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "molecules.csv"
    pd.DataFrame({"name": range(len(ROWS)), "smiles": ROWS}).to_csv(path, index=False)
    return path


@pytest.fixture
def explain(monkeypatch, capsys, tmp_path):
    """Run the verb in this process; returns exit code, standard output and error."""

    def call(*arguments: object, folder: Path = tmp_path / "out") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plstm-graph", "explain", *map(str, arguments)])
        if not {"--output", "-o"} & set(sys.argv):
            sys.argv += ["--output", str(folder)]
        code = main()
        return code, *capsys.readouterr()

    return call


def gained(checkpoint: Path, smiles: str) -> torch.Tensor:
    """What the network gives for a molecule beyond what it gives for the alkane of the same shape."""
    task = GraphTask.load_from_checkpoint(checkpoint).eval()
    batch, chain = Batch.from_data_list([smiles_to_data(smiles)]), smiles_to_data("CCC")
    alkane = batch.clone()
    alkane.x, alkane.edge_attr = chain.x[1].expand_as(batch.x), chain.edge_attr[0].expand_as(batch.edge_attr)
    with torch.no_grad():
        difference = task.network(batch) - task.network(alkane)
    return (difference * (task.target_std if task.task == "regression" else 1.0)).squeeze(0)


def test_the_command_explains_a_table(solvation, table, tmp_path):
    folder = tmp_path / "new" / "folder"
    arguments = ["--data.path", table, "--ckpt_path", solvation, "--output", folder]
    command = [sys.executable, "train.py", "explain", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    frame = pd.read_csv(folder / "contributions.csv")
    assert ",".join(frame) == "row,smiles,target,prediction,kind,index,begin,end,symbol,contribution"
    assert frame["row"].drop_duplicates().tolist() == READABLE
    assert f"{len(READABLE)} molecules: {folder / 'contributions.csv'}" in result.stdout
    task = GraphTask.load_from_checkpoint(solvation).eval()
    largest = 0.0
    for row, of_row in frame.groupby("row"):
        mol = Chem.MolFromSmiles(ROWS[row])
        atoms, bonds = (of_row[of_row["kind"] == kind] for kind in ("atom", "bond"))
        assert atoms["symbol"].tolist() == [atom.GetSymbol() for atom in mol.GetAtoms()]
        assert atoms["index"].tolist() == list(range(mol.GetNumAtoms()))
        assert bonds["index"].tolist() == list(range(mol.GetNumBonds()))
        ends = [[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] for bond in mol.GetBonds()]
        assert bonds[["begin", "end"]].to_numpy().astype(int).tolist() == ends
        assert atoms[["begin", "end"]].isna().all(axis=None)
        [prediction] = of_row["prediction"].unique()
        assert prediction == pytest.approx(task(smiles_to_data(ROWS[row])).item(), abs=1e-4)
        wanted = gained(solvation, ROWS[row]).item()
        assert of_row["contribution"].sum() == pytest.approx(wanted, rel=0.03, abs=1e-3)
        largest = max(largest, abs(wanted))
    assert largest > 0.1  # else the sums would say nothing
    phenol = frame[frame["row"] == 1]
    assert phenol["symbol"].tolist() == ["C"] * 6 + ["O"] + ["C:C"] * 5 + ["C-O", "C:C"]

    drawings = sorted(path.name for path in folder.glob("*.svg"))
    assert drawings == [f"row-{row:06d}-expt.svg" for row in READABLE]
    for path in folder.glob("*.svg"):
        words = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]
        assert "contribution to expt, kcal/mol" in words
    unreadable = pd.read_csv(folder / "unreadable.csv")
    assert unreadable["row"].tolist() == [2, 4]
    assert "'C(C'" in unreadable["reason"][0]
    assert f"2 of 7 rows cannot be read: {folder / 'unreadable.csv'}" in result.stdout


def test_bonds_have_what_both_their_columns_have(solvation, table, explain, tmp_path):
    code, _, err = explain("--data.path", table, "--ckpt_path", solvation)
    assert code == 0, err
    frame = pd.read_csv(tmp_path / "out" / "contributions.csv")
    task = GraphTask.load_from_checkpoint(solvation).eval()
    for row in READABLE:
        atoms, columns = contributions(task, smiles_to_data(ROWS[row]))
        wanted = torch.cat([atoms[:, 0], columns[::2, 0] + columns[1::2, 0]])
        values = frame["contribution"][frame["row"] == row]
        assert np.allclose(values, wanted, atol=1e-4)


def test_every_target_is_explained_by_its_log_odds_or_the_one_that_is_asked_for(toxicity, explain, tmp_path):
    table = tmp_path / "other.csv"
    pd.DataFrame({"structure": ["CCO", "CCN"]}).to_csv(table, index=False)
    arguments = ["--data.path", table, "--ckpt_path", toxicity, "--data.smiles_column", "structure"]
    code, out, err = explain(*arguments, folder=tmp_path / "all")
    assert code == 0, err
    assert "4 drawings" in out
    names = sorted(path.name for path in (tmp_path / "all").glob("*.svg"))
    assert names == [f"row-00000{row}-{target}.svg" for row in (0, 1) for target in ("0-NR_AR", "1-NR_AR")]
    assert pd.read_csv(tmp_path / "all" / "unreadable.csv").empty
    frame = pd.read_csv(tmp_path / "all" / "contributions.csv")
    ensemble = Ensemble([toxicity])  # whose probabilities are calibrated
    graphs = featurise_smiles(0, ["CCO", "CCN"], set(ensemble.preparations))
    shares = ensemble.predict(graphs, 2).mean
    assert ensemble.calibration is not None
    for row, smiles in enumerate(["CCO", "CCN"]):
        for number, target in enumerate(["NR/AR", "NR AR"]):
            part = frame[(frame["row"] == row) & (frame["target"] == target)]
            wanted = gained(toxicity, smiles)[number].item()
            assert part["contribution"].sum() == pytest.approx(wanted, rel=0.03, abs=1e-3)
            assert part["prediction"].to_numpy() == pytest.approx(shares[row, number], abs=1e-5)

    code, _, err = explain(*arguments, "--target", "NR AR", folder=tmp_path / "one")
    assert code == 0, err
    one = pd.read_csv(tmp_path / "one" / "contributions.csv")
    assert one["target"].unique().tolist() == ["NR AR"]
    assert np.allclose(one["contribution"], frame["contribution"][frame["target"] == "NR AR"], atol=1e-5)
    assert "log-odds" in (tmp_path / "one" / "row-000000-NR_AR.svg").read_text()


def test_tables_longer_than_a_batch_keep_their_rows(solvation, explain, tmp_path):
    smiles = ["C" * (1 + n % 7) + "O" for n in range(150)]
    pd.DataFrame({"smiles": smiles}).to_csv(tmp_path / "long.csv", index=False)
    code, _, err = explain("--data.path", tmp_path / "long.csv", "--ckpt_path", solvation)
    assert code == 0, err
    frame = pd.read_csv(tmp_path / "out" / "contributions.csv")
    assert len(list((tmp_path / "out").glob("*.svg"))) == 150
    sums = frame.groupby("row")["contribution"].sum()
    assert np.allclose(sums.to_numpy()[7:], sums.to_numpy()[:-7], atol=1e-4)
    assert frame.groupby("row")["smiles"].first().tolist() == smiles


def options(**changed: object) -> list[object]:
    return [part for name, value in changed.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"data.path": "nope.csv"}, "There is no file 'nope.csv'"),
        ({"data.smiles_column": "SMILES"}, "no column 'SMILES'; it has 'name', 'smiles'"),
        ({"ckpt_path": "nope.ckpt"}, "nope.ckpt"),
        ({"ckpt_path": "README.md"}, "cannot be read as a checkpoint"),
        ({"target": "logP"}, "no target 'logP'; targets are expt"),
        ({"output": "README.md"}, "README.md cannot be made a folder"),
        ({"data.path": None}, "--data.path"),
        ({"nosuch": 1}, "nosuch"),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(
    solvation, table, explain, monkeypatch, tmp_path, changed, part
):
    monkeypatch.chdir(ROOT)
    given = {"data.path": table, "ckpt_path": solvation, "output": tmp_path / "out", **changed}
    code, _, err = explain(*options(**{name: value for name, value in given.items() if value is not None}))
    assert code == 2
    assert part in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_tables_and_networks_that_do_not_fit_are_refused(solvation, table, explain, tmp_path):
    pd.DataFrame({"smiles": ["C(C", "xyz"]}).to_csv(tmp_path / "bad.csv", index=False)
    code, _, err = explain("--data.path", tmp_path / "bad.csv", "--ckpt_path", solvation)
    assert (code, err.count("\n")) == (2, 1)
    assert "None of the 2 SMILES" in err
    checkpoint = torch.load(solvation, weights_only=True)
    network = PLSTM(out_channels=1, hidden_channels=16, num_layers=2, in_channels=4)
    task = GraphTask(network)
    checkpoint |= {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    torch.save(checkpoint, tmp_path / "other.ckpt")
    code, _, err = explain("--data.path", table, "--ckpt_path", tmp_path / "other.ckpt")
    assert (code, err.count("\n")) == (2, 1)
    assert "4 features a node, not SMILES" in err


def test_a_folder_that_is_in_use_is_left_alone(solvation, explain, tmp_path):
    """Drawings of two tables would lie side by side."""
    few = tmp_path / "few.csv"
    few.write_text("smiles\nCCO\n")
    assert explain("--data.path", few, "--ckpt_path", solvation)[0] == 0
    code, _, err = explain("--data.path", few, "--ckpt_path", solvation)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds contributions.csv already; name another folder" in err


def test_the_unreadable_rows_of_a_training_are_left_alone(solvation, explain, tmp_path):
    """A folder of train has such a file, too."""
    few, listed = tmp_path / "few.csv", tmp_path / "drawings" / "unreadable.csv"
    few.write_text("smiles\nCCO\n")
    listed.parent.mkdir()
    listed.write_text("row,smiles\n7,C(C\n")
    code, _, err = explain("--data.path", few, "--ckpt_path", solvation, "--output", listed.parent)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds unreadable.csv already; name another folder" in err
    assert listed.read_text() == "row,smiles\n7,C(C\n"


def test_several_checkpoints_are_averaged(solvation, explain, tmp_path):
    checkpoint = torch.load(solvation, weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        if name.startswith("network.predictors"):
            checkpoint["state_dict"][name] = weight * 3
    torch.save(checkpoint, tmp_path / "other.ckpt")
    (tmp_path / "one.smi").write_text("CC(=O)Nc1ccc(O)cc1\n")
    frames = []
    for models in ([solvation], [tmp_path / "other.ckpt"], [solvation, tmp_path / "other.ckpt"]):
        folder = tmp_path / f"out{len(frames)}"
        code, _, err = explain("-i", tmp_path / "one.smi", "--ckpt_path", *models, "-o", folder)
        assert code == 0, err
        frames.append(pd.read_csv(folder / "contributions.csv"))
    first, second, both = frames
    for column in ("contribution", "prediction"):
        assert not np.allclose(first[column], second[column], atol=1e-2)
        assert np.allclose(both[column], (first[column] + second[column]) / 2, atol=1e-4)
