"""Runs that go on: with their own data wherever these lie, and with no others."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out, refused

NAMES = ["logS", "active", "other"]


def table(folder, **columns):
    """Forty molecules with random targets, or these, and their part of the split."""
    draw = np.random.default_rng(0)
    parts = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    values = {"logS": draw.normal(size=40), "other": draw.normal(size=40), "active": [0, 1] * 20}
    smiles = [f"{'C' * (row % 12 + 1)}{'NO'[row % 2]}" for row in range(40)]
    path = folder / "mine.csv"
    pd.DataFrame({"smiles": smiles, "part": parts} | values | columns).to_csv(path, index=False)
    return path


def own(path, *more, target="logS", task="regression"):
    data = ["--config", "freesolv", "--data", "CSV", "--data.path", path, "--data.split", "part"]
    return [*data, "--data.target_columns", f"[{target}]", "--data.task", task, *SMALL, *more]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Folder of a run of two epochs, beside its table."""
    folder = tmp_path_factory.mktemp("begun")
    places = ["--data.cache", folder / "cache", "--trainer.default_root_dir", folder / "runs"]
    carry_out("fit", *own(table(folder), "--trainer.max_epochs", 2, *places))
    [last] = folder.rglob("last.ckpt")
    return last.parents[1]


@pytest.fixture
def copy(begun, tmp_path):
    """The same in another place."""
    return shutil.copytree(begun, tmp_path / "moved")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHER = {
    "target": ({}, {"target": "other"}, "on target 'logS', this run has 'other'"),
    "number of targets": ({}, {"target": "logS,other"}, "on target 'logS', this run has 'logS', 'other'"),
    "task": ({}, {"target": "active", "task": "classification"}, "for regression, this run is for class"),
    "values": ({"logS": np.arange(40)}, {}, "with other targets than this run has"),
    "molecules": ({"smiles": ["CCO", "CCN"] * 20}, {}, "with other graphs than this run has"),
    "split": (
        {"part": ["train", "val", "train", "test"] * 10},
        {},
        "with other rows of the split than this run has",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_a_run_does_not_go_on_with_something_else(run, tmp_path, copy, what):
    columns, options, sentence = OTHER[what]
    before = contents(tmp_path)
    last = copy / "checkpoints" / "last.ckpt"
    asked = own(table(tmp_path, **columns), "--trainer.max_epochs", "3", **options)
    message = refused(run("fit", *asked, "--ckpt_path", last))
    assert message.startswith(f"error: The checkpoint was trained {sentence}")
    assert message.endswith("; leave --ckpt_path out to train from the start.\n")
    (tmp_path / "mine.csv").unlink()
    assert contents(tmp_path) == before


def test_a_run_goes_on_elsewhere_in_other_batches_for_longer(run, tmp_path, copy):
    """Its checkpoint knows the data as long as it goes on, and one without that knowledge goes on too."""
    last = copy / "checkpoints" / "last.ckpt"
    asked = own(table(tmp_path), "--data.batch_size", "5", "--ckpt_path", last)
    digests = torch.load(last, weights_only=True)["plstm_graph_data"]
    code, _, err = run("fit", *asked, "--trainer.max_epochs", "3")
    assert code == 0, err
    after = torch.load(last, weights_only=True)
    assert after["epoch"] == 2
    assert after.pop("plstm_graph_data") == digests
    torch.save(after, last)
    code, _, err = run("fit", *asked, "--trainer.max_epochs", "4")
    assert code == 0, err
    assert torch.load(last, weights_only=True)["plstm_graph_data"] == digests


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_checkpoint_is_judged_on_other_data_of_its_targets(run, tmp_path, begun, verb):
    last = begun / "checkpoints" / "last.ckpt"
    others = table(tmp_path, logS=np.arange(40))
    code, _, err = run(verb, *own(others), "--ckpt_path", last)
    assert code == 0, err
    for target in ("other", "logS,other"):
        message = refused(run(verb, *own(others, target=target), "--ckpt_path", last))
        assert "this run has 'other'" in message or "this run has 'logS', 'other'" in message


ONE, NONE = [0, 1] * 12 + [1] * 16, [0, 1] * 12 + [None] * 8 + [0, 1] * 4


@pytest.mark.parametrize(
    ("values", "loss", "lack"), [(ONE, "validation loss", "one class"), (NONE, "training loss", "no label")]
)
def test_a_loss_selects_the_epoch_where_labels_cannot(run, tmp_path, values, loss, lack):
    options = {"target": "active", "task": "classification"}
    settings = ["--trainer.max_epochs", "6", "--model.learning_rate", "1", "--model.warmup", "1"]
    quiet = ["--trainer.enable_progress_bar", "false"]
    asked = own(table(tmp_path, active=values), *settings, *quiet, "--patience", "1", **options)
    code, out, err = run("fit", *asked)
    assert code == 0, err
    assert err == (
        f"warning: Target 'active' has {lack} in the validation graphs, which leaves roc_auc undefined: the "
        f"{loss} selects the epoch.\n"
    )
    assert "nan" not in out
    assert out.count("undefined") == (4 if values is ONE else 0)  # so is the test of both metrics and models
    [log] = tmp_path.rglob("metrics.csv")
    column = {"validation loss": "val/loss", "training loss": "train/loss"}[loss]
    losses = pd.read_csv(log)[column].dropna()
    best, stopped = int(losses.argmin()), len(losses) - 1
    assert f"best {loss} {losses.min():.3f}" in out
    assert [path.name for path in tmp_path.rglob("best-*.ckpt")] == [f"best-{best}.ckpt"]
    assert stopped == min(best + 1, 5)  # by patience
    assert (log.parent / "learning_curve.png").is_file()
