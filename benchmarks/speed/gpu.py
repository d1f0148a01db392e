"""Check the GPU kernels against the oracle, then time them and PyTorch Geometric's layers.

    python -m benchmarks.speed.gpu                          # all of it
    python -m benchmarks.speed.gpu --batches 256 --rounds 5 --json out.json

Correctness first, on molecules that reach every tile of the gating kernels and the level kernels: output and
all gradients of `stm` against `reference` in float64 on the CPU, in both modes, with one and both directions,
in float64 and float32; the Triton kernels must also give the same bits twice. A result that differs ends it.

Then the candidates of benchmarks.speed.conv take turns, round by round, timed by the device's own events on
batches of the solubility set, which are repeated beyond its size. `forward` runs without gradients; `both` is
a forward and a backward pass to the inputs and all parameters. The DAG is prepared and on the device. Peak
memory is what the allocator hands out during `both`, launches are the kernels that the profiler sees.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch_geometric.data import Batch, Data

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, SHORTEST_SAMPLE, Candidate, environment, write_results
from benchmarks.speed.conv import (
    BASELINE,
    as_records,
    differentiable,
    layer_candidates,
    numbers,
    show,
    show_ratio,
)
from benchmarks.speed.workload import (
    HEADS,
    OpInputs,
    build_dag,
    load_molecules,
    output_and_gradients,
    result_name,
    worst_error,
)
from plstm_graph import LineGraphDAG
from plstm_graph.chem import smiles_to_data
from plstm_graph.kernels.cost import gating_tile, why_not_triton
from plstm_graph.testing import TOLERANCES

BACKENDS = ("triton", "gating", "reference")
WARM_UP = 3  # the first call compiles
NO_GPU = (
    "There is no CUDA device here, so nothing can be timed: `make test` runs the kernels in Triton's "
    "interpreter, benchmarks.speed.gpu_kernels compiles them ahead of time, and benchmarks.speed.roofline "
    "counts what they move and compute."
)


def check_molecules() -> list[Data]:
    """Small molecules, and chains of rings and of atoms for every tile and for the level kernels."""
    rings = ["C1CCC(CC1)" * count + "C" for count in (2, 4, 8, 20, 40)]  # 6 atoms each and one more
    return load_molecules(8) + [smiles_to_data(smiles) for smiles in [*rings, "C" * 400]]


def tiles_reached(dag: LineGraphDAG, width: int) -> str:
    """The kernels that a batch runs, in words."""
    dim = width // HEADS
    tiles = {gating_tile(nodes, dim, dim) for nodes in dag.node_ptr.diff().tolist()}
    sizes = sorted(tile.nodes for tile in tiles if tile is not None)
    parts = [f"gating tiles of {', '.join(map(str, sizes))} nodes"] if sizes else []
    return " and ".join(parts + ["the level kernels"] * (None in tiles))


def check_backends(
    molecules: Sequence[Data], width: int, device: torch.device, backends: Sequence[str]
) -> list[str]:
    """`stm` on the device against `reference` in float64 on the CPU; exits if they differ.

    An error counts against the largest entry of what `reference` gives.
    """
    batch = Batch.from_data_list(molecules)
    dag = build_dag(batch)
    there = dag.to(device)
    op = OpInputs.random(dag, width, torch.float64)
    worst: dict[tuple[str, torch.dtype], float] = {}
    for dtype in (torch.float64, torch.float32):
        allowed = TOLERANCES[dtype]["atol"]
        for mode in ("P", "D"):
            for directions in (1, 2):
                rounded = tuple(x.to(dtype) for x in (op.tensors if directions == 2 else op.tensors[:7]))
                expected = output_and_gradients(tuple(x.double() for x in rounded), dag, mode, "reference")
                inputs = tuple(x.to(device) for x in rounded)
                for backend in backends:
                    both = "both directions" if directions == 2 else "one direction"
                    what = f"stm {backend}, {mode}-mode, {both}, {dtype}, width {width},"
                    found = output_and_gradients(inputs, there, mode, backend)
                    error, place = worst_error([x.cpu() for x in found], expected)
                    # Written this direction round so that a NaN fails too.
                    if not error <= allowed:
                        sys.exit(
                            f"{what} differs from reference by {error:.1e} ({result_name(place)}), more than "
                            f"{allowed:.0e}; no times are taken of a wrong result."
                        )
                    worst[backend, dtype] = max(error, worst.get((backend, dtype), 0.0))
                    if backend == "triton":  # the others may add in any order on a GPU
                        again = output_and_gradients(inputs, there, mode, backend)
                        same = [torch.equal(a, b) for a, b in zip(found, again, strict=True)]
                        if not all(same):
                            name = result_name(same.index(False))
                            sys.exit(f"{what} gives other bits when it runs again ({name}).")
    lines = [f"Checked on {batch.num_graphs} molecules, by {tiles_reached(dag, width)}, width {width}:"]
    for (backend, dtype), error in worst.items():
        bits = ", the same bits twice" if backend == "triton" else ""
        lines.append(f"stm {backend} agrees with reference, {dtype}: worst error {error:.1e}{bits}")
    return lines


def gpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """Time of a call on the device's clock, waiting for the host included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end) / repeats


def time_interleaved(candidates: list[Candidate], rounds: int) -> None:
    """Fill `seconds`: in every round each warm candidate is timed once, in an order drawn anew."""
    order = random.Random(0)
    repeats = {}
    for candidate in candidates:
        for which, call in candidate.calls().items():
            seconds = gpu_seconds(call, 1)
            repeats[candidate.name, which] = max(1, math.ceil(SHORTEST_SAMPLE / seconds))
            candidate.seconds[which] = []
    for _ in range(rounds):
        for candidate in order.sample(candidates, len(candidates)):
            for which, call in candidate.calls().items():
                candidate.seconds[which].append(gpu_seconds(call, repeats[candidate.name, which]))


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes by which the allocator's tensors grow at most during a call."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(call: Callable[[], object]) -> int:
    """Kernels that the device runs for a call; copies and fills by the driver do not count."""
    counts = []
    for _ in range(3):  # the profiler may lose the first kernels of a session, but it invents none
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        on_device = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
        counts.append(sum(not name.startswith(("Memcpy", "Memset")) for name in on_device))
    return max(counts)


def op_candidate(dag: LineGraphDAG, op: OpInputs, backend: str) -> Candidate:
    """`stm` alone: P-mode, both directions."""
    return differentiable(f"stm {backend}", lambda *x: op.call(x, dag, "P", backend), list(op.tensors), [])


def candidates_on(batch: Batch, width: int, device: torch.device) -> tuple[list[Candidate], list[str]]:
    """What is timed, warmed up; and what the device's memory forbids."""
    dag, batch = build_dag(batch).to(device), batch.to(device)
    with device:  # where the modules and inputs are made
        candidates = layer_candidates(batch, dag, width)
        op = OpInputs.random(dag, width, torch.float32)
    for candidate in candidates:
        warm_up(candidate)
    remarks = []
    for backend in BACKENDS:
        try:
            candidate = op_candidate(dag, op, backend)
            warm_up(candidate)
            candidates.append(candidate)
        except torch.cuda.OutOfMemoryError:
            remarks.append(
                f"stm {backend} is left out at {batch.num_graphs} molecules and width {width}: "
                "it does not fit the device's memory."
            )
        torch.cuda.empty_cache()
    return candidates, remarks


def warm_up(candidate: Candidate) -> None:
    for call in candidate.calls().values():
        for _ in range(WARM_UP):
            call()


def measure(
    molecules: Sequence[Data], width: int, rounds: int, device: torch.device
) -> tuple[list[dict], list[str]]:
    """Records of all candidates on one batch, and remarks."""
    batch = Batch.from_data_list(molecules)
    candidates, remarks = candidates_on(batch, width, device)
    time_interleaved(candidates, rounds)
    for candidate in candidates:
        candidate.peak_bytes = peak_memory(candidate.both)
    records = as_records(candidates, batch, width)
    for record, candidate in zip(records, candidates, strict=True):
        record["forward_launches"] = launches(candidate.forward)
        record["forward_backward_launches"] = launches(candidate.both)
    return records, remarks


def time_table(records: list[dict]) -> Table:
    first = records[0]
    table = Table(
        title=f"{first['molecules']} molecules, {first['atoms']} atoms, {first['bonds']} bonds, "
        f"width {first['width']}, {first['rounds']} rounds"
    )
    table.add_column("candidate", no_wrap=True)
    heads = ["forward ms", f"/ {BASELINE}", "launches"]
    for head in (*heads, *(head.replace("forward", "fwd + bwd") for head in heads), "peak MB"):
        table.add_column(head, justify="right")
    for r in records:
        cells = []
        for which in ("forward", "forward_backward"):
            ratio = show_ratio(r[f"{which}_ratio_quartiles"])
            cells += [show(r[f"{which}_ms"], ".3f"), ratio, str(r[f"{which}_launches"])]
        table.add_row(r["candidate"], *cells, show(r["peak_bytes"] / 1e6, ".1f"))
    return table


def arguments() -> argparse.Namespace:
    parser = parser_of("speed.gpu", __doc__)
    sizes = [256, 1024, 4096, 8192]
    parser.add_argument("--batches", type=numbers, default=sizes, help="default 256,1024,4096,8192")
    parser.add_argument("--widths", type=numbers, default=[96], help="multiples of 4; default 96")
    parser.add_argument("--rounds", type=int, default=15, help="at least 3, default 15")
    default = RESULTS / "gpu.json"
    parser.add_argument("--json", type=Path, default=default, help=f"default {default.name}")
    args = parser.parse_args()
    if args.rounds < 3:
        parser.error(f"{args.rounds} rounds are too few for a median; take 3 or more.")
    if any(width % HEADS for width in args.widths):
        parser.error(f"widths {args.widths} must be multiples of {HEADS}, the number of heads.")
    return args


def gpu_environment(device: torch.device) -> dict[str, object]:
    """The setting of benchmarks/speed/conv.py, and the device's."""
    setting = environment()
    versions = {"triton": importlib.metadata.version("triton"), "cuda": torch.version.cuda}
    properties = torch.cuda.get_device_properties(device)
    return {
        **setting,
        "versions": {**setting["versions"], **versions},
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "device_memory_bytes": properties.total_memory,
    }


def main() -> None:
    args = arguments()
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 has Triton's interpreter run the kernels; unset it to time the GPU.")
    device = torch.device("cuda", torch.cuda.current_device())
    for width in args.widths:
        reason = why_not_triton(device, width // HEADS)
        if reason is not None:
            sys.exit(f"backend 'triton' {reason}.")
    console = Console(width=None if sys.stdout.isatty() else 118)
    setting = gpu_environment(device)
    console.print(" · ".join(f"{name} {version}" for name, version in setting["versions"].items()))
    console.print(f"{setting['device']}, compute capability {setting['capability']}, {setting['processor']}")
    torch.manual_seed(0)
    records, checks = [], []
    for width in args.widths:
        passed = check_backends(check_molecules(), width, device, BACKENDS)
        console.print(*passed, sep="\n")
        checks.append({"width": width, "passed": passed})
    molecules = load_molecules(max(args.batches), repeat=True)
    for width in args.widths:
        for size in args.batches:
            found, remarks = measure(molecules[:size], width, args.rounds, device)
            records += found
            console.print(time_table(found), *remarks, sep="\n")
    write_results(args.json, setting, checks, records)
    console.print(f"Written to {args.json}.")


if __name__ == "__main__":
    main()
