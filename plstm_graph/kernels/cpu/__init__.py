"""Fused CPU kernels: one block of the DAG at a time, all heads, forward and analytic backward.

A block stays in the cache for molecules; a long one goes chunk by chunk, with its states between chunks. A
head of it is computed by one thread, whose sums do not depend on the others, so results are bitwise the same
for any number of threads and for a graph alone or in a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plstm_graph.compiled import as_python
from plstm_graph.dag import LineGraph, LineGraphDAG
from plstm_graph.kernels.cost import (
    WHOLE_STATE_BLOCK,
    gating_cost,
    prefers_chunks,
    state_cost,
)
from plstm_graph.kernels.cpu import blocks
from plstm_graph.kernels.cpu import gates as gate_kernels
from plstm_graph.kernels.cpu.bounds import Arrays, check_bounds, check_columns
from plstm_graph.kernels.cpu.state_form import cut
from plstm_graph.kernels.cpu.threads import run_over_ranges
from plstm_graph.kernels.layout import HeadLayout

#: Multiply-adds of the backward pass to one of the forward: seven products for two, three solves for one.
_BACKWARD_OPERATIONS = 3.0

#: Multiply-adds that take as long as making a gate of a logit, or its gradient.
_WORK_PER_LOGIT = 16.0

#: A tensor's columns as compiled code takes them: memory from the first on, numbers from row to row.
_Columns = tuple[NDArray[Any], int]

#: The DAG: (ends, pred_ptr, pred) and (node_ptr, edge_ptr).
_Structure = tuple[Arrays, Arrays]


def cpu_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions."""
    output = torch.empty_like(nodes[2], memory_format=torch.contiguous_format)
    (out,) = _columns([output])
    _plain_scan(nodes, gates, dag).forward(out)
    return output


def cpu_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`cpu_forward`) for the gradient of the output."""
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (*nodes, *gates)]
    of_nodes, of_gates = _columns(grads[: len(nodes)]), _views(grads[len(nodes) :])
    (columns,) = _columns([grad])
    _plain_scan(nodes, gates, dag).backward(columns, columns, of_nodes, of_gates)  # only a norm reads outputs
    return grads


def _plain_scan(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> "_ScanArrays":
    """A scan without norms."""
    gate_views = _views(gates)
    dtype = gate_views[0].dtype
    dims = (nodes[1].size(1), nodes[1].size(2), nodes[2].size(2))
    no_norm = (dtype.type(0), dtype.type(1), np.empty((0, 0), dtype))
    return _ScanArrays(_columns(nodes), gate_views, _structure(dag), dims, no_norm)


class HeadsForward(NamedTuple):
    """What the heads of a layer give, and what their backward pass reads beside the inputs."""

    output: Tensor  #: [N, H, K], normed
    scales: Tensor  #: [N, H] by which the norm has multiplied outputs
    values: Tensor  #: [E, 4·W·H], see :mod:`plstm_graph.kernels.cpu.gates`
    source: Tensor  #: [W, E, H]
    transition: Tensor  #: [W, L, H]
    mark: Tensor  #: [W, E, H]


def cpu_heads_forward(
    projected: Tensor, edge_logits: Tensor, dag: LineGraphDAG, layout: HeadLayout
) -> HeadsForward:
    """The heads of a layer, see :func:`plstm_graph.kernels.heads.normed_heads`."""
    nodes, edges, lines = dag.num_nodes, dag.num_edges, dag.num_lines
    heads, head_dim, directions = layout.heads, layout.head_dim, layout.directions
    new = projected.new_empty
    made = HeadsForward(
        output=new(nodes, heads, head_dim),
        scales=new(nodes, heads),
        values=new(edges, layout.edge_logits),
        source=new(directions, edges, heads),
        transition=new(directions, lines, heads),
        mark=new(directions, edges, heads),
    )
    scan, at_node, values = _layer_scan(projected, dag, layout, made)
    _gate_pass(
        gate_kernels.forward, dag, scan.structure, layout, len(edge_logits),
        (at_node, *_views([edge_logits])), values, (scan.gates,),
    )  # fmt: skip
    (out,) = _columns([made.output])
    scan.forward(out)
    return made


def cpu_heads_backward(
    grad: Tensor,
    projected: Tensor,
    edge_logits: Tensor,
    dag: LineGraphDAG,
    layout: HeadLayout,
    made: HeadsForward,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``projected`` and ``edge_logits``, see :func:`cpu_heads_forward`."""
    # Written through views: strides like those of the inputs would have them write into copies.
    rows = torch.contiguous_format
    grad_projected = torch.empty_like(projected, memory_format=rows)
    grad_logits = torch.zeros_like(edge_logits, memory_format=rows)
    gate_grads = _views([torch.empty_like(gate) for gate in made[3:]])
    *of_inputs, of_logits, of_direct = _layer_columns(grad_projected, layout)
    grad_out, out = _columns([grad, made.output])
    scan, _, values = _layer_scan(projected, dag, layout, made)
    scan.backward(grad_out, out, (*of_inputs, of_direct), gate_grads)
    _gate_pass(
        gate_kernels.backward, dag, scan.structure, layout, len(edge_logits),
        (gate_grads, scan.gates[1]), values, (of_logits, *_views([grad_logits])),
    )  # fmt: skip
    return grad_projected, grad_logits


def _layer_scan(
    projected: Tensor, dag: LineGraphDAG, layout: HeadLayout, made: HeadsForward
) -> tuple["_ScanArrays", _Columns, NDArray[Any]]:
    """The scan of a layer with its norms; the nodes' logits and the edges' values beside it."""
    *inputs, at_node, direct = _layer_columns(projected, layout)
    scales, values, *gates = _views(made[1:])
    number = values.dtype.type
    norm = (number(layout.largest_input), number(layout.head_dim**-0.5), scales)
    scan = _ScanArrays((*inputs, direct), tuple(gates), _structure(dag), layout.dims, norm)
    return scan, at_node, values


def _gate_pass(
    kernel: Callable[..., None],
    dag: LineGraphDAG,
    structure: _Structure,
    layout: HeadLayout,
    columns: int,
    inputs: tuple[Any, ...],
    values: NDArray[Any],
    outputs: tuple[Any, ...],
) -> None:
    """Run a pass of :mod:`plstm_graph.kernels.cpu.gates` over all blocks."""
    lines, borders = structure
    edge_id, multitree = _views([dag.edge_id, dag.multitree])
    check_columns(edge_id, multitree, lines, columns)
    arrays = (*lines, edge_id, multitree)
    settings = (layout.start_logits, layout.heads, layout.shared_heads, np.array(layout.places))

    def run(first: int, last: int) -> None:
        kernel(first, last, *inputs, arrays, borders, *settings, values, *outputs)

    run_over_ranges(run, _WORK_PER_LOGIT * values.shape[1] * np.diff(borders[1]))


class _ScanArrays(NamedTuple):
    """A scan's inputs as compiled code takes them."""

    nodes: tuple[_Columns, ...]  # query, key, value and direct
    gates: Arrays  # source, transition and mark
    structure: _Structure
    dims: tuple[int, int, int]  # H, K, V
    norm: tuple[Any, Any, NDArray[Any]]  # see blocks

    def forward(self, out: _Columns) -> None:
        """Write the output, and by what a norm has multiplied it."""
        self._run(blocks.forward, blocks.forward_long, 1.0, (), (out,))

    def backward(
        self,
        grad: _Columns,
        out: _Columns,
        node_grads: tuple[_Columns, ...],
        gate_grads: Arrays,
    ) -> None:
        """Write the gradients of nodes and gates for that of the output."""
        outputs = (out, node_grads, gate_grads)
        self._run(blocks.backward, blocks.backward_long, _BACKWARD_OPERATIONS, (grad,), outputs)

    def _run(
        self,
        kernel: Callable[..., None],
        long_kernel: Callable[..., None],
        factor: float,
        grads: tuple[_Columns, ...],
        outputs: tuple[Any, ...],
    ) -> None:
        """Run a pass over all blocks, then over the heads of each long one.

        ``factor`` is the work of the pass, to that of the forward pass.
        """
        lines_of_edges, (node_ptr, edge_ptr) = self.structure
        _, pred_ptr, pred = lines_of_edges
        arguments = (
            *grads, self.nodes, self.gates, lines_of_edges, (node_ptr, edge_ptr), self.dims, self.norm,
            *outputs,
        )  # fmt: skip
        counts, edges, lines = np.diff(node_ptr), np.diff(edge_ptr), np.diff(pred_ptr[edge_ptr])
        heads, *dims = *self.dims, len(self.gates[0])
        dense = as_python(gating_cost)(counts, edges, lines, *dims)
        states = as_python(state_cost)(edges, lines, *dims)
        work = factor * np.minimum(dense, states).astype(np.float64)  # of a head
        long = [
            b
            for b in np.flatnonzero(edges > WHOLE_STATE_BLOCK)
            if prefers_chunks(counts[b], edges[b], lines[b], *dims)
        ]
        cuts = {b: cut(edge_ptr[b], edge_ptr[b + 1], pred_ptr, pred) for b in long}  # the same for all heads
        heads_of_long = [(b, h) for b in long for h in range(heads)]

        def run(first: int, last: int) -> None:
            kernel(first, last, *arguments)

        def run_long(first: int, last: int) -> None:
            for b, h in heads_of_long[first:last]:
                long_kernel(b, h, cuts[b], *arguments)

        short = heads * work
        short[long] = 0
        run_over_ranges(run, short)
        if long:
            run_over_ranges(run_long, np.repeat(work[long], heads))


def _structure(dag: LineGraph) -> _Structure:
    """The DAG as the kernels take it, checked."""
    ends = torch.stack([dag.src, dag.dst])
    structure = _views([ends, dag.pred_ptr, dag.pred]), _views([dag.node_ptr, dag.edge_ptr])
    check_bounds(*structure, dag.num_nodes)
    return structure


def _columns(tensors: Sequence[Tensor]) -> tuple[_Columns, ...]:
    """All columns of tensors [N, …]."""
    return tuple((x.reshape(-1), int(np.prod(x.shape[1:]))) for x in _views(tensors))


def _layer_columns(projected: Tensor, layout: HeadLayout) -> tuple[_Columns, ...]:
    """Columns of query, key, value, logits and direct."""
    ((memory, stride),) = _columns([projected])
    starts = np.cumsum([0, *layout.widths[:-1]])
    return tuple((memory[start:], stride) for start in starts)


def _views(tensors: Sequence[Tensor]) -> Arrays:
    """The memory of the tensors, contiguous."""
    return tuple(x.detach().contiguous().numpy() for x in tensors)
