"""Compile every Triton kernel ahead of time, without a GPU: registers, spills and shared memory.

    python -m benchmarks.speed.gpu_kernels [--targets 80 90 100] [--dtypes fp32 fp16 bf16] [--json PATH]

Every tile that the cost model can choose for heads of 16 to 256 channels. Exits with 1 if one spills,
needs more shared memory or registers than a target has, or uses an atomic.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import triton
from rich.console import Console
from rich.progress import track
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.command import parser_of
from plstm_graph.kernels.cost import gating_tile, state_tile
from plstm_graph.kernels.triton.gating import backward_kernel, forward_kernel
from plstm_graph.kernels.triton.plan import LAUNCH_OPTIONS
from plstm_graph.kernels.triton.state_kernels import (
    arrive_kernel,
    level_kernel,
    walk_back_kernel,
    walk_kernel,
)

#: Compute capabilities and the shared memory that a program can have there, and its threads' registers.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
REGISTERS = 64 * 1024
DTYPES = ("fp32", "fp16", "bf16")
BLOCKS = (16, 32, 64, 128)
HEAD_DIMS = (16, 32, 64, 128, 256)
_GATING = (forward_kernel, backward_kernel)
KERNELS = {k.__name__: k for k in (*_GATING, level_kernel, walk_kernel, walk_back_kernel, arrive_kernel)}
#: What the kernels of the state form are launched for.
STATE_LAUNCHES = {
    "level, forward": (level_kernel, {"ADJOINT": False, "READ_LEFT": False, "READ_RIGHT": True}),
    "level, keep states": (level_kernel, {"ADJOINT": False, "READ_LEFT": True, "READ_RIGHT": False}),
    "level, states anew": (level_kernel, {"ADJOINT": False, "READ_LEFT": False, "READ_RIGHT": False}),
    "level, adjoint": (level_kernel, {"ADJOINT": True, "READ_LEFT": True, "READ_RIGHT": True}),
    "walk, forward": (walk_kernel, {"READ_LEFT": False, "READ_RIGHT": True, "SNAPSHOTS": False}),
    "walk, keep states": (walk_kernel, {"READ_LEFT": True, "READ_RIGHT": False, "SNAPSHOTS": True}),
    "walk, back": (walk_back_kernel, {}),
}
#: Arguments that hold indices, integers, and sums in float32; all others are tensors of the dtype.
INDICES = re.compile(r"(gather|arrive|node|edge)_\w+|ends|blocks|order|place|slot|walks|nodes")
INTEGERS = re.compile(
    r"(num|first|count|lo|hi)_\w+|(key|value)_dim|items|heads|directions|capacity|width|inner|tiles|slots"
)
SUMS = re.compile(r"scratch|memory|kept|rows|to_left|to_right")


class Variant(NamedTuple):
    """One kernel for one tile and dtype."""

    name: str
    kernel: str
    dtype: str
    warps: int
    constants: dict[str, int]


def variants(dtypes: tuple[str, ...] = DTYPES) -> Iterator[Variant]:
    """All that the package launches."""
    seen = set()
    for dim, block, dtype in product(HEAD_DIMS, BLOCKS, dtypes):
        tile = gating_tile(block, dim, dim)
        if tile is None or (tile, dtype) in seen:
            continue
        seen.add((tile, dtype))
        for kernel in _GATING:
            direction = kernel.__name__.removesuffix("_kernel")
            name = f"gating {direction}, {tile.nodes} nodes by {tile.channels} channels"
            constants = {"BLOCK": tile.nodes, "CHANNELS": tile.channels}
            yield Variant(name, kernel.__name__, dtype, tile.warps, constants)
    for dim, dtype in product(HEAD_DIMS, dtypes):
        state = state_tile(dim, dim)
        for launch, (kernel, flags) in STATE_LAUNCHES.items():
            name = f"{launch}, {state.key} by {state.value} channels"
            constants = {**flags, "KEY": state.key, "VALUE": state.value}
            yield Variant(name, kernel.__name__, dtype, state.warps, constants)
        for adjoint, to_direct in ((False, False), (False, True), (True, False)):
            name = f"arrive{' adjoint' * adjoint}{' and direct' * to_direct}, {dim} channels"
            flags = {"ADJOINT": adjoint, "TO_DIRECT": to_direct, "WIDTH": dim, "INNER": dim}
            yield Variant(name, arrive_kernel.__name__, dtype, 1, flags)


def compile_variant(variant: Variant, target: int) -> dict[str, Any]:
    """Compile for a compute capability and read what the assembler says."""
    kernel = KERNELS[variant.kernel]

    def kind(argument: str) -> str:
        if argument in variant.constants:
            return "constexpr"
        if INTEGERS.fullmatch(argument):
            return "i32"
        if INDICES.fullmatch(argument):
            return "*i64"
        return "*fp32" if SUMS.fullmatch(argument) else f"*{variant.dtype}"

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    # torch aligns its tensors, and Triton compiles for it.
    aligned = {(i,): [["tt.divisibility", 16]] for i, k in enumerate(signature.values()) if k.startswith("*")}
    source = ASTSource(kernel, signature, constexprs=variant.constants, attrs=aligned)
    start = time.perf_counter()
    options = {"num_warps": variant.warps, **LAUNCH_OPTIONS}
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    seconds = time.perf_counter() - start
    registers, spilled = _resources(compiled.asm["cubin"])
    return {
        "kernel": variant.name,
        "dtype": variant.dtype,
        "warps": variant.warps,
        "target": f"sm_{target}",
        "registers": registers,
        "spilled_bytes": spilled,
        "shared_bytes": compiled.metadata.shared,
        "atomics": len(re.findall(r"\b(?:atom|red)\.", compiled.asm["ptx"])),
        "tensor_core_products": compiled.asm["ptx"].count("mma"),
        "seconds": round(seconds, 2),
    }


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and the bytes of local memory that it spills to."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", found)
    if match is None:
        sys.exit(f"cuobjdump says nothing of registers: {found}")
    return int(match[1]), int(match[2])


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a compiled kernel."""
    limit = SHARED_BYTES[int(row["target"].removeprefix("sm_"))]
    return [
        text
        for text, wrong in (
            (f"spills {row['spilled_bytes']} bytes", row["spilled_bytes"] > 0),
            (f"needs {row['shared_bytes']} bytes of shared memory", row["shared_bytes"] > limit),
            ("needs more registers than there are", 32 * row["warps"] * row["registers"] > REGISTERS),
            ("uses atomics", row["atomics"] > 0),
            ("rounds products to tf32", row["tensor_core_products"] > 0),
            (f"took {row['seconds']} s to compile", row["seconds"] > 60),
        )
        if wrong
    ]


def main() -> None:
    parser = parser_of("speed.gpu_kernels", __doc__)
    parser.add_argument("--targets", type=int, nargs="+", default=list(SHARED_BYTES), choices=SHARED_BYTES)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--json", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    jobs = list(product(variants(tuple(arguments.dtypes)), arguments.targets))
    console = Console(width=None if sys.stdout.isatty() else 140)
    with ProcessPoolExecutor() as pool:
        done = pool.map(compile_variant, *zip(*jobs, strict=True))
        rows = list(track(done, "Compiling", total=len(jobs), console=Console(stderr=True)))
    table = Table(*rows[0], "fault")
    for row in rows:
        table.add_row(*map(str, row.values()), "; ".join(faults(row)))
    console.print(table)
    if arguments.json:
        found = {"triton": triton.__version__, "kernels": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    faulty = [row for row in rows if faults(row)]
    worst = max(row["registers"] for row in rows)
    print(f"{len(rows)} kernels compiled, {len(faulty)} with a fault; at most {worst} registers a thread.")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
