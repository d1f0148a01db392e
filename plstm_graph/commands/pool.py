"""Runs side by side in single-threaded processes."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback

from plstm_graph.commands.fit import GraphCLI, Result
from plstm_graph.datasets.workers import start_worker
from plstm_graph.errors import InputError

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], jobs: int) -> Iterator[tuple[int, T]]:
    """Make calls in processes of their own and yield their numbers and results as they come.

    Args:
        calls: Functions without arguments that can be pickled, such as ``functools.partial``.
        jobs: How many run at a time.

    Raises:
        InputError: A process was ended from outside.
    """
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(
        max(1, min(jobs, len(calls))), mp_context=spawn, initializer=_start, initargs=(os.getpid(),)
    )
    with pool:
        waiting = {pool.submit(call): number for number, call in enumerate(calls)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A process that trained was ended from outside, most likely for want of memory; try a "
                "smaller batch or network."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fit(arguments: Sequence[str], epoch_ended: Callable[[], object] = bool) -> Result:
    """Run ``fit`` without its output, and return the outcome.

    Args:
        arguments: Options of ``fit``.
        epoch_ended: Called after every epoch.
    """

    class Watched(GraphCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            watch = LambdaCallback(on_train_epoch_end=lambda *_: epoch_ended())
            trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
            return trainer

    sys.argv = sys.argv[:1]  # LightningCLI warns when it is given arguments twice
    quiet = ["--threads", "1", "--trainer.enable_progress_bar", "false"]
    with contextlib.redirect_stdout(io.StringIO()):
        return Watched(["fit", *arguments, *quiet]).result


def _start(parent: int) -> None:
    start_worker(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a run takes minutes: Ctrl-C ends it, not only the parent
