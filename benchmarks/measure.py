"""Times and peak memory of several candidates, measured side by side on a noisy machine."""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import plstm_graph

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

WARM_UP = 2
SLOW = 2.0  # seconds; such a call is warm after one
SHORTEST_SAMPLE = 5e-3  # seconds; a quicker call is repeated until a sample lasts this long


@dataclass
class Candidate:
    """Something to time: `forward` without gradients, `both` with them and a backward pass."""

    name: str
    forward: Callable[[], object]
    both: Callable[[], object] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int | None = None

    def calls(self) -> dict[str, Callable[[], object]]:
        calls = {"forward": self.forward, "both": self.both}
        return {name: call for name, call in calls.items() if call is not None}

    def median_ms(self, which: str) -> float | None:
        samples = self.seconds.get(which)
        return 1e3 * statistics.median(samples) if samples else None

    def ratio_to(self, other: Candidate, which: str) -> tuple[float, float, float] | None:
        """Quartiles over the rounds of this one's time by the other's in the same round."""
        pairs = zip(self.seconds.get(which, []), other.seconds.get(which, []), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs]
        if len(ratios) < 2:
            return None
        return quartiles(ratios)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile of at least one value."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, median, high


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def time_interleaved(candidates: list[Candidate], rounds: int, budget: float) -> None:
    """Fill `seconds`: in every round each candidate is timed once, in an order drawn anew.

    The order matters: who follows a large candidate finds the caches gone. A candidate that would
    take more than `budget` seconds in all gets fewer rounds, three at least.
    """
    order = random.Random(0)
    repeats: dict[tuple[str, str], int] = {}
    allowed: dict[str, int] = {}
    for candidate in candidates:
        total = 0.0
        for which, call in candidate.calls().items():
            for _ in range(WARM_UP):
                seconds = _seconds(call, 1)
                if seconds > SLOW:
                    break
            repeats[candidate.name, which] = max(1, math.ceil(SHORTEST_SAMPLE / seconds))
            total += max(seconds, SHORTEST_SAMPLE)
            candidate.seconds[which] = []
        allowed[candidate.name] = min(rounds, max(3, int(budget / total)))
    gc.disable()  # a collection in one candidate's turn is often another's garbage
    try:
        for turn in range(rounds):
            for candidate in order.sample(candidates, len(candidates)):
                if turn < allowed[candidate.name]:
                    for which, call in candidate.calls().items():
                        sample = _seconds(call, repeats[candidate.name, which])
                        candidate.seconds[which].append(sample)
            gc.collect()
    finally:
        gc.enable()


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no line {key}.")


def peak_memory(call: Callable[[], object]) -> int | None:
    """Bytes by which the process grows at most during `call`; None where that cannot be read.

    Counts whatever is resident, the compiled kernels' own buffers too, which torch's profiler does
    not see. Freed heap is handed back to the system first, and the kernel's high-water mark reset.
    Call it warmed up, or one-time allocations count.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)


def available_memory() -> float:
    """Bytes that can be allocated without swapping; infinite where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next(1024.0 * int(ln.split()[1]) for ln in lines if ln.startswith("MemAvailable:"))


def environment() -> dict[str, object]:
    """What a figure depends on and its reader cannot guess."""
    versions = {"plstm-graph": plstm_graph.__version__, "python": platform.python_version()}
    for package in ("torch", "torch-geometric", "torch-scatter", "numba", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "versions": versions,
        "threads": torch.get_num_threads(),
        # Decides what two busy programs cost each other: spinning threads hold the cores.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write_results(path: Path, setting: dict[str, object], checks: list[dict], records: list[dict]) -> None:
    """Write what was measured as JSON, and where and when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result = {"made": made, "environment": setting, "checks": checks, "results": records}
    path.write_text(json.dumps(result, indent=1) + "\n")
