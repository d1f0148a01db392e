"""Count what the GPU kernels move and compute, and the least time that it takes; needs no GPU.

    python -m benchmarks.speed.roofline                                   # 256 and 4096 molecules
    python -m benchmarks.speed.roofline --data mol.csv --smiles smiles    # molecules of a table of one's own
    python -m benchmarks.speed.roofline --batches 32 --json out.json

`stm` with backend `triton` in float32, both directions, width 96, 4 heads, on molecules of the solubility set
(13 atoms on average, half of those of ogbg-molhiv), repeated beyond its size, or of a table. Per kernel:

- features, gates, indices: compulsory bytes, every input read once and every output written once.
- scratch: rows or states that a kernel writes and reads back, through the L1 and L2 cache while they fit.
- MFLOP: arithmetic on the numbers themselves, and with the padding of the tiles.
- floor: compulsory bytes and padded arithmetic at the speeds of an H100, the larger of the two times. The
  latency of launches, and of rows, edges and levels that wait for each other, comes on top.

The launches of two long graphs follow: a peptide of 20 residues, and a sequence of 100,000 nodes. Then two
choices are compared by block size, forward: the gating kernel's sweep with log-depth products of dense
matrices, without padding and with none that a block's own depth can spare; and the gating form with
states that move once. The plain-torch backend `gating` pads its matrices and takes the batch's depth.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from rdkit import Chem
from rich.console import Console
from rich.table import Table
from torch_geometric.data import Batch, Data

from benchmarks.command import parser_of
from benchmarks.speed.conv import numbers
from benchmarks.speed.workload import HEADS, build_dag, load_molecules
from plstm_graph import LineGraphDAG
from plstm_graph.chem import smiles_to_data
from plstm_graph.errors import InputError
from plstm_graph.kernels.cost import GatingTile, state_tile
from plstm_graph.kernels.triton.plan import Bucket, Links, States, plan_of

WIDTH = 96
DIM = WIDTH // HEADS  # channels of a head, for queries, keys and values
WAYS = 2
FLOAT, INDEX = 4, 8  # bytes
BANDWIDTH, ARITHMETIC = 3.0e12, 67e12  # bytes/s and float32 FLOP/s of an H100


@dataclass(frozen=True)
class Work:
    """What all launches of a kernel in one pass move and compute."""

    direction: str  # forward or backward
    kernel: str
    launches: int
    feature_bytes: int  # queries, keys, values, outputs, what edges bring to nodes; their gradients
    gate_bytes: int
    index_bytes: int
    scratch_bytes: int
    flops: int
    padded_flops: int

    @property
    def compulsory_bytes(self) -> int:
        return self.feature_bytes + self.gate_bytes + self.index_bytes

    @property
    def floor(self) -> float:
        """Seconds."""
        return max(self.compulsory_bytes / BANDWIDTH, self.padded_flops / ARITHMETIC)

    @property
    def bound(self) -> str:
        return "bytes" if self.compulsory_bytes / BANDWIDTH >= self.padded_flops / ARITHMETIC else "FLOP"

    def record(self) -> dict[str, object]:
        derived = {"compulsory_bytes": self.compulsory_bytes, "floor_us": 1e6 * self.floor}
        return {**asdict(self), **derived, "bound": self.bound}


@dataclass(frozen=True)
class Blocks:
    """Sizes of some blocks, one entry a block."""

    nodes: torch.Tensor
    edges: torch.Tensor
    lines: torch.Tensor
    depth: torch.Tensor  # edges of the longest path

    @classmethod
    def of(cls, dag: LineGraphDAG) -> Blocks:
        edges = dag.edge_ptr.diff()
        block = torch.repeat_interleave(edges)
        depth = torch.zeros_like(edges).scatter_reduce(0, block, dag.level + 1, "amax")
        return cls(dag.node_ptr.diff(), edges, dag.pred_ptr[dag.edge_ptr].diff(), depth)

    def select(self, blocks: torch.Tensor) -> Blocks:
        return Blocks(self.nodes[blocks], self.edges[blocks], self.lines[blocks], self.depth[blocks])

    def totals(self) -> tuple[int, int, int]:
        return int(self.nodes.sum()), int(self.edges.sum()), int(self.lines.sum())


def gating_work(blocks: Blocks, tile: GatingTile) -> list[Work]:
    """Forward and backward kernel of one bucket; see plstm_graph/kernels/triton/gating.py."""
    n, e, l = blocks.nodes, blocks.edges, blocks.lines  # noqa: E741
    nodes, edges, lines = blocks.totals()
    chunks = -(-DIM // tile.channels)
    gates = nodes + WAYS * (2 * edges + lines)
    indices = (2 * edges + 2 * (edges + len(n)) + 4 * lines  # ends, gather_ptr, gather_edge and gather_line
               + 2 * (nodes + len(n)) + 2 * edges  # arrive_ptr, arrive_edge
               + 5 * len(n))  # blocks, node_ptr, edge_ptr  # fmt: skip

    def forward(columns: torch.Tensor | int, channels: int) -> int:
        sweep = 2 * WAYS * (e + l) * columns  # transitions, then marks
        rows = n * columns * (4 * channels + 1)  # scores, their product with the gating row, attention
        return HEADS * int((sweep + rows).sum())

    def backward(columns: torch.Tensor | int, channels: int) -> int:
        sweeps = WAYS * (6 * e + 6 * l) * columns  # the forward one; the adjoint and the gates' gradients
        rows = n * columns * (10 * channels + 4)
        return HEADS * int((sweeps + rows).sum())

    padded = tile.nodes, chunks * tile.channels
    forward_rows = WAYS * (2 * edges + lines) + nodes * (3 * chunks + 1)
    backward_rows = WAYS * (5 * edges + 3 * lines) + nodes * (6 * chunks + 3)
    name = f"gating, {tile.nodes} nodes"
    row_bytes = FLOAT * HEADS * tile.nodes
    return [
        Work("forward", name, 1, FLOAT * 4 * nodes * WIDTH, FLOAT * HEADS * gates, INDEX * indices,
             row_bytes * forward_rows, forward(n, DIM), forward(*padded)),
        Work("backward", name, 1, FLOAT * 7 * nodes * WIDTH, FLOAT * HEADS * 2 * gates, INDEX * indices,
             row_bytes * backward_rows, backward(n, DIM), backward(*padded)),
    ]  # fmt: skip


def state_work(links: Links, states: States) -> list[Work]:
    """Walks, levels and arrivals of the blocks in state form; see plstm_graph/kernels/triton/state.py."""
    nodes, edges, lines = len(states.nodes), len(states.order), len(states.lines)
    walks, levels = int(states.walks is not None), len(states.level_ptr) - 1
    stored = int((states.slot >= 0).sum())  # states that something continues, both directions
    carried = WAYS * carried_lines(links, states)  # states that a walk still has in registers
    tile = state_tile(DIM, DIM)
    tiles = -(-DIM // tile.value)
    gates = WAYS * (2 * edges + lines)  # fill, read and transition

    def sweep(
        direction: str, name: str, inputs: int, left: bool, right: bool, written: int, launches: int,
        adjoint: bool = False,
    ) -> Work:  # fmt: skip
        """`inputs` [N, H, DIM] are read, `written` states stored; edges bring `left` or `right` to nodes."""

        def flops(key: int, value: int) -> int:
            cells = key * value
            edge = key + cells + right * (2 * cells + value) + left * (2 * cells + 3 * key)
            return HEADS * WAYS * (edges * edge + lines * (4 if adjoint else 2) * cells)

        brought = WAYS * edges * (left * tiles + right) * WIDTH
        read_gates = gates if left or right else WAYS * (edges + lines)
        gate_gradients = left * tiles * WAYS * edges + adjoint * tiles * WAYS * lines
        indices = edges + 2 * edges + 2 * (edges + 1) + 4 * lines + 4 * edges  # order, ends, ..., place, slot
        moved = written + WAYS * lines * (2 if adjoint else 1) - carried
        return Work(
            direction, f"states, {name}", launches, FLOAT * (inputs * nodes * WIDTH + brought),
            FLOAT * HEADS * (read_gates + gate_gradients), INDEX * indices,
            FLOAT * HEADS * DIM * DIM * moved, flops(DIM, DIM), flops(tile.key, tiles * tile.value),
        )  # fmt: skip

    def arrive(direction: str, name: str) -> Work:
        features = 4 * nodes * WIDTH + WAYS * edges * WIDTH
        indices = nodes + 2 * (nodes + 1) + 2 * edges
        flops = (3 * nodes + WAYS * edges) * WIDTH
        padded = flops // DIM * (1 << (DIM - 1).bit_length())
        return Work(direction, f"arrive, {name}", 1, FLOAT * features, FLOAT * HEADS * nodes,
                    INDEX * indices, 0, flops, padded)  # fmt: skip

    return [
        sweep("forward", "outputs", 3, False, True, stored, walks + levels),
        arrive("forward", "outputs"),
        sweep("backward", "down", 4, True, False, stored, walks + levels),
        arrive("backward", "queries"),
        sweep("backward", "again", 2, False, False, WAYS * edges, levels),  # a walk's with its adjoint
        sweep("backward", "adjoint", 4, True, True, stored, walks + levels, adjoint=True),
        arrive("backward", "keys"),
        arrive("backward", "values"),
    ]


def carried_lines(links: Links, states: States) -> int:
    """Lines between two edges that follow each other in a walk."""
    if states.walks is None:
        return 0
    walked = states.order[: states.level_ptr[0]]
    after = torch.full((links.ends.size(1),), -1)
    after[walked[:-1]] = walked[1:]
    pred_ptr, pred = links.gather_ptr[0], links.gather_edge[0]
    succ = torch.repeat_interleave(pred_ptr.diff(), output_size=len(pred))
    return int((after[pred] == succ).sum())


def long_graphs() -> list[dict[str, object]]:
    """The launches of the op, forward and backward, on two graphs that are long."""
    sequence = torch.arange(100_000)
    peptide = smiles_to_data(Chem.MolToSmiles(Chem.MolFromSequence("ACDEFGHIKLMNPQRSTVWY")))
    found: list[dict[str, object]] = []
    for name, dag in (
        ("a peptide of 20 residues", build_dag(Batch.from_data_list([peptide]))),
        ("a sequence", LineGraphDAG.from_edge_index(torch.stack([sequence[:-1], sequence[1:]]), 100_000)),
    ):
        plan = plan_of(dag, DIM, DIM)
        works = [*state_work(plan.links, plan.states)] if plan.states else []
        for bucket in plan.buckets:
            works += gating_work(Blocks.of(dag).select(bucket.blocks), bucket.tile)
        row: dict[str, object] = {"graph": name, "nodes": dag.num_nodes, "levels": dag.num_levels}
        for direction in ("forward", "backward"):
            row[f"{direction} launches"] = sum(work.launches for work in works if work.direction == direction)
        found.append(row)
    return found


def compare(blocks: Blocks, chosen: Blocks, bucket: Bucket) -> dict[str, object]:
    """What else could be done with the blocks of a bucket, forward."""
    n, e, l = chosen.nodes, chosen.edges, chosen.lines  # noqa: E741
    gating, _ = gating_work(chosen, bucket.tile)
    state_bytes = FLOAT * HEADS * WAYS * DIM * DIM * int((e + l).sum())
    # (I + T)(I + T²)(I + T⁴)…: the first factor is free, each of the others takes two products.
    factors = chosen.depth.clamp(min=1).double().log2().ceil().long()
    products = 2 * (factors - 1).clamp(min=0)
    # The plain-torch backend pads blocks to powers of two and takes the depth of the whole batch.
    size = 2 ** torch.maximum(n, e).clamp(min=8).double().log2().ceil().long()
    batch_products = 2 * max(0, (int(blocks.depth.max()) - 1).bit_length() - 1) + 2
    torch_flops = 2 * size**2 * (WAYS * batch_products * size + 2 * DIM)
    return {
        "kernel": gating.kernel,
        "blocks": len(n),
        "mean_nodes": n.double().mean().item(),
        "mean_depth": chosen.depth.double().mean().item(),
        "sweep_flops": HEADS * WAYS * 2 * int(((e + l) * n).sum()),
        "dense_product_flops": HEADS * WAYS * int((products * 2 * e**3).sum()),
        "gating_padded_flops": gating.padded_flops,
        "gating_arithmetic_us": 1e6 * gating.padded_flops / ARITHMETIC,
        "gating_bytes_us": 1e6 * gating.compulsory_bytes / BANDWIDTH,
        "state_bytes": state_bytes,
        "state_us": 1e6 * state_bytes / BANDWIDTH,
        "torch_gating_flops": HEADS * int(torch_flops.sum()),
    }


def count(molecules: list[Data]) -> dict[str, object]:
    """All figures of one batch."""
    batch = Batch.from_data_list(molecules)
    dag = build_dag(batch)
    plan, blocks = plan_of(dag, DIM, DIM), Blocks.of(dag)
    works, comparisons = [], []
    for bucket in plan.buckets:
        chosen = blocks.select(bucket.blocks)
        works += gating_work(chosen, bucket.tile)
        comparisons.append(compare(blocks, chosen, bucket))
    if plan.states is not None:
        works += state_work(plan.links, plan.states)
    works.sort(key=lambda work: work.direction, reverse=True)  # forward first
    return {
        "molecules": batch.num_graphs,
        "nodes": dag.num_nodes,
        "edges": dag.num_edges,
        "lines": dag.num_lines,
        "depth": dag.num_levels,
        "kernels": [work.record() for work in works],
        "comparisons": comparisons,
    }


def kernel_table(result: dict) -> Table:
    table = Table(
        title=f"{result['molecules']} molecules: {result['nodes']} atoms, {result['edges']} bonds, "
        f"{result['lines']} lines, depth {result['depth']}"
    )
    table.add_column("kernel", no_wrap=True)
    heads = ("launches", "features MB", "gates MB", "indices MB", "scratch MB", "MFLOP", "padded", "floor µs")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("bound")
    for direction in ("forward", "backward"):
        rows = [kernel for kernel in result["kernels"] if kernel["direction"] == direction]
        for r in rows:
            table.add_row(f"{direction}: {r['kernel']}", *cells(r), r["bound"])
        names = ("launches", "feature_bytes", "gate_bytes", "index_bytes", "scratch_bytes", "flops",
                 "padded_flops", "floor_us")  # fmt: skip
        table.add_row(f"{direction}: all", *cells({name: sum(r[name] for r in rows) for name in names}))
        table.add_section()
    return table


def cells(r: dict) -> list[str]:
    sizes = [r[name] / 1e6 for name in ("feature_bytes", "gate_bytes", "index_bytes", "scratch_bytes")]
    sizes += [r["flops"] / 1e6, r["padded_flops"] / 1e6]
    return [str(r["launches"]), *(f"{size:.2f}" for size in sizes), f"{r['floor_us']:.2f}"]


def sweep_table(result: dict) -> Table:
    table = Table(title=f"{result['molecules']} molecules: the sweep and dense products, forward")
    table.add_column("kernel", no_wrap=True)
    for head in ("blocks", "mean atoms", "mean depth", "sweep MFLOP", "dense MFLOP", "dense / sweep",
                 "backend gating, all, MFLOP"):  # fmt: skip
        table.add_column(head, justify="right")
    for r in result["comparisons"]:
        sweep, dense, plain = (
            r[name] / 1e6 for name in ("sweep_flops", "dense_product_flops", "torch_gating_flops")
        )
        table.add_row(
            r["kernel"], str(r["blocks"]), f"{r['mean_nodes']:.1f}", f"{r['mean_depth']:.1f}",
            f"{sweep:.2f}", f"{dense:.2f}", f"{dense / sweep:.1f}" if sweep else "-", f"{plain:.2f}",
        )  # fmt: skip
    return table


def form_table(result: dict) -> Table:
    table = Table(title=f"{result['molecules']} molecules: gating form and states, forward")
    table.add_column("kernel", no_wrap=True)
    for head in ("gating padded MFLOP", "its time µs", "its bytes' time µs", "state MB", "its time µs"):
        table.add_column(head, justify="right")
    for r in result["comparisons"]:
        table.add_row(
            r["kernel"], f"{r['gating_padded_flops'] / 1e6:.2f}", f"{r['gating_arithmetic_us']:.2f}",
            f"{r['gating_bytes_us']:.2f}", f"{r['state_bytes'] / 1e6:.2f}", f"{r['state_us']:.2f}",
        )  # fmt: skip
    return table


def read_molecules(path: Path, column: str, most: int) -> list[Data]:
    """Molecules of a table, at most this number, drawn without replacement with a fixed seed."""
    table = pd.read_csv(path)
    if column not in table:
        sys.exit(f"{path} has no column {column!r}; it has {', '.join(map(repr, table.columns))}.")
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:most].tolist()
    try:
        return [smiles_to_data(table[column][i]) for i in order]
    except InputError as error:
        sys.exit(f"{path}: {error}")


def arguments() -> argparse.Namespace:
    parser = parser_of("speed.roofline", __doc__)
    parser.add_argument("--batches", type=numbers, default=[256, 4096], help="default 256,4096")
    parser.add_argument("--data", type=Path, help="a CSV file of molecules; default the solubility set")
    parser.add_argument("--smiles", help="its column of SMILES")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    args = parser.parse_args()
    if (args.data is None) != (args.smiles is None):
        parser.error("--data and --smiles belong together.")
    return args


def main() -> None:
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 130)
    most = max(args.batches)
    if args.data is None:
        drawn, origin = load_molecules(most, repeat=True), "the solubility set"
    else:
        drawn, origin = read_molecules(args.data, args.smiles, most), str(args.data)
    console.print(
        f"Molecules of {origin}, width {WIDTH}, {HEADS} heads, both directions, float32; an H100 with "
        f"{BANDWIDTH / 1e12:g} TB/s and {ARITHMETIC / 1e12:g} TFLOP/s."
    )
    results = []
    for size in args.batches:
        results.append(count([drawn[i % len(drawn)] for i in range(size)]))
        console.print(*(table(results[-1]) for table in (kernel_table, sweep_table, form_table)))
    long = long_graphs()
    table = Table(*long[0], title="long graphs")
    for row in long:
        table.add_row(*map(str, row.values()))
    console.print(table)
    if args.json is not None:
        speeds = {"bytes_per_second": BANDWIDTH, "flops_per_second": ARITHMETIC}
        setting = {"molecules": origin, "width": WIDTH, "heads": HEADS, "directions": WAYS, **speeds}
        found = {"setting": setting, "results": results, "long": long}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
        console.print(f"Written to {args.json}.")


if __name__ == "__main__":
    main()
