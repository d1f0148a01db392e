"""Runs a compiled kernel over ranges of blocks on as many threads as torch uses."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch
from numpy.typing import NDArray

#: Below this much work a second thread costs more than it saves (multiply-adds).
_WORK_PER_THREAD = 200_000

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock nobody will release."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _workers() -> ThreadPoolExecutor:
    """The threads shared by all callers; any number of Python threads may hand them work."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="plstm_graph")
        return _pool


def run_over_blocks(kernel: Callable[[int, int], None], work: NDArray[np.float64]) -> None:
    """Call ``kernel(first, last)`` on ranges that cover all blocks and share out ``work`` [B] evenly.

    The ranges decide who computes a block, never how: results do not depend on the thread count.
    """
    total = np.cumsum(work)
    if len(total) == 0:
        return
    shares = int(min(torch.get_num_threads(), max(1, total[-1] // _WORK_PER_THREAD)))
    borders = np.searchsorted(total, total[-1] * np.arange(1, shares) / shares).tolist()
    ranges = [(a, b) for a, b in zip([0, *borders], [*borders, len(total)], strict=True) if a < b]
    others = [_workers().submit(kernel, *span) for span in ranges[1:]] if len(ranges) > 1 else []
    try:
        kernel(*ranges[0])
    finally:
        wait(others)  # they write to the caller's memory
    for other in others:
        other.result()
