"""A run that is killed and resumed ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parent.parent
EPOCHS = 16


def train(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", "fit", "--config", "configs/freesolv.yaml"]
    command += ["--data.cache", folder.parent / "cache", "--trainer.default_root_dir", folder]
    command += ["--trainer.max_epochs", EPOCHS, "--trainer.enable_progress_bar", "false"]
    command += ["--model.network.hidden_channels", 32, *more]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL)


def outcome(folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Test metric and last weights."""
    *_, log = sorted(folder.glob("*/version_*/metrics.csv"))
    [last] = folder.glob("*/version_*/checkpoints/last.ckpt")
    assert not list(folder.rglob("*.tmp"))
    weights = torch.load(last, weights_only=True)["state_dict"]
    return pd.read_csv(log)["test/rmse"].dropna().item(), weights


def kill_after(process: subprocess.Popen, epochs: int, delay: float, folder: Path) -> None:
    """Wait for so many more epochs on the disk and a moment, then end the process without warning."""
    written, seen = 0, checkpoint_times(folder)
    while written < epochs:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
        if checkpoint_times(folder) != seen:
            written, seen = written + 1, checkpoint_times(folder)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def checkpoint_times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in folder.glob("*/version_*/checkpoints/last.ckpt")]


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, kills):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole).wait() == 0
    moments = random.Random(kills)
    for kill in range(kills + 1):
        found = list(broken.glob("*/version_*/checkpoints/last.ckpt"))
        process = train(broken, *(["--ckpt_path", *found] if found else []))
        if kill < kills:
            kill_after(process, moments.randint(1, 2), moments.uniform(0, 0.3), broken)
    assert process.wait() == 0
    assert "--ckpt_path" in process.args

    metric, weights = outcome(whole)
    metric_again, weights_again = outcome(broken)
    assert metric_again == metric
    assert weights_again.keys() == weights.keys()
    for name, values in weights.items():
        assert torch.equal(weights_again[name], values), name
