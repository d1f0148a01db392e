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
EPOCHS = 12


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


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, kills):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.monotonic()
    assert train(whole).wait() == 0
    duration = time.monotonic() - started

    moments = random.Random(kills)
    found: list[Path] = []
    resumed = 0
    for kill in range(kills + 1):
        process = train(broken, *(["--ckpt_path", *found] if found else []))
        try:
            wait = moments.uniform(0.5, 0.9) * duration if kill < kills else 10 * duration + 60
            assert process.wait(timeout=wait) == 0
            assert kill, "the first run ended before it could be killed"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            found = list(broken.glob("*/version_*/checkpoints/last.ckpt"))
            resumed += bool(found)
    assert resumed, "no run got as far as a checkpoint before it was killed"

    metric, weights = outcome(whole)
    metric_again, weights_again = outcome(broken)
    assert metric_again == metric
    assert weights_again.keys() == weights.keys()
    for name, values in weights.items():
        assert torch.equal(weights_again[name], values), name
