"""Contributions of atoms and bonds to a prediction, and the gating matrices of a network."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from plstm_graph.chem import smiles_to_data
from plstm_graph.conv import GatingMatrix, PLSTMConv
from plstm_graph.errors import InputError
from plstm_graph.models import GraphNetwork
from plstm_graph.models.gradients import path_gradients
from plstm_graph.predictor import Predictor


class EncodedNetwork(nn.Module):
    """A network of encoded features, called as PyG's explainers call a model.

    OGB's features are numbers of categories, which no mask can scale; their encodings can be:

    .. code-block:: python

        model = EncodedNetwork(network, data)
        x, edge_attr = network.encode(data)
        explainer = Explainer(model, GNNExplainer(), ...)
        explanation = explainer(x.detach(), data.edge_index, edge_attr=edge_attr.detach())

    Args:
        network: a network of this package.
        data: the graph or batch to be explained, which fixes the DAGs and which nodes are whose.

    Raises:
        InputError: the network has branches beside its nodes.
    """

    def __init__(self, network: GraphNetwork, data: Data) -> None:
        super().__init__()
        beside = [type(branch).__name__ for branch in network.branches[1:]]
        if beside:
            raise InputError(
                f"{beside[0]} has no gradients with respect to atoms and bonds; explain a network that was "
                "trained without branches."
            )
        self.network = network
        self.graphs = network.graphs(data)
        self.dags = network.dags(data)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Predict [num_graphs, out_channels] from features [N, hidden_channels] and [C, hidden_channels]."""
        encoded = self.graphs._replace(x=x, edge_index=edge_index, edge_attr=edge_attr)
        return self.network.predict(self.network.read_out(self.graphs, encoded, self.dags))


def gating_matrices(network: nn.Module, data: Data) -> list[GatingMatrix]:
    """Gating matrices of all scans of a network, in the order in which they run.

    Of a network with ``roots`` they are those of the first pass, then of the second, and so on.

    Args:
        network: any module that is called with ``data`` and has :class:`~plstm_graph.PLSTMConv` layers.
        data: a graph or batch.

    Raises:
        InputError: no scan ran that could be watched, since the network is compiled.

    Complexity: a call of the network, and of every scan O(pairs of nodes that a path joins · heads).
    """
    matrices: list[GatingMatrix] = []

    def ask(scan: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"return_gating": True}

    def keep(scan: nn.Module, args: Any, output: tuple[Tensor, GatingMatrix]) -> Tensor:
        matrices.append(output[1])
        return output[0]

    hooks = [
        hook
        for scan in network.modules()
        if isinstance(scan, PLSTMConv)
        for hook in (
            scan.register_forward_pre_hook(ask, with_kwargs=True),
            scan.register_forward_hook(keep, prepend=True),
        )
    ]
    try:
        network(data)
    finally:
        for hook in hooks:
            hook.remove()
    if hooks and not matrices:
        raise InputError("No scan could be watched: pass the network as it was before torch.compile.")
    return matrices


@torch.inference_mode(False)
@torch.enable_grad()
def contributions(predictor: Predictor, data: Data) -> tuple[Tensor, Tensor]:
    r"""Share a prediction out among atoms and bonds, against the molecule as an alkane of the same shape.

    Integrated gradients from a reference in which every atom is a CH2 of a chain and every bond single:

    .. math::
        a_i = \sum_c (x_{ic} - r_c) \int_0^1 \frac{\partial f}{\partial x_{ic}} (r + \alpha (x - r)) d\alpha

    They sum to the difference between the prediction and the reference's, up to the error of the midpoint
    rule, about a hundredth. Classification is explained by the log-odds, a choice of classes by their logits,
    regression in the targets' unit. Descriptors belong to the molecule: the reference has the same.

    The prediction is the mean over branches, by their weights, and so are contributions. Those above are of
    the nodes' branch; the others share theirs out by :meth:`~plstm_graph.models.Branch.contributions`:
    integrated gradients of environments and pairs of atoms, equally among their atoms. What was learned by
    normal scores is shared out by scores, and scaled by how far both predictions are apart.

    Args:
        predictor: a :class:`~plstm_graph.task.GraphTask` or another, with a network for OGB's features, in
            evaluation mode.
        data: a molecule or a batch of B molecules with N atoms and C columns of ``edge_index``.

    Returns:
        [N, T] for atoms and [C, T] for columns, of which every bond has two.

    Raises:
        InputError: the network does not take OGB's features, or has a branch that cannot be shared out.

    Complexity: 32 passes forward and T·32 backward. Source: Sundararajan et al., arXiv 1703.01365.
    """
    if not isinstance(predictor, Predictor) or not isinstance(data, Data):
        raise InputError(
            "contributions takes a Predictor, such as Predictor.from_checkpoint(path).eval(), and a graph or "
            f"batch, not a {type(predictor).__name__} and a {type(data).__name__}."
        )
    network = predictor.network
    batch = (data if isinstance(data, Batch) else Batch.from_data_list([data])).clone()
    chain, alkane = smiles_to_data("CCC"), batch.clone()
    with torch.no_grad():
        ends, embedding = _encode(network, batch), network.embed(batch)
        alkane.x = chain.x[1].expand_as(batch.x)
        alkane.edge_attr = chain.edge_attr[0].expand_as(batch.edge_attr)
        starts = _encode(network, alkane)
    branches: list[Any] = list(network.branches)
    widths = [branch.parts * branch.channels for branch in branches]
    parts = embedding.split([*widths, embedding.size(1) - sum(widths)], dim=1)
    graphs, reference, dags = network.graphs(batch), network.graphs(alkane), network.dags(batch)

    def predict(number: int, part: Tensor) -> Tensor:
        """What a branch predicts, and a constant of the others."""
        whole = torch.cat([*parts[:number], part, *parts[number + 1 :]], dim=1)
        return network.predict(whole) / network.shares[number]

    def predict_by_nodes(x: Tensor, edge_attr: Tensor) -> Tensor:
        encoded = graphs._replace(x=x, edge_attr=edge_attr)
        passes = [network.run_blocks(encoded._replace(dag=dag)) for dag in dags]
        return predict(0, branches[0](graphs, passes))

    totals = [end.new_zeros(end.size(0), network.out_channels) for end in ends]
    for number, branch in enumerate(branches[1:], 1):
        shares = branch.contributions(graphs, reference, partial(predict, number))
        totals[0] += network.shares[number] * shares
    for target, gradients in path_gradients(predict_by_nodes, starts, ends):
        for total, gradient, a, b in zip(totals, gradients, starts, ends, strict=True):
            total[:, target] += network.shares[0] * (gradient * (b - a)).sum(1)
    with torch.no_grad():
        scale = _scale(predictor, network(alkane), network.predict(embedding))
    return totals[0] * scale[graphs.batch], totals[1] * scale[graphs.batch[graphs.edge_index[0]]]


def _scale(predictor: Predictor, starts: Tensor, ends: Tensor) -> Tensor:
    """What the difference of a network's outputs [B, T] is multiplied by to be that of predictions."""
    if predictor.task != "regression":
        return torch.ones_like(starts)
    if predictor.normal_scores is None:
        return predictor.target_std.expand_as(starts)
    scores = torch.stack([starts, ends]) * predictor.target_std + predictor.target_mean
    low, high = scores.aminmax(dim=0)
    close = 1e-3 * (high - low < 1e-3)  # of almost equal scores, the slope around both
    low, high = low - close, high + close
    gained = predictor.normal_scores.inverse(high) - predictor.normal_scores.inverse(low)
    return predictor.target_std * gained / (high - low)


def _encode(network: GraphNetwork, batch: Data) -> tuple[Tensor, Tensor]:
    """Encoded features of OGB's atoms and bonds."""
    x, edge_attr = network.encode(batch)
    if network.in_channels is not None or edge_attr is None:
        raise InputError("Contributions are for networks with OGB's atom and bond features.")
    return x, edge_attr
