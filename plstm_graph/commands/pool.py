"""Runs side by side in single-threaded processes, or one after another in this one."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml

from plstm_graph.datasets.workers import start_worker
from plstm_graph.errors import InputError

# Its import sets what is logged and warned of, which a process of somebody else's only gets for a run.
if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from plstm_graph.commands.fit import GraphCLI
    from plstm_graph.commands.report import Result

T = TypeVar("T")

_RUN = threading.RLock()  # runs in this process share its standard output, arguments and environment


def side_by_side(calls: Sequence[Callable[[], T]], jobs: int) -> Iterator[tuple[int, T]]:
    """Make calls in processes of their own and yield their numbers and results as they come.

    Args:
        calls: Functions without arguments that can be pickled, such as ``functools.partial``.
        jobs: How many run at a time.

    Raises:
        InputError: A process was ended from outside.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    # A fork would not have torch's threads; multiprocessing's "spawn" runs the user's script again.
    with ProcessPoolExecutor(
        max(1, min(jobs, len(calls))), initializer=_start, initargs=(os.getpid(),)
    ) as pool:
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
            pool.shutdown(kill_workers=True)
            raise


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Keep what runs change in this process to the block, and other threads' runs out of it.

    These are random states, torch's threads and choice of algorithms, arguments, environment, the answer to
    Ctrl-C, warnings and levels of logging.
    """
    import lightning.pytorch  # noqa: F401 - which sets levels of its own
    from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states

    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.get_deterministic_debug_mode()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    arguments, environment, answer = sys.argv, dict(os.environ), signal.getsignal(signal.SIGINT)
    with _RUN, warnings.catch_warnings():
        states = _collect_rng_states()
        warnings.filterwarnings("ignore", module=r"(lightning|torch)\b")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        except SystemExit as error:  # into which Lightning turns what Ctrl-C raises
            raise KeyboardInterrupt from error
        finally:
            _set_rng_states(states)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(deterministic)
            torch.backends.cudnn.benchmark = benchmark
            sys.argv = arguments
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, answer)


def fit(arguments: Sequence[str], epoch_ended: Callable[[], object] = bool) -> Result:
    """Run ``fit`` without its output, and return the outcome.

    Args:
        arguments: Options of ``fit``.
        epoch_ended: Called after every epoch.
    """
    return fitted(arguments, epoch_ended).result


def fitted(arguments: Sequence[str], epoch_ended: Callable[[], object] = bool) -> GraphCLI:
    """Likewise, and return the command, with its data and the network that was tested."""
    from lightning.pytorch.callbacks import LambdaCallback

    from plstm_graph.commands.fit import GraphCLI

    class Watched(GraphCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            watch = LambdaCallback(on_train_epoch_end=lambda *_: epoch_ended())
            trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
            return trainer

    sys.argv = sys.argv[:1]  # LightningCLI warns when it is given arguments twice
    quiet = ["--threads", "1", "--trainer.enable_progress_bar", "false"]
    with contextlib.redirect_stdout(io.StringIO()):
        return Watched(["fit", *arguments, *quiet])


def check(arguments: Sequence[str]) -> GraphCLI:
    """Build what ``fit`` would train, and train nothing.

    Returns:
        The command, with its data and network.

    Raises:
        InputError: There is no such option, it takes no such value, or values do not fit together.
    """
    from plstm_graph.commands.fit import GraphCLI

    class Untrained(GraphCLI):
        def instantiate_trainer(self, **_: Any) -> Any:
            return None

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    sys.argv = sys.argv[:1]
    return Untrained(["fit", *arguments])


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that options of ``fit`` and its configuration files make together, but for defaults.

    Raises:
        InputError: There is no such option, or it takes no such value.
    """
    from plstm_graph.commands.fit import GraphCLI

    sys.argv = sys.argv[:1]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        GraphCLI(["fit", *arguments, "--print_config=skip_default"])
    return yaml.safe_load(printed.getvalue())


def _start(parent: int) -> None:
    start_worker(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a run takes minutes: Ctrl-C ends it, not only the parent
