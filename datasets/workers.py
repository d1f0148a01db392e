"""Calls in worker processes, in order and with a bounded look-ahead."""

import atexit
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import parent_process
from typing import TypeVar

from plstm_graph.errors import InputError

#: Calls that wait for a worker, beyond those that are being worked on.
_AHEAD = 2

Key = TypeVar("Key")
Result = TypeVar("Result")


class Workers:
    """Processes that make calls. They take seconds to start, and do so while their owner goes on.

    Args:
        number: How many; 0 makes the calls here.
        module: Module to load in them first, the one of the calls' function.
    """

    def __init__(self, number: int, module: str) -> None:
        self.number = number
        if number:
            from joblib.externals.loky.backend import get_context  # which takes a tenth of a second

            # Workers start afresh: a fork of a process with threads may hang. multiprocessing's own way to do
            # that, "spawn", runs the user's script again.
            self._pool = ProcessPoolExecutor(
                number, get_context("loky"), initializer=_start, initargs=(os.getpid(), module)
            )
            self._ready = self._pool.submit(os.getpid)

    def in_order(
        self, function: Callable[..., Result], calls: Iterable[tuple[Key, tuple]]
    ) -> Generator[tuple[Key, Result], None, None]:
        """Make calls and yield their results in order, looking ahead by a few calls only.

        Args:
            function: A function of a module, which processes can find by its name.
            calls: A key, which comes back with the result, and the arguments of every call.

        Raises:
            InputError: A worker was ended from outside.
        """
        if not self.number:
            yield from ((key, function(*arguments)) for key, arguments in calls)
            return
        waiting: deque[tuple[Key, Future[Result]]] = deque()
        try:
            for key, arguments in calls:
                if not waiting and not self._ready.done():
                    yield key, function(*arguments)  # no worker has started
                    continue
                waiting.append((key, self._pool.submit(function, *arguments)))
                if len(waiting) == self.number + _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A worker process was ended from outside, most likely for want of memory; try fewer."
            ) from error

    def close(self) -> None:
        """Have the processes end."""
        if self.number:
            self._pool.shutdown(wait=False, cancel_futures=True)


def start_worker(parent: int) -> None:
    """Take one thread, and end with the parent, even if that is killed and cannot say so."""
    import torch  # here, lest an owner of workers loads it before they start

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair

    def watch() -> None:
        if sys.platform == "win32":  # where a process keeps the number of a parent that has ended
            parent_process().join()
        else:
            while os.getppid() == parent:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(parent: int, module: str) -> None:
    start_worker(parent)
    import_module(module)
    atexit.register(os._exit, 0)  # an orderly end takes a second, for which the parent would wait
