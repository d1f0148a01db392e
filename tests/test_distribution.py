"""Two processes on one machine, connected by gloo, against one."""

import signal
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from cli_calls import carry_out
from cli_runs import finish, start

TWO = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
SAME = ["--trainer.accelerator", "cpu", "--model.network.dropout", 0]


def first_gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Adam's first moments after one step: a tenth of the gradients."""
    [last] = folder.glob("*/version_0/checkpoints/last.ckpt")
    [optimizer] = torch.load(last, weights_only=True)["optimizer_states"]
    return {number: moments["exp_avg"] for number, moments in optimizer["state"].items()}


def logged(folder: Path) -> dict[str, float]:
    [log] = folder.glob("*/version_0/metrics.csv")
    return pd.read_csv(log).max().to_dict()  # every value stands in a row of its own


def test_two_processes_have_the_gradients_of_the_doubled_batch(tmp_path, record_property):
    step = ["--trainer.max_steps", "1", "--trainer.gradient_clip_val", "0", "--trainer.precision", "64-true"]
    finish(start("fit", tmp_path / "one", *SAME, *step, "--data.batch_size", "64"))
    finish(start("fit", tmp_path / "two", *SAME, *step, "--data.batch_size", "32", *TWO))
    one, two = first_gradients(tmp_path / "one"), first_gradients(tmp_path / "two")
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    error = max(float((one[number] - two[number]).abs().max()) for number in one) / largest
    assert largest > 0
    assert error < 1e-12
    record_property(
        "trust", f"gradients of two gloo processes and of one with the doubled batch: {error:.1e} apart"
    )


def test_metrics_count_every_graph_once(tmp_path):
    # 64 and 65 molecules in batches of 7: the shares' last batches are shorter, and of two lengths.
    small = ["--data.batch_size", "7"]
    finish(start("fit", tmp_path / "two", "--trainer.max_epochs", "1", *SAME, *small, *TWO))
    two = logged(tmp_path / "two")
    [last] = (tmp_path / "two").glob("*/version_0/checkpoints/last.ckpt")
    for verb, part in (("validate", "val"), ("test", "test")):
        places = ["--trainer.default_root_dir", tmp_path / verb, "--data.cache", tmp_path / "cache"]
        carry_out(verb, "--config", "freesolv", "--threads", 1, "--ckpt_path", last, *places, *SAME, *small)
        one = {name: value for name, value in logged(tmp_path / verb).items() if name.startswith(part)}
        assert one.keys() == {f"{part}/loss", f"{part}/rmse", f"{part}/mae", f"{part}/spearman"}
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_run_with_an_error(tmp_path, rank, record_property):
    process = start("fit", tmp_path / "run", "--trainer.max_epochs", "100000", *SAME, *TWO)
    while not list(tmp_path.glob("run/*/version_0/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    other = next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("LOCAL_RANK") == "1"
    )
    killed, left = (process, other) if rank == 0 else (other, process)
    killed_at = time.monotonic()
    killed.send_signal(signal.SIGKILL)
    left.wait(timeout=60)
    process.communicate(timeout=60)
    assert process.returncode != 0
    seconds = time.monotonic() - killed_at
    record_property("trust", f"rank {rank} of two killed: the run ended with an error {seconds:.0f} s later")
