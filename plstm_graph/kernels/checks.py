"""Checks of the op's arguments, each with a sentence for what it refuses."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.errors import InputError
from plstm_graph.kernels.cost import Backend, why_not_triton


def check_mode(mode: str) -> None:
    """Refuse unknown modes."""
    if mode not in ("P", "D"):
        raise InputError(f"mode must be 'P' or 'D', not {mode!r}.")


def check_backend(backend: str, dag: LineGraph, key_dim: int) -> None:
    """Refuse a backend that is unknown, or that cannot run on these graphs, or not there."""
    if backend not in get_args(Backend):
        raise InputError(
            f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, not {backend!r}."
        )
    if backend == "cpu" and dag.device.type != "cpu":
        raise InputError(f"backend 'cpu' needs tensors on the CPU, not on {dag.device}; use backend 'auto'.")
    if backend == "lattice" and dag.lattice is None:
        raise InputError(
            "backend 'lattice' takes batches of sequence_dag or grid_dag of one size, and states of one "
            "component; use backend 'auto'."
        )
    reason = why_not_triton(dag.device, key_dim) if backend == "triton" else None
    if reason is not None:
        raise InputError(f"backend 'triton' {reason}.")


def check_nodes(query: Tensor, key: Tensor, value: Tensor, direct: Tensor, dag: LineGraph) -> None:
    """Refuse node inputs that do not fit each other or the DAG."""
    if query.dim() != 3 or query.size(0) != dag.num_nodes or 0 in query.shape[1:]:
        raise InputError(f"query needs the shape [{dag.num_nodes}, heads, dim], not {list(query.shape)}.")
    if key.shape != query.shape:
        raise InputError(f"key needs query's shape {list(query.shape)}, not {list(key.shape)}.")
    if value.dim() != 3 or value.shape[:2] != query.shape[:2] or value.size(2) == 0:
        raise InputError(f"value needs the shape {[*query.shape[:2], 'dim']}, not {list(value.shape)}.")
    check_direct(direct, dag, query.size(1))
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        _check_tensor(name, tensor, dag)


def check_direct(direct: Tensor, dag: LineGraph, heads: int) -> None:
    """Refuse direct gates that do not fit the DAG or the heads."""
    if direct.shape != (dag.num_nodes, heads):
        raise InputError(f"direct needs the shape {[dag.num_nodes, heads]}, not {list(direct.shape)}.")
    _check_tensor("direct", direct, dag)


def check_gates(directions: Sequence[Sequence[Tensor]], heads: int, dag: LineGraph) -> None:
    """Refuse gates (source, transition, mark) that do not fit the DAG, or of which directions differ."""
    source = directions[0][0]
    components = source.shape[2:] if source.dim() == 3 else ()  # a state of one component needs no axis
    shapes = {
        "source": (dag.num_edges, heads, *components),
        "transition": (dag.num_lines, heads, *components, *components),
        "mark": (dag.num_edges, heads, *components),
    }
    for gates, prefix in zip(directions, ("", "reverse "), strict=False):
        for (name, shape), gate in zip(shapes.items(), gates, strict=True):
            if gate.shape != shape:
                raise InputError(f"{prefix}{name} needs the shape {list(shape)}, not {list(gate.shape)}.")
            _check_tensor(prefix + name, gate, dag)


def is_batched(tensor: Tensor) -> bool:
    """Return if ``torch.func.vmap`` has wrapped several samples."""
    return torch.func.debug_unwrap(tensor).shape != tensor.shape


def check_unbatched(*tensors: Tensor) -> None:
    """Refuse the samples of ``torch.func.vmap``, whose results would differ in size."""
    if any(map(is_batched, tensors)):
        raise InputError(
            "gating_matrix does not run under torch.func.vmap: how many pairs it returns depends on the "
            "numbers; call it sample by sample."
        )


def _check_tensor(name: str, tensor: Tensor, dag: LineGraph) -> None:
    if not tensor.is_floating_point():
        raise InputError(f"{name} must be floating point, not {tensor.dtype}.")
    if tensor.device != dag.device:
        raise InputError(
            f"{name} is on {tensor.device}, but the DAG is on {dag.device}; move it with dag.to()."
        )
