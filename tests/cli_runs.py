"""Runs of the command line in processes of their own, which tests may kill."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Whether to try as much as `make trust` does, in place of a quick slice.
FULL = os.environ.get("TRUST") == "full"


def start(verb: str, folder: Path, *more: object, **settings: object) -> subprocess.Popen:
    """Train or evaluate a small network on FreeSolv; the cache lies beside the folder."""
    command = [sys.executable, "train.py", verb, "--config", "freesolv", "--threads", 1]
    command += ["--data.cache", folder.parent / "cache", "--trainer.default_root_dir", folder]
    command += ["--trainer.enable_progress_bar", "false", "--model.network.hidden_channels", 32, *more]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that has to succeed."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err


def refusal(process: subprocess.Popen) -> str:
    """Wait for a run that has to fail with one sentence, and return it."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2, err
    *_, last = err.strip().splitlines()
    assert last.startswith("error: ")
    return last
