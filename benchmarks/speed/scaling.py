"""Time and memory of one scan over long graphs: linear in the edges, forward and backward.

    python -m benchmarks.speed.scaling                          # up to 10^5 edges; minutes
    python -m benchmarks.speed.scaling --most 10000 --rounds 3
    python -m benchmarks.speed.scaling --parts mix              # one large graph among small ones; a minute

Sequences, grids, random DAGs and proteins of growing size, both directions, four heads of 16 channels, on
the backends that take graphs of any length. Correctness first: outputs and all gradients of the smallest of
each kind against the reference, in double precision. The slope is that of log time over log edges, fitted
over all sizes. Peak memory of forward and backward stands beside what outputs and gradients need alone.
At last a batch of one 5,000-atom graph and 255 small ones, against either part alone: the time of the
whole by the sum of both. Results go to scaling.json and mix.json in benchmarks/results/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import numpy as np
import torch
from rdkit import Chem
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, Candidate, environment, peak_memory, time_interleaved, write_results
from plstm_graph import LineGraphDAG, stm
from plstm_graph.dag import grid_dag, sequence_dag
from plstm_graph.datasets.peptides import RESIDUES

HEADS, CHANNELS = 4, 16
BACKENDS = ("cpu", "chunkwise")
SIZES = (1_000, 3_162, 10_000, 31_623, 100_000)
TOLERANCE = 1e-9


def random_dag(edges: int) -> LineGraphDAG:
    """Half as many nodes as edges, each edge from a node to one up to fifty numbers higher."""
    generator = torch.Generator().manual_seed(0)
    nodes = edges // 2
    src = torch.randint(nodes - 1, (edges,), generator=generator)
    dst = (src + torch.randint(1, 51, (edges,), generator=generator)).clamp(max=nodes - 1)
    return LineGraphDAG.from_edge_index(torch.stack([src, dst]).unique(dim=1), nodes)


def protein_dag(edges: int) -> LineGraphDAG:
    """A random protein of about this number of bonds, from its centre."""
    rng = np.random.default_rng(0)
    sequence = "".join(rng.choice(list(RESIDUES), max(2, edges // 8)))
    mol = Chem.MolFromSequence(sequence)
    # By neighbours and structure alone: for a hundred thousand atoms, RDKit looks bonds up in E² steps, and
    # its canonical ranks recurse too deeply.
    atoms = [mol.GetAtomWithIdx(number) for number in range(mol.GetNumAtoms())]
    ends = [(atom.GetIdx(), other.GetIdx()) for atom in atoms for other in atom.GetNeighbors()]
    return LineGraphDAG.from_edge_index(torch.tensor(ends).T, len(atoms))


KINDS: dict[str, Callable[[int], LineGraphDAG]] = {
    "sequence": lambda edges: sequence_dag(edges + 1),
    "grid": lambda edges: grid_dag(*[max(2, round((edges / 2) ** 0.5))] * 2),
    "random DAG": random_dag,
    "protein": protein_dag,
}


def draw_inputs(dag: LineGraphDAG, dtype: torch.dtype, channels: int = CHANNELS) -> list[Tensor]:
    """Query, key, value, direct and the gates of both directions, stable in P-mode."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=dtype, generator=generator)

    nodes = [rand(dag.num_nodes, HEADS, channels) - 0.5 for _ in range(3)] + [rand(dag.num_nodes, HEADS)]
    leaving = torch.bincount(dag.pred, minlength=dag.num_edges)[dag.pred].to(dtype)
    entering = torch.bincount(dag.succ, minlength=dag.num_edges)[dag.succ].to(dtype)
    gates = []
    for fan in (leaving, entering):
        gates += [
            rand(dag.num_edges, HEADS),
            1 / fan.unsqueeze(1).expand(-1, HEADS),
            rand(dag.num_edges, HEADS),
        ]
    return [x.contiguous().requires_grad_() for x in (*nodes, *gates)]


def scan(inputs: Sequence[Tensor], dag: LineGraphDAG, backend: str) -> Tensor:
    """One pass of the op."""
    query, key, value, direct, *gates = inputs
    return stm(query, key, value, *gates[:3], direct, dag, reverse=tuple(gates[3:]), backend=backend)


def largest_error(dag: LineGraphDAG, backend: str, trusted: str) -> float:
    """By how much outputs and gradients differ from a trusted backend's, in double precision."""
    results = []
    for name in (backend, trusted):
        inputs = draw_inputs(dag, torch.float64)
        output = scan(inputs, dag, name)
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(*results, strict=True)
    )


def check(kind: str, backend: str) -> str:
    """Outputs and gradients of the smallest graph of a kind against the reference."""
    dag = KINDS[kind](2_000)  # above what the fused kernels leave whole
    error = largest_error(dag, backend, "reference")
    if not error <= TOLERANCE:
        sys.exit(f"backend {backend} is off by {error:.1e} on a {kind}; no times are taken.")
    return f"{backend}, {kind} of {dag.num_edges} edges: outputs and gradients to {error:.1e}"


def candidate(name: str, dag: LineGraphDAG, backend: str, channels: int = CHANNELS) -> Candidate:
    """A scan to be timed."""
    inputs = draw_inputs(dag, torch.float32, channels)

    def forward() -> None:
        with torch.no_grad():
            scan(inputs, dag, backend)

    def both() -> None:
        torch.autograd.grad(scan(inputs, dag, backend).sum(), inputs)

    return Candidate(name, forward, both)


def measure(kind: str, backend: str, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Times, slopes and memory of one kind of graph on one backend."""
    dags = [KINDS[kind](size) for size in sizes]
    candidates = [candidate(f"{kind} {dag.num_edges}", dag, backend) for dag in dags]
    time_interleaved(candidates, rounds, budget=60)
    edges = [dag.num_edges for dag in dags]
    record: dict[str, Any] = {"kind": kind, "backend": backend, "edges": edges}
    for which in ("forward", "both"):
        times = [one.median_ms(which) for one in candidates]
        record[f"{which} ms"] = times
        record[f"{which} slope"] = float(np.polyfit(np.log(edges), np.log(np.array(times, float)), 1)[0])
    record["peak bytes"] = [peak_memory(one.both) for one in candidates if one.both]
    record["bytes of output and gradients"] = [
        4 * (sum(x.numel() for x in draw_inputs(dag, torch.float32)) + dag.num_nodes * HEADS * CHANNELS)
        for dag in dags
    ]
    return record


def measure_mix(rounds: int) -> dict[str, Any]:
    """A graph of 5,000 atoms and 255 small ones in one batch, by the sum of the parts."""
    large = protein_dag(5_200)
    small = [protein_dag(16 + number % 16) for number in range(255)]
    parts = {"large": [large], "small": small, "mix": [*small[:100], large, *small[100:]]}
    candidates = [candidate(name, LineGraphDAG.batch(dags), "auto") for name, dags in parts.items()]
    time_interleaved(candidates, rounds, budget=60)
    record: dict[str, Any] = {"kind": "mix", "backend": "auto", "atoms of the large graph": large.num_nodes}
    for which in ("forward", "both"):
        turns = zip(*(one.seconds[which] for one in candidates), strict=True)
        ratios = [mix / (alone + others) for alone, others, mix in turns]
        record |= {f"{one.name} {which} ms": one.median_ms(which) for one in candidates}
        record[f"{which} by the sum"] = float(np.median(ratios))
    return record


def table_of(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each kind of graph and backend, at its largest size."""
    table = Table(
        "graph", "backend", "edges", "forward", "and backward", "slopes", "peak memory", "its results'"
    )
    for record in records:
        mebibytes = [
            "?" if record[key][-1] is None else f"{record[key][-1] / 2**20:.0f} MiB"
            for key in ("peak bytes", "bytes of output and gradients")
        ]
        table.add_row(
            record["kind"], record["backend"], f"{record['edges'][-1]:,}",
            f"{record['forward ms'][-1]:.0f} ms", f"{record['both ms'][-1]:.0f} ms",
            f"{record['forward slope']:.2f}, {record['both slope']:.2f}", *mebibytes,
        )  # fmt: skip
    return table


def main() -> None:
    parser = parser_of("speed.scaling", __doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="edges of the largest graphs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=("graphs", "mix"), default=["graphs", "mix"])
    options = parser.parse_args()
    checks = [check(kind, backend) for kind in KINDS for backend in BACKENDS]
    console = Console()
    console.print(*checks, sep="\n")
    if "graphs" in options.parts:
        sizes = [size for size in SIZES if size <= options.most]
        records = [measure(kind, backend, sizes, options.rounds) for kind in KINDS for backend in BACKENDS]
        console.print(table_of(records))
        write_results(RESULTS / "scaling.json", environment(), checks, records)
    if "mix" in options.parts:
        mix = measure_mix(4 * options.rounds)
        console.print(
            f"{mix['atoms of the large graph']:,} atoms in a batch with 255 small graphs, by the parts' "
            f"times: {mix['forward by the sum']:.2f} forward, {mix['both by the sum']:.2f} with backward"
        )
        write_results(RESULTS / "mix.json", environment(), checks, [mix])


if __name__ == "__main__":
    main()
