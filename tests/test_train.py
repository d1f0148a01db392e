"""The verb train, through the command line."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cli_calls import refused, serially, torch_as_before
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from torch_geometric.data import Batch

from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.chem import read_smiles, smiles_to_data
from plstm_graph.commands import train
from plstm_graph.commands.forest import count_fingerprints, forest_predictions
from plstm_graph.commands.main import main
from plstm_graph.commands.report import baseline_name
from plstm_graph.datasets import CSV
from plstm_graph.errors import InputError
from plstm_graph.estimators import PLSTMClassifier, PLSTMRegressor
from plstm_graph.predictor import Predictor
from plstm_graph.task import GraphTask

QUICK = ("--epochs", 2, "--ensemble-size", 2)
FILES = {
    *("config.yaml", "metrics.csv", "model_0.ckpt", "model_1.ckpt", "report.png", "test_predictions.csv"),
    "unreadable.csv",
}
UNREADABLE = 7


def made_up(folder: Path) -> Path:
    """A table of 60 molecules with two numbers, one of which is often missing, and two kinds of classes."""
    rings = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCOC1", "c1ccsc1", "")
    smiles = [f"{'C' * (1 + i % 10)}{rings[i % 6]}" for i in range(60)]
    frame = pd.DataFrame(
        {"id": range(60), "smiles": smiles, "carbons": [s.upper().count("C") for s in smiles]}
    )
    frame["size"] = frame["smiles"].str.len().where(frame["id"] % 3 > 0)
    frame["aromatic"] = np.where(frame["smiles"].str.contains("c"), "yes", "no")
    frame["ring"] = [("arene", "alkane", "arene", "ether", "arene", "chain")[i % 6] for i in range(60)]
    frame["part"] = [("train", "train", "val", "test")[i // 6 % 4] for i in range(60)]
    frame.loc[UNREADABLE, "smiles"] = "C(C"
    frame.to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; returns exit code, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(train, "side_by_side", serially)
        monkeypatch.setattr(sys, "argv", ["plstm-graph"])
        with torch_as_before():
            code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a regression of two targets, beside its table."""
    place = tmp_path_factory.mktemp("train")
    table, folder = made_up(place), place / "model"
    (place / "model.unfinished").mkdir()  # what a run that was killed has left
    (place / "model.unfinished" / "model_7.ckpt").touch()
    with torch_as_before(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "side_by_side", serially)
        patch.setattr(sys, "argv", ["plstm-graph"])
        arguments = ["train", "-i", table, "-o", folder, "--target-columns", "carbons", "size", *QUICK]
        assert main([str(argument) for argument in [*arguments, "--split", "part"]]) == 0
    return folder


def test_the_folder_holds_everything_and_nothing_is_left_beside_it(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    assert {path.name for path in trained.parent.iterdir()} == {"mine.csv", "model"}
    assert pd.read_csv(trained / "unreadable.csv")["row"].tolist() == [UNREADABLE]


def test_the_scores_are_those_of_the_predictions(trained):
    predictions = pd.read_csv(trained / "test_predictions.csv")
    metrics = pd.read_csv(trained / "metrics.csv").set_index(["model", "target"])
    assert predictions["size"].isna().any()
    for measure, name in ((root_mean_squared_error, "rmse"), (mean_absolute_error, "mae")):
        found = []
        for target in ("carbons", "size"):
            known = predictions.dropna(subset=target)
            found.append(measure(known[target], known[f"predicted_{target}"]))
            assert metrics.loc[("ensemble", target), name] == pytest.approx(found[-1], rel=1e-5)
        assert metrics.loc[("ensemble", "all"), name] == pytest.approx(np.mean(found), rel=1e-5)


def test_the_training_mean_is_that_of_the_training_rows_which_can_be_read(trained):
    table = pd.read_csv(trained.parent / "mine.csv").drop(UNREADABLE)
    mean, test = table[table["part"] == "train"]["carbons"].mean(), table[table["part"] == "test"]["carbons"]
    metrics = pd.read_csv(trained / "metrics.csv").set_index(["model", "target"])
    wanted = np.sqrt(np.mean((test - mean) ** 2))
    assert metrics.loc[("training mean", "carbons"), "rmse"] == pytest.approx(wanted, rel=1e-6)
    assert metrics.loc[("random forest", "carbons"), "rmse"] < wanted


@pytest.mark.parametrize("spelling", ["--model-paths", "--ckpt_path"])
def test_the_folder_predicts_as_it_was_tested(trained, run, tmp_path, spelling):
    table, out = trained.parent / "mine.csv", tmp_path / "out.csv"
    code, _, err = run("predict", "-i", table, spelling, trained, "-o", out)
    assert code == 0, err
    tested = pd.read_csv(trained / "test_predictions.csv").set_index("row")
    predicted = pd.read_csv(out).loc[tested.index]
    assert tested["smiles"].tolist() == predicted["smiles"].tolist()
    for name in ("predicted_carbons", "std_carbons", "predicted_size", "std_size"):
        np.testing.assert_allclose(predicted[name], tested[name], rtol=1e-4, atol=1e-6)


def test_python_predicts_from_the_folder_too(trained, tmp_path):
    """By an estimator, or by a network and a molecule with the descriptors that it reads."""
    tested = pd.read_csv(trained / "test_predictions.csv")
    columns = [f"{kind}_{name}" for kind in ("predicted", "std") for name in ("carbons", "size")]
    wanted = tested[columns].to_numpy()
    estimator = PLSTMRegressor.load(trained)
    np.testing.assert_allclose(estimator.predict(tested["smiles"]), wanted[:, :2], rtol=1e-4)
    estimator.save(tmp_path / "saved")
    again = PLSTMRegressor.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(tested["smiles"]), estimator.predict(tested["smiles"]))
    with pytest.raises(InputError, match="is of a regression; load it by the other class"):
        PLSTMClassifier.load(trained)
    predictors = [Predictor.from_checkpoint(trained / f"model_{n}.ckpt").eval() for n in range(2)]
    names = predictors[0].descriptor_names
    graphs = Batch.from_data_list([smiles_to_data(smiles, names) for smiles in tested["smiles"]])
    with torch.no_grad():
        mean = torch.stack([predictor(graphs) for predictor in predictors]).mean(0)
    np.testing.assert_allclose(mean.numpy(), wanted[:, :2], rtol=1e-4)
    with pytest.raises(
        InputError, match=r"smiles_to_data\(smiles, predictor.descriptor_names\) computes them"
    ):
        predictors[0](smiles_to_data("CCO"))
    with pytest.raises(InputError, match="The descriptors 'dose' are columns of a table"):
        smiles_to_data("CCO", [*names, "dose"])


@pytest.mark.parametrize("words", [("inactive", "active"), ("benign", "toxic")])
def test_both_ways_to_train_mean_the_same_class(words, run, tmp_path):
    """Of a table, and of an estimator, whose classes are in the order of letters."""
    table = pd.read_csv(made_up(tmp_path)).drop(UNREADABLE)
    table["kind"] = np.where(table["aromatic"] == "yes", words[1], words[0])
    table.to_csv(tmp_path / "mine.csv", index=False)
    given = ["--target-columns", "kind", "--task-type", "classification", "--split", "part"]
    code, _, err = run(
        *("train", "-i", tmp_path / "mine.csv", "-o", tmp_path / "table", "--epochs", 1),
        *("--ensemble-size", 1, *given),
    )
    assert code == 0, err
    fitted = PLSTMClassifier(max_epochs=1, verbose=False).fit(table["smiles"], table["kind"])
    fitted.save(tmp_path / "estimator")
    for name in ("table", "estimator"):
        out = tmp_path / f"{name}.csv"
        more = ["--model-paths", tmp_path / name, "-o", out, "--interval", 0.5]
        code, _, err = run("predict", "-i", tmp_path / "mine.csv", *more)
        assert code == 0, err
        assert f"predicted_kind: probability of {words[1]!r}" in err
        found = pd.read_csv(out)
        assert set("|".join(found["set_kind"].dropna()).replace(" ", "").split("|")) <= {*words, ""}
        means = found.groupby("kind")["predicted_kind"].mean()
        assert means[words[1]] > means[words[0]]
        loaded = PLSTMClassifier.load(tmp_path / name)
        assert loaded.classes_.tolist() == sorted(words)
        shares = loaded.predict_proba(table["smiles"])[:, sorted(words).index(words[1])]
        np.testing.assert_allclose(shares, found["predicted_kind"], rtol=1e-4)
        assert (loaded.predict(table["smiles"]) == np.where(shares > 0.5, words[1], words[0])).all()


def test_what_is_taken_from_other_weights_is_said(trained, run, tmp_path):
    given = ["--target-columns", "carbons", "--split", "part", "--epochs", 1, "--ensemble-size", 1]
    given += ["--init_from", trained / "model_0.ckpt"]
    arguments = ["train", "-i", trained.parent / "mine.csv", *given]
    code, out, err = run(*arguments, "-o", tmp_path / "model")
    assert code == 0, err
    assert "Taken from the other run: " in out
    message = refused(run(*arguments, "-o", tmp_path / "other", "--model.network.hidden_channels", 32))
    assert "fit into this one; give it the same widths and blocks" in message
    assert not (tmp_path / "other").exists()


def test_the_configuration_is_one_for_fit(trained, run, tmp_path):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["data"]["init_args"]["target_columns"] == ["carbons", "size"]
    places = ["--data.cache", tmp_path, "--trainer.default_root_dir", tmp_path]
    code, _, err = run("fit", "--config", trained / "config.yaml", "--trainer.fast_dev_run", "true", *places)
    assert code == 0, err


@pytest.mark.parametrize(
    ("targets", "task", "metric", "columns"),
    [
        (["aromatic"], "classification", "roc_auc", ["aromatic", "predicted_aromatic"]),
        (
            ["ring", "--task-type", "multiclass"],
            "multiclass",
            "accuracy",
            ["class", *(f"predicted_{name}" for name in ("alkane", "arene", "chain", "ether"))],
        ),
    ],
)
def test_classes_are_scored_as_such(run, tmp_path, targets, task, metric, columns):
    given = ["--target-columns", *targets, "--split", "part", "--epochs", 1, "--ensemble-size", 1]
    code, out, err = run("train", "-i", made_up(tmp_path), "-o", tmp_path / "model", *given)
    assert code == 0, err
    assert task in out
    table = pd.read_csv(tmp_path / "model" / "test_predictions.csv")
    assert table.columns.tolist() == ["row", "smiles", *columns]
    metrics = pd.read_csv(tmp_path / "model" / "metrics.csv").set_index("model")
    assert metrics.columns[1] == metric
    assert metrics.loc["random forest", metric] > metrics.loc[baseline_name(metric), metric]
    if task == "multiclass":
        probabilities = table.filter(like="predicted_")
        likeliest = probabilities.idxmax(axis=1).str.removeprefix("predicted_")
        assert metrics.loc["ensemble", metric] == pytest.approx((likeliest == table["class"]).mean())
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_any_option_of_fit_holds_for_all_networks(run, tmp_path):
    given = ["--target-columns", "carbons", "--split", "part", "--epochs", 2, "--ensemble-size", 1]
    given += ["--model.network", "GIN", "--model.network.hidden_channels", 16, "--model.mixup=1"]
    given += ["--data.unit", "atoms", "--patience", 1, "--test_epoch", "last"]
    code, out, err = run("train", "-i", made_up(tmp_path), "-o", tmp_path / "model", *given)
    assert code == 0, err
    assert "mine in atoms" in out
    config = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert config["model"]["network"]["class_path"].endswith("GIN")
    assert config["model"]["network"]["init_args"]["hidden_channels"] == 16
    assert config["model"]["mixup"] == 1
    assert config["patience"] == 1
    assert config["data"]["init_args"]["target_columns"] == ["carbons"]
    assert config["trainer"]["max_epochs"] == 2
    checkpoint = read_checkpoint(tmp_path / "model" / "model_0.ckpt")
    assert checkpoint["hyper_parameters"]["network"]["init_args"]["hidden_channels"] == 16
    assert checkpoint["epoch"] == 1  # the last


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model.network.hidden_chanels", 16], "hidden_chanels"),
        (["--model.learning_rate", "high"], "learning_rate"),
        (["--ensemble_size", 2], "--ensemble_size"),
        (["--data.foo", 2], "foo"),
        (["--patience", 0], "--patience must be at least 1"),
        (["stray"], "stray"),
        (["--trainer.logger", "false"], "--trainer.logger is for fit"),
        (["--trainer.fast_dev_run", "true"], "--trainer.fast_dev_run is for fit"),
        (["--trainer.enable_checkpointing", "false"], "--trainer.enable_checkpointing is for fit"),
        (["--trainer.callbacks+=ModelCheckpoint"], "A ModelCheckpoint is for fit"),
        (["--trainer.limit_val_batches", 0], "pass --test_epoch last"),
        (["--trainer.check_val_every_n_epoch", 3], "check_val_every_n_epoch must be at most 2"),
        (["--split", "part_balanced"], "'part_balanced'"),
    ],
)
def test_an_option_that_fit_does_not_have_is_refused_before_anything_is_trained(
    run, tmp_path, monkeypatch, options, sentence
):
    monkeypatch.setattr(GraphTask, "training_step", None)
    given = ["--target-columns", "carbons", *QUICK, *options]
    assert sentence in refused(run("train", "-i", made_up(tmp_path), "-o", tmp_path / "model", *given))
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv"}


def test_a_split_without_test_rows_is_for_fit_and_validate_only(run, tmp_path):
    table = pd.read_csv(made_up(tmp_path))
    table["part"] = table["part"].replace("test", "train")
    table.to_csv(tmp_path / "mine.csv", index=False)
    lack = "The test part of the split of 59 graphs is empty, as column 'part' names no row for it"
    given = ["--target-columns", "carbons", "--split", "part", *QUICK]
    assert lack in refused(run("train", "-i", tmp_path / "mine.csv", "-o", tmp_path / "model", *given))
    data = {"path": tmp_path / "mine.csv", "target_columns": "carbons", "split": "part", "cache": tmp_path}
    options = ["--config", "table", "--trainer.default_root_dir", tmp_path / "runs"]
    options += [part for name, value in data.items() for part in (f"--data.{name}", value)]
    small = ["--model.network.hidden_channels", 8, "--model.network.num_layers", 2]
    code, out, err = run("fit", *options, *small, "--trainer.max_epochs", 2)
    assert code == 0, err
    assert "The split has no test rows: nothing was tested." in out
    [best] = (tmp_path / "runs").rglob("best-*.ckpt")
    code, out, err = run("validate", *options, *small, "--ckpt_path", best)
    assert code == 0, err
    assert "val/rmse" in out
    assert lack in refused(run("test", *options, *small, "--ckpt_path", best))
    sizes = [*options, "--data.split", "scaffold", "--data.path", tmp_path / "one.csv"]
    table.assign(smiles="c1ccccc1").to_csv(tmp_path / "one.csv", index=False)
    assert "part of the split of 60 graphs is empty" in refused(run("fit", *sizes))  # which nobody has chosen


def test_another_folder_is_not_touched(trained, run):
    table, place = trained.parent / "mine.csv", trained.parent
    before = (trained / "metrics.csv").read_bytes()
    given = ["--target-columns", "carbons", *QUICK]
    assert "holds other files" in refused(run("train", "-i", table, "-o", place, "--overwrite", *given))
    assert "is a file" in refused(run("train", "-i", table, "-o", table, *given))
    assert "--overwrite" in refused(run("train", "-i", table, "-o", trained, *given))
    missing = refused(run("train", "-i", table, "-o", trained, "--overwrite", "--target-columns", "carbon"))
    assert "'carbon'" in missing
    assert "'carbons'" in missing
    assert {path.name for path in place.iterdir()} == {"mine.csv", "model"}
    assert (trained / "metrics.csv").read_bytes() == before


def test_overwrite_replaces_a_folder_of_networks(run, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.yaml", "model_0.ckpt", "model_1.ckpt"):
        (folder / name).touch()
    given = ["--target-columns", "carbons", "--epochs", 1, "--ensemble-size", 1, "--overwrite"]
    code, _, err = run("train", "-i", made_up(tmp_path), "-o", folder, *given)
    assert code == 0, err
    assert {path.name for path in folder.iterdir()} == FILES - {"model_1.ckpt"}
    assert (folder / "model_0.ckpt").stat().st_size > 0


def test_a_folder_without_checkpoints_does_not_predict(run, tmp_path):
    given = ["-i", "-", "--model-paths", tmp_path, "-o", "-"]
    assert str(tmp_path) in refused(run("predict", *given))


def test_the_forest_reads_counts():
    counts = count_fingerprints(map(read_smiles, ["CCCCCCCC", "C"]))
    assert counts.shape == (2, 2048)
    assert counts[0].max() > 1
    assert counts.sum(1).tolist() == [8 + 8 + 6, 1]


def test_a_tree_draws_no_more_rows_than_have_the_target(tmp_path):
    """Of the first target all rows are known, of the second a few."""
    module = CSV(made_up(tmp_path), target_columns=["carbons", "size"], split="random", cache=tmp_path)
    module.prepare_data()
    module.setup()
    features = count_fingerprints(map(read_smiles, module.dataset.smiles))
    settings = {"n_estimators": 5, "random_state": 0}
    known = len(module.rows.train)
    as_all = forest_predictions(module, features, max_samples=known, **settings)
    assert torch.equal(as_all[:, 1], forest_predictions(module, features, **settings)[:, 1])


@pytest.mark.parametrize(("rows", "epochs"), [(100, 100), (800, 25), (12_000, 15), (1_000_000, 15)])
def test_what_is_trained_suits_the_number_of_rows(rows, epochs, tmp_path):
    config = train.configure(tmp_path, {}, 0, None, ["--model.network.mode", "P"])
    train.suit_rows(config, rows)
    assert config["trainer"]["max_epochs"] == epochs
    config["trainer"]["max_epochs"] = 7
    train.suit_rows(config, rows)
    assert config["trainer"]["max_epochs"] == 7
