"""Assertions for models of graphs, and the tolerances that the package's own tests hold."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

#: Largest absolute and relative error of a backend against the oracle, by dtype. Float32 was seen at
#: 2e-6 (outputs) and 1e-5 (gradients) on molecules with gates in [0, 1].
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"atol": 1e-10, "rtol": 1e-10},
    torch.float32: {"atol": 1e-4, "rtol": 1e-4},
    torch.bfloat16: {"atol": 5e-2, "rtol": 5e-2},
    torch.float16: {"atol": 1e-2, "rtol": 1e-2},
}


def renumber_nodes(data: Data, order: Tensor) -> Data:
    """The same graph with its nodes in another order and its bonds listed in another order.

    Args:
        data: a graph; every attribute that PyG counts as a node's or an edge's moves along.
        order: [N] permutation; new node i is old node ``order[i]``.
    """
    position = torch.empty_like(order)
    position[order] = torch.arange(order.numel(), device=order.device)
    columns = torch.randperm(data.num_edges, device=order.device)
    renumbered = data.clone()
    for key, value in data.to_dict().items():
        if key == "edge_index":
            renumbered.edge_index = position[data.edge_index[:, columns]]
        elif data.is_node_attr(key):
            renumbered[key] = value[order]
        elif data.is_edge_attr(key):
            renumbered[key] = value[columns]
    return renumbered


def assert_renumbering_invariant(
    predict: Callable[[Batch], Tensor], graphs: Sequence[Data], *, atol: float | None = None, seed: int = 0
) -> None:
    """Fail unless predictions stay the same when the nodes of every graph are renumbered.

    Args:
        predict: a function from a batch to one row a graph, such as a network in evaluation mode.
        graphs: raw graphs: a DAG that was prepared for one numbering does not fit another.
        atol: largest absolute difference; by default 1e-9 of predictions in float64, 1e-4 in float32.
        seed: seed of the permutations.

    Raises:
        AssertionError: naming the graph that moved most.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        renumbered = [renumber_nodes(data, torch.randperm(int(data.num_nodes or 0))) for data in graphs]
        before = predict(Batch.from_data_list(list(graphs)))
        after = predict(Batch.from_data_list(renumbered))
    _assert_rows_close(before, after, atol, "renumbering its nodes")


def assert_batch_invariant(
    predict: Callable[[Batch], Tensor], graphs: Sequence[Data], *, atol: float | None = None
) -> None:
    """Fail unless every graph gets the same prediction alone as in a batch with the others.

    Args:
        predict: a function from a batch to one row a graph.
        graphs: the batch.
        atol: largest absolute difference; by default 1e-9 of predictions in float64, 1e-4 in float32.

    Raises:
        AssertionError: naming the graph that moved most.
    """
    with torch.no_grad():
        together = predict(Batch.from_data_list(list(graphs)))
        alone = torch.cat([predict(Batch.from_data_list([data])) for data in graphs])
    _assert_rows_close(together, alone, atol, "taking it out of the batch")


def _assert_rows_close(before: Tensor, after: Tensor, atol: float | None, what: str) -> None:
    if atol is None:
        atol = 1e-9 if before.dtype == torch.float64 else TOLERANCES[before.dtype]["atol"]
    distance = (before - after).abs().flatten(1).amax(1)
    worst = int(distance.argmax())
    if not distance[worst] <= atol:
        raise AssertionError(
            f"graph {worst}: {what} moves its prediction by {distance[worst]:.2e} > {atol:.0e}."
        )
