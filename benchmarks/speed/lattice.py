"""Sequences and grids: the scan in logarithmic depth against the general backends.

    python -m benchmarks.speed.lattice

Four heads, both directions, forward alone and with the backward pass, narrow and wide heads. Correctness
first: outputs and gradients of every shape against the fused kernels in double precision. A ratio above 1
says how many times as long the general backend takes. Results go to benchmarks/results/lattice.json.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, environment, time_interleaved, write_results
from benchmarks.speed.scaling import candidate, largest_error
from plstm_graph import LineGraphDAG
from plstm_graph.dag import grid_dag, sequence_dag

TOLERANCE = 1e-10
LENGTHS, SIDES, CHANNELS = (256, 1_024, 4_096, 16_384), (16, 32, 64, 128), (16, 64)
GENERAL = ("cpu", "chunkwise")


def shapes() -> dict[str, LineGraphDAG]:
    """All graphs that are timed."""
    dags = {f"sequence {length:,}": sequence_dag(length) for length in LENGTHS}
    return dags | {f"grid {side}×{side}": grid_dag(side, side) for side in SIDES}


def check(name: str, dag: LineGraphDAG) -> str:
    """Outputs and gradients against the fused kernels."""
    error = largest_error(dag, "lattice", "cpu")
    if not error <= TOLERANCE:
        sys.exit(f"backend lattice is off by {error:.1e} on {name}; no times are taken.")
    return f"{name}: outputs and gradients to {error:.1e}"


def main() -> None:
    parser = parser_of("speed.lattice", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checks, records = [], []
    table = Table("graph", "channels", "lattice", "and backward", *(f"{name} by it" for name in GENERAL))
    for name, dag in track(shapes().items(), "Shapes"):
        checks.append(check(name, dag))
        for channels in CHANNELS:
            # In plain torch, wide heads on long graphs take minutes in chunks.
            general = GENERAL if channels == CHANNELS[0] else GENERAL[:1]
            candidates = [candidate(b, dag, b, channels) for b in ("lattice", *general)]
            time_interleaved(candidates, options.rounds, budget=30)
            record: dict[str, Any] = {"graph": name, "channels": channels}
            for which in ("forward", "both"):
                record[f"{which} ms"] = {one.name: one.median_ms(which) for one in candidates}
            records.append(record)
            ratios = [
                ", ".join(f"{record[w][other] / record[w]['lattice']:.2f}" for w in ("forward ms", "both ms"))
                for other in general
            ]
            own = [f"{record[which]['lattice']:.0f} ms" for which in ("forward ms", "both ms")]
            table.add_row(name, str(channels), *own, *ratios)
    console = Console()
    console.print(*checks, sep="\n")
    console.print(table)
    write_results(RESULTS / "lattice.json", environment(), checks, records)


if __name__ == "__main__":
    main()
