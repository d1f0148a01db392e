"""Calls in worker processes, in order and with a bounded look-ahead."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

from plstm_graph.errors import InputError

#: Calls that wait for a worker, beyond those that are being worked on.
_AHEAD = 2

Key = TypeVar("Key")
Result = TypeVar("Result")


def in_order(
    function: Callable[..., Result], calls: Iterable[tuple[Key, tuple]], workers: int
) -> Generator[tuple[Key, Result], None, None]:
    """Make calls in worker processes and yield their results in order, looking ahead by a few calls only.

    Args:
        function: A function of a module, which processes can find by its name.
        calls: A key, which comes back with the result, and the arguments of every call.
        workers: Processes; 0 makes the calls here.

    Raises:
        InputError: a worker was ended from outside, or none can start.
    """
    if not workers:
        yield from ((key, function(*arguments)) for key, arguments in calls)
        return
    # Workers start afresh: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=start_worker, initargs=(os.getpid(),)
    )
    waiting: deque[tuple[Key, Future[Result]]] = deque()
    try:
        ready = pool.submit(os.getpid)
        for key, arguments in calls:
            if not waiting and not ready.done():
                yield key, function(*arguments)  # no worker has started, which takes seconds
                continue
            waiting.append((key, pool.submit(function, *arguments)))
            if len(waiting) == workers + _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        if ready.exception() is None:
            text = "A worker process was ended from outside, most likely for want of memory; try fewer."
        else:  # it ended before its first call; workers import the script that started them
            text = 'No worker process could start; a script must do its work under if __name__ == "__main__".'
        raise InputError(text) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def start_worker(parent: int) -> None:
    """Take one thread, and end with the parent, even if that is killed and cannot say so."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
