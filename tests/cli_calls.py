"""Calls of the command line in this process: another one would import everything for seconds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from plstm_graph.commands.main import main
from plstm_graph.errors import InputError

#: Options of a network that trains in a second.
SMALL = [
    "--model.network.init_args.hidden_channels",
    "16",
    "--model.network.init_args.num_layers",
    "2",
]


@contextmanager
def torch_as_before() -> Iterator[None]:
    """Leave torch as it was: runs choose its threads and algorithms, which changes sums in the last digit."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def stop_with_a_record(sink) -> None:
    """Stand in for the ``close`` of a sink, in a run that ends when all is written, but not done."""
    sink._commit()
    raise InputError("Stopped.")


def serially(calls, jobs):
    """Stand in for ``side_by_side``, in this process."""
    yield from ((number, call()) for number, call in enumerate(calls))


def carry_out(verb: str, *arguments: object) -> None:
    """Run a verb that succeeds, for fixtures of modules."""
    with torch_as_before(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plstm-graph"])
        assert main([verb, *map(str, arguments), "--trainer.enable_progress_bar", "false"]) == 0


def fit(run, preset: str = "freesolv", epochs: int = 2, *more: str) -> tuple[int, str, str]:
    result = run("fit", "--config", preset, "--trainer.max_epochs", str(epochs), *SMALL, *more)
    assert result[0] == 0, result[2]
    return result


def refused(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1  # one sentence, no traceback
    return err
