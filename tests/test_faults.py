"""Whatever breaks while a network is trained: the next start goes on as if nothing had, or says what to do.

``TRUST=full`` kills twenty times in place of twice, and damages files in more ways.
"""

import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from cli_runs import FULL, finish, refusal, start

from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.datasets import FreeSolv
from plstm_graph.datasets.cache import load_graphs
from plstm_graph.errors import InputError

#: Roots are drawn in every step, as dropout is: a run that goes on has to draw what it would have drawn.
RUN = ["--trainer.max_epochs", "48" if FULL else "12", "--model.network.init_args.roots", "2"]
KILLS = 20 if FULL else 2


def outcome(folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Test metric and last weights."""
    *_, log = sorted(folder.glob("*/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    weights = torch.load(last_checkpoint(folder)[0], weights_only=True)["state_dict"]
    return pd.read_csv(log)["test/rmse"].dropna().item(), weights


def last_checkpoint(folder: Path) -> list[Path]:
    return list(folder.glob("*/version_*/checkpoints/last.ckpt"))


def resumed(folder: Path, *more: object) -> subprocess.Popen:
    """Go on where the run in this folder was, or begin it."""
    found = last_checkpoint(folder)
    return start("fit", folder, *RUN, *(["--ckpt_path", *found] if found else []), *more)


def same_outcome(one: Path, other: Path) -> None:
    metric, weights = outcome(one)
    metric_again, weights_again = outcome(other)
    assert metric_again == metric
    assert weights_again.keys() == weights.keys()
    for name, values in weights.items():
        assert torch.equal(weights_again[name], values), name


def wait_for(happened, process: subprocess.Popen) -> bool:
    """Wait until something is seen, or the run has ended."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.001)
    return False


def end_of_epochs(folder: Path, count: int):
    """Whether so many more epochs are on the disk."""

    def written() -> list[int]:
        return [path.stat().st_mtime_ns for path in last_checkpoint(folder)]

    seen = {tuple(written())}

    def happened() -> bool:
        seen.add(tuple(written()))
        return len(seen) > count

    return happened


def within_a_write(folder: Path):
    """Whether a checkpoint is being written."""
    return lambda: any(folder.rglob("*.unfinished"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbs, with a cache beside it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start("fit", folder, *RUN))
    return folder


@pytest.fixture
def cached(whole, tmp_path) -> Path:
    """A folder with a copy of the prepared graphs."""
    shutil.copytree(whole.parent / "cache", tmp_path / "cache")
    return tmp_path


def test_a_killed_run_ends_as_an_unbroken_one(whole, cached, record_property):
    folder, draw = cached / "run", random.Random(0)
    kills = writes = 0
    while kills < KILLS:
        process = resumed(folder)
        if kills % 2:
            seen = wait_for(within_a_write(folder), process)
        else:
            seen = wait_for(end_of_epochs(folder, draw.randint(1, 2)), process)
            time.sleep(draw.uniform(0, 0.3))
        process.kill()
        _, err = process.communicate()
        assert seen, err or "the run ended before it could be killed so often"
        assert process.returncode == -signal.SIGKILL
        kills += 1
        writes += any(folder.rglob("*.unfinished"))
        for path in folder.rglob("*.ckpt"):
            read_checkpoint(path)
    finish(resumed(folder))
    assert not list(folder.rglob("*.unfinished"))
    same_outcome(whole, folder)
    record_property(
        "trust", f"{kills} kills, {writes} within the write of a checkpoint: the same weights to the bit"
    )


def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(whole, cached, record_property):
    folder = cached / "run"
    process = resumed(folder)
    assert wait_for(end_of_epochs(folder, 2), process)
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (50_000, 50_000))
    message = refusal(process)
    assert ".ckpt cannot be written: File too large" in message
    assert not list(folder.rglob("*.unfinished"))
    for path in folder.rglob("*.ckpt"):
        read_checkpoint(path)
    finish(resumed(folder))
    same_outcome(whole, folder)
    record_property("trust", "full disk within an epoch: one sentence, then the same weights to the bit")


def test_graphs_that_find_no_room_leave_nothing(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    message = refusal(start("fit", tmp_path / "run", preexec_fn=limit))
    assert "cannot be written: File too large" in message
    assert not list((tmp_path / "cache").iterdir())


def test_a_run_whose_loader_dies_goes_on(whole, cached, record_property):
    folder = cached / "run"
    process = resumed(folder, "--data.num_workers", 1)
    assert wait_for(end_of_epochs(folder, 1), process)
    loaders = psutil.Process(process.pid).children(recursive=True)
    assert loaders
    for loader in loaders:
        loader.kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    finish(resumed(folder))
    same_outcome(whole, folder)
    record_property("trust", "killed loader: the run ends, then the same weights to the bit")


def test_two_runs_may_share_an_empty_cache(whole, tmp_path, record_property):
    both = [start("fit", tmp_path / name, *RUN) for name in ("one", "two")]
    for process in both:
        finish(process)
    for name in ("one", "two"):
        same_outcome(whole, tmp_path / name)
    [prepared] = (tmp_path / "cache").iterdir()
    assert prepared.read_bytes() == next((whole.parent / "cache").iterdir()).read_bytes()
    record_property("trust", "two runs that fill one cache at a time: the same weights to the bit")


def test_damaged_graphs_are_noticed(whole, tmp_path, record_property):
    [prepared] = (whole.parent / "cache").iterdir()
    content, draw = prepared.read_bytes(), random.Random(0)
    damaged = {"empty": b"", "text": b"graphs", "cut in half": content[: len(content) // 2]}
    for number in range(1000 if FULL else 50):
        at = draw.randrange(len(content))
        damaged[f"cut at {at}"] = content[:at]
        flipped = bytearray(content)
        flipped[at] ^= 1 << draw.randrange(8)
        damaged[f"bit at {at} flipped"] = bytes(flipped)
        if number % 10 == 0:
            damaged[f"zeros at {at}"] = content[:at] + bytes(len(content) - at)
    file, found, harmless = tmp_path / "graphs.pt", 0, 0
    wanted = load_graphs(prepared)
    for what, bytes_ in damaged.items():
        file.write_bytes(bytes_)
        read, reason = None, ""
        try:
            read = load_graphs(file)
        except InputError as error:
            reason = str(error)
        if read is None:
            assert f"{file} are damaged" in reason, what
            assert "delete the file" in reason, what
            found += 1
        else:  # between the archive's parts, where nothing is read from
            assert all(torch.equal(read.tensors[key], value) for key, value in wanted.tensors.items()), what
            harmless += 1
    assert found > 0.9 * len(damaged)
    record_property(
        "trust", f"{len(damaged)} damaged files of graphs: {found} refused, {harmless} read and whole"
    )


def test_a_run_with_damaged_graphs_says_what_to_delete(whole, cached):
    [prepared] = (cached / "cache").iterdir()
    content = bytearray(prepared.read_bytes())
    content[len(content) // 2] ^= 1
    prepared.write_bytes(content)
    assert f"{prepared} are damaged" in refusal(resumed(cached / "run"))
    prepared.unlink()
    finish(resumed(cached / "run"))
    same_outcome(whole, cached / "run")


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    module = FreeSolv(cache=tmp_path / "file" / "cache")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        module.prepare_data()
