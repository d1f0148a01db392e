"""Runs a compiled kernel over ranges of blocks, or of their heads, on as many threads as torch uses."""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Below this much work a second thread costs more than it saves (multiply-adds).
_WORK_PER_THREAD = 200_000

#: Ranges that each thread takes on average.
_RANGES_PER_THREAD = 4

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None

#: GNU OpenMP's call of a function by all threads of a team, if torch has brought that. Torch's own team waits
#: for more work without giving up its cores, so that threads of another pool would have to wait for these.
_call_by_team: Any = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None
_TeamFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock nobody will release."""
    global _pool, _lock, _call_by_team
    _pool, _lock, _call_by_team = None, threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _workers() -> ThreadPoolExecutor:
    """The threads shared by all callers; any number of Python threads may hand them work."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="plstm_graph")
        return _pool


def _run_by_pool(function: Callable[[], None], threads: int) -> None:
    """Call a function here and by threads of the pool."""
    others = [_workers().submit(function) for _ in range(threads - 1)]
    try:
        function()
    finally:
        for other in others:
            other.cancel()  # one that has not begun has nothing left to do
        wait(others)  # they write to the caller's memory
    for other in others:
        if not other.cancelled():
            other.result()


def _run_by_team(function: Callable[[], None]) -> None:
    """Call a function by all of torch's threads, this one among them."""
    errors: list[BaseException] = []

    def guarded(_: object) -> None:
        try:
            function()
        except BaseException as error:  # what calls this is not Python
            errors.append(error)

    # A team of another size than torch's would end its threads.
    _call_by_team(_TeamFunction(guarded), None, torch.get_num_threads(), 0)
    if errors:
        raise errors[0]


def run_over_ranges(kernel: Callable[[int, int], None], work: NDArray[np.float64]) -> None:
    """Call ``kernel(first, last)`` on ranges that cover all items and share out their ``work`` evenly.

    Threads take range after range, so that one that another process keeps waiting holds up nobody. The
    ranges decide who computes an item, never how: results do not depend on the thread count.
    """
    total = np.cumsum(work)
    if len(total) == 0:
        return
    threads = int(min(torch.get_num_threads(), max(1, total[-1] // _WORK_PER_THREAD)))
    shares = 1 if threads == 1 else _RANGES_PER_THREAD * threads
    borders = np.searchsorted(total, total[-1] * np.arange(1, shares) / shares).tolist()
    ranges = deque((a, b) for a, b in zip([0, *borders], [*borders, len(total)], strict=True) if a < b)

    def take_ranges() -> None:
        while True:
            try:
                first, last = ranges.popleft()
            except IndexError:
                return
            kernel(first, last)

    if threads == 1:
        take_ranges()
    elif _call_by_team is None:
        _run_by_pool(take_ranges, threads)
    else:
        _run_by_team(take_ranges)
