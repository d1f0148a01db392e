"""What a run leaves in its checkpoints, and what other runs make of them."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from cli_calls import SMALL, fit, refused

from plstm_graph.models import GINE
from plstm_graph.task import GraphTask


def test_a_run_resumes_where_it_stopped(run, tmp_path):
    fit(run, "freesolv", 2)
    checkpoints = tmp_path / "runs" / "freesolv-plstm" / "version_0" / "checkpoints"
    last = checkpoints / "last.ckpt"
    before = torch.load(last, weights_only=True)
    fit(run, "freesolv", 3, "--ckpt_path", str(last))
    log = pd.read_csv(tmp_path / "runs" / "freesolv-plstm" / "version_1" / "metrics.csv")
    assert log["epoch"][log["train/loss"].notna()].tolist() == [2]
    after = torch.load(last, weights_only=True)
    assert after["global_step"] == before["global_step"] * 3 // 2
    scale = "target_mean"
    assert torch.equal(before["state_dict"][scale], after["state_dict"][scale])


def test_a_checkpoint_keeps_its_model(run, tmp_path):
    fit(run, "freesolv", 1)
    [last] = tmp_path.rglob("last.ckpt")
    known = ["fit", "--config", "freesolv", "--ckpt_path", last]
    for other in (["learning_rate", "0.5"], ["network.hidden_channels", "8"], ["network", "GIN"]):
        message = refused(run(*known, f"--model.{other[0]}", other[1]))
        assert f"--model.{other[0]} is {other[1]}, but the checkpoint's model has " in message
    same = ["--model.network", "PLSTM", "--model.network.init_args.hidden_channels=16"]
    fit(run, "freesolv", 2, "--ckpt_path", str(last), *same)


def test_a_resumed_run_knows_which_epoch_was_best(run, tmp_path, monkeypatch):
    """Two epochs are equally good, since they leave the weights; the third, in a moved folder, has others."""
    monkeypatch.chdir(tmp_path)
    still = ["--model.learning_rate", "1e-30"]
    folder = Path("runs", "freesolv-plstm", "version_0", "checkpoints")
    fit(run, "freesolv", 2, *still)
    assert sorted(path.name for path in folder.iterdir()) == ["best-1.ckpt", "last.ckpt"]
    Path("runs").rename("moved")
    moved = Path("moved", *folder.parts[1:])
    checkpoint = torch.load(moved / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.predictors.0.3.bias"] += 10
    torch.save(checkpoint, moved / "last.ckpt")
    fit(run, "freesolv", 3, *still, "--ckpt_path", str(moved / "last.ckpt"))
    assert sorted(path.name for path in moved.iterdir()) == ["best-1.ckpt", "last.ckpt"]
    assert torch.load(moved / "last.ckpt", weights_only=True)["epoch"] == 2


def test_a_checkpoint_brings_its_own_network(run, tmp_path):
    fit(run, "freesolv_gine", 1)
    best = next((tmp_path / "runs" / "freesolv-gine").rglob("best*.ckpt"))
    assert type(GraphTask.load_from_checkpoint(best).network) is GINE
    code, _, err = run("validate", "--config", "freesolv", "--ckpt_path", best)
    assert code == 0, err


def test_averaged_weights_are_validated_tested_and_kept(run, tmp_path):
    fit(run, "freesolv", 2, "--trainer.callbacks", "EMAWeightAveraging")
    [best] = tmp_path.rglob("best-*.ckpt")
    config = best.parents[1] / "config.yaml"
    code, again, err = run("test", "--config", config, "--ckpt_path", best)
    assert code == 0, err
    assert "averag" not in err
    log = pd.read_csv(best.parents[1] / "metrics.csv")
    tested = log["test/rmse"].dropna().item()
    assert float(re.search(r"test/rmse\D*([\d.]+)", again)[1]) == pytest.approx(tested, rel=1e-5)
    code, again, err = run("validate", "--config", config, "--ckpt_path", best)
    assert code == 0, err
    validated = float(re.search(r"val/rmse\D*([\d.]+)", again)[1])
    assert validated == pytest.approx(log["val/rmse"].min(), rel=1e-5)


@pytest.mark.parametrize(
    "average", [[], ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.5"]]
)
def test_the_last_epoch_is_tested_if_asked(run, tmp_path, average):
    rising = ["--model.learning_rate", "0.1", "--model.warmup", "1"]  # too much in the second epoch
    options = ["--test_epoch", "last", *rising, *average]
    _, out, _ = fit(run, "freesolv", 2, *options)
    [last] = tmp_path.rglob("last.ckpt")
    assert f"Last checkpoint: {last}" in out.replace("\n", "")
    log = pd.read_csv(last.parents[1] / "metrics.csv")
    validated = log["val/rmse"].dropna()
    assert validated.iloc[-1] > validated.min()  # another epoch was best
    assert f"last validation rmse {validated.iloc[-1]:.3f}" in out
    config = last.parents[1] / "config.yaml"
    # A run that was killed between its last epoch and its test has nothing left to train.
    _, again, _ = fit(run, "freesolv", 2, *options, "--ckpt_path", last)
    outcome = re.compile("│ rmse.*|last validation.*")
    assert outcome.findall(again) == outcome.findall(out)
    assert len(outcome.findall(out)) == 2
    for verb, column in (("test", log["test/rmse"]), ("validate", validated)):
        code, again, err = run(verb, "--config", config, "--ckpt_path", last)
        assert code == 0, err
        shown = float(re.search(rf"{column.name}\D*([\d.]+)", again)[1])
        assert shown == pytest.approx(column.dropna().iloc[-1], rel=1e-5)


def test_the_last_epoch_is_tested_from_the_runs_own_checkpoints(run):
    config = "freesolv"
    own = ["--trainer.callbacks", "ModelCheckpoint", "--test_epoch", "last"]
    assert "leave ModelCheckpoint out" in refused(run("fit", "--config", config, *SMALL, *own))
