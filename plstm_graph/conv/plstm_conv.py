"""PLSTMConv: a layer whose linear recurrence crosses a whole molecule."""

from collections.abc import Callable
from typing import Literal, NoReturn, get_args, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import Linear, MessagePassing, inits
from torch_geometric.nn.dense.linear import is_uninitialized_parameter

from plstm_graph.conv.arguments import (
    TURNED,
    check_dag,
    check_features,
    check_traceable,
    columns_of,
    dag_of_arguments,
    one_set_of_nodes,
    refuse_torchscript,
)
from plstm_graph.conv.gates import edge_logits, reset_offsets
from plstm_graph.conv.gating_matrix import GatingMatrix, mask_gates
from plstm_graph.conv.states import StateGates
from plstm_graph.dag import LineGraphDAG, Orientation
from plstm_graph.dag.orientation import check_orientation
from plstm_graph.dag.transform import STALE
from plstm_graph.errors import InputError, listed
from plstm_graph.kernels import Backend, HeadLayout, HeadMode, gating_matrix
from plstm_graph.kernels.heads import HeadInputs, head_inputs, normed_heads, scan_heads
from plstm_graph.ranges import WIDE, check_range


class PLSTMConv(MessagePassing):
    r"""The pLSTM graph layer from the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper: a linear recurrence along the line graph of an oriented graph.

    .. math::
        C_e = S_e \, k_{src(e)} v_{src(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'}

        x'_n = W_O \, \eta \Big( \sum_{dst(e) = n} M_e \, q_n^T C_e + D_n (q_n \cdot k_n) v_n \Big) + W_R x_n

    with :math:`q = \eta(W_Q x) / \sqrt{K}`, :math:`k = \eta(W_K x)`, :math:`v = W_V x` per head, source,
    transition and mark gates in (0, 1) from linear maps of node and bond features
    (:func:`~plstm_graph.kernels.gates_of`), and a direct gate :math:`D = W_D x + b_D`, any number, 1 at the
    start for :math:`x = 0`. The norm of a head's channels,

    .. math:: \eta_r(h) = h / \sqrt{1 + \tfrac{1}{K r^2} \sum_c h_c^2}, \quad \eta = \eta_1,

    lets no root mean square exceed r and leaves what is far below it nearly as it is: counts among few
    ancestors. So what a node receives is bounded, whatever the input and however many ancestors it has:
    :math:`\lVert x'_n - W_R x_n \rVert \le \lVert W_O \rVert \sqrt{H K} + \lVert b \rVert`.

    A graph with both directions of every bond is oriented to a DAG; a directed one must be acyclic and
    keeps its directions. An atom receives from its ancestors and, if ``bidirectional``, from its descendants.
    With the default orientation, atoms in different branches of the centre meet after two layers.

    A plain call builds its DAG from its own arguments; a prepared one saves that. ``torch.compile`` builds it
    outside of the compiled graph; ``fullgraph=True`` and ``torch.export`` need it prepared.

    Args:
        in_channels: width of the input, -1 to take it from the first call.
        out_channels: width of the output, any.
        heads: H, the number of heads.
        mode: ``"P"`` (propagation: what an edge holds is shared out among its successors), ``"D"``
            (distribution: it goes whole to each of them, along a multitree), or ``"PD"``: each in half of
            the heads.
        bidirectional: walk the reversed DAG as well, with gates of its own.
        edge_dim: width of the bond features, which feed the source, transition and mark gates.
        orientation: how undirected graphs become DAGs, see :func:`plstm_graph.dag.rank_nodes`.
        bias: additive biases of the query, key, value and output maps; the gates always have offsets.
        head_dim: K, query, key and value channels of every head; by default out_channels / H, rounded up.
        backend: implementation of the scan, see :func:`plstm_graph.kernels.stm`.
        state_dim: J, components of a state, which matrix transitions rotate
            (:class:`~plstm_graph.conv.StateGates`); with 1, transitions are positive scalars.
        root_weight: add :math:`W_R x_n`. A scan alone keeps of a node's own features what its query and key
            agree on. Set it to ``False`` where the layer stands in a residual block, which adds its input
            and norms it before: then queries and keys go through :math:`\eta_{16}`, lest they overflow.
        **kwargs: ``flow`` of PyG's layers: ``"source_to_target"``, or ``"target_to_source"`` for directed
            graphs whose columns point from the end to the start; a prepared DAG is of the columns turned
            round. Nothing else of theirs can be set.

    Shapes:
        - **input:** node features :math:`(|V|, F_{in})`, edge indices :math:`(2, |E|)`, bond features
          :math:`(|E|, D)` *(optional)*
        - **output:** node features :math:`(|V|, F_{out})`

    Raises:
        InputError: shapes that do not fit, a graph that cannot be oriented, or something that other layers of
            PyG do and a scan cannot: two sets of nodes, aggregations, hooks on messages, ``torch.jit``.

    Complexity: see :func:`plstm_graph.kernels.stm`.

    Example:
        >>> from plstm_graph import PLSTMConv
        >>> from plstm_graph.chem import smiles_to_data
        >>> phenol = smiles_to_data("c1ccccc1O")
        >>> conv = PLSTMConv(9, 16, heads=4, mode="P", edge_dim=3)
        >>> x = conv(phenol.x.float(), phenol.edge_index, phenol.edge_attr.float())
        >>> x.shape
        torch.Size([7, 16])
        >>> x, gating = conv(
        ...     phenol.x.float(), phenol.edge_index, phenol.edge_attr.float(), return_gating=True
        ... )
        >>> gating.dense(7).shape  # receivers, senders, directions, heads
        torch.Size([7, 7, 2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 4,
        mode: HeadMode = "P",
        bidirectional: bool = True,
        *,
        edge_dim: int | None = None,
        orientation: Orientation = "center",
        bias: bool = True,
        head_dim: int | None = None,
        backend: Backend = "auto",
        state_dim: int = 1,
        root_weight: bool = True,
        **kwargs: str,
    ) -> None:
        flow = kwargs.pop("flow", "source_to_target")
        if kwargs:
            raise InputError(
                f"PLSTMConv takes no {', '.join(kwargs)}: its scan is no message passing to be set up; "
                "leave it out."
            )
        if isinstance(in_channels, tuple | list):
            raise InputError(
                f"in_channels must be one width, not {in_channels}: a scan walks one set of nodes, not from "
                "one set to another (bipartite graphs)."
            )
        if flow not in ("source_to_target", "target_to_source"):
            raise InputError(f"flow must be 'source_to_target' or 'target_to_source', not {flow!r}.")
        super().__init__(aggr="add", flow=flow)
        check_range(1, WIDE, out_channels=out_channels, heads=heads, head_dim=head_dim, state_dim=state_dim)
        inferred = {"in_channels": in_channels, "edge_dim": edge_dim}
        check_range(1, WIDE, **{name: width for name, width in inferred.items() if width != -1})
        if mode not in get_args(HeadMode):
            raise InputError(f"mode must be 'P', 'D' or 'PD', not {mode!r}.")
        if backend not in get_args(Backend):
            raise InputError(f"backend must be {listed(get_args(Backend))}, not {backend!r}.")
        if mode == "PD" and heads % 2:
            raise InputError(f"mode 'PD' needs an even number of heads, not {heads}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.mode: HeadMode = mode
        self.bidirectional = bidirectional
        self.edge_dim = edge_dim
        self.head_dim = -(-out_channels // heads) if head_dim is None else head_dim
        self.state_dim = state_dim
        self.root_weight = root_weight
        self.orientation = check_orientation(orientation)
        self.backend: Backend = backend
        # A residual block norms what the layer reads: queries and keys only must not overflow.
        largest_input = 1.0 if root_weight else 16.0
        self.layout = HeadLayout(heads, self.head_dim, mode, 2 if bidirectional else 1, largest_input)
        inner_channels = heads * self.head_dim
        # One product for query, key, value and the gates of nodes, whose offsets have values of their own to
        # start from. A width that is inferred later must not overwrite these.
        self.lin_in = Linear(in_channels, sum(self.layout.widths), bias=False)
        self.bias = nn.Parameter(torch.empty(3 * inner_channels)) if bias else None
        self.gate_offset = nn.Parameter(torch.empty(self.layout.edge_logits + heads))
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, self.layout.edge_logits, bias=False)
        self.states = None
        if state_dim > 1:
            self.states = StateGates(in_channels, heads, state_dim, bidirectional, edge_dim)
        self.lin_out = Linear(inner_channels, out_channels, bias=bias)
        self.lin_root = Linear(in_channels, out_channels, bias=False) if root_weight else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        super().reset_parameters()
        for module in (self.lin_in, self.lin_edge, self.states, self.lin_out, self.lin_root):
            inits.reset(module)
        if not is_uninitialized_parameter(self.lin_in.weight):
            inits.uniform(self.lin_in.in_channels, self.bias)
        reset_offsets(self.gate_offset, self.layout)

    @overload
    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = ...,
        batch: Tensor | None = ...,
        dag: LineGraphDAG | None = ...,
        *,
        return_gating: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = ...,
        batch: Tensor | None = ...,
        dag: LineGraphDAG | None = ...,
        *,
        return_gating: Literal[True],
    ) -> tuple[Tensor, GatingMatrix]: ...

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        dag: LineGraphDAG | None = None,
        *,
        return_gating: bool = False,
    ) -> Tensor | tuple[Tensor, GatingMatrix]:
        """Run the layer.

        Args:
            x: [N, in_channels], or the same tensor twice, (x, x).
            edge_index: [2, C], or a matrix of ``torch.sparse`` with a row for every bond's end, as PyG has it
                (``adj_t``), whose values are the bonds' features if the layer takes any.
            edge_attr: [C, edge_dim], all zeros if left out.
            batch: [N] sorted; never needed, checked against the bonds when a DAG is built.
            dag: the prepared line graph of ``edge_index``, which is refused if it does not fit. Without it
                one is built from ``edge_index``, with ``x`` and ``edge_attr`` to break ties.
            return_gating: return the gating matrix too, from the same gates.

        Returns:
            [N, out_channels], or a tuple of that and the :class:`~plstm_graph.conv.GatingMatrix` of what the
            last norm is given.
        """
        check_traceable(dag)
        x = one_set_of_nodes(x, self.in_channels)
        edge_index, edge_attr = columns_of(edge_index, edge_attr, self.edge_dim is not None)
        check_features(x, edge_index, edge_attr)
        turned = self.flow == "target_to_source"
        if turned:
            edge_index = edge_index.flip(0)
        if dag is None:
            dag = dag_of_arguments(x, edge_index, edge_attr, batch, self.orientation)
        else:
            check_dag(dag, x, edge_index, TURNED if turned else STALE)
        projected = self.project(x)
        logits = None if edge_attr is None else edge_logits(self.lin_edge, edge_attr)
        if self.states is None and not self.explain and not return_gating:
            return self._output(normed_heads(projected, logits, dag, self.layout, self.backend), x)
        inputs = head_inputs(projected, logits, dag, self.layout)
        if self.states is not None:
            inputs = inputs._replace(gates=self.states(x, edge_attr, dag, inputs.gates))
        if self.explain:  # one of PyG's explainers masks edges
            mask = self._explained_columns(edge_index)
            inputs = inputs._replace(gates=mask_gates(inputs.gates, mask, edge_index, dag))
        out = self._output(scan_heads(inputs, dag, self.backend), x)
        return (out, _gating_matrix(inputs, dag)) if return_gating else out

    def project(self, x: Tensor) -> Tensor:
        """Map nodes to all that heads are made of, in one product, which ``self.layout.split`` takes apart.

        Args:
            x: [N, in_channels].

        Returns:
            Query, key, value and logits of gates, [N, sum of the layout's widths].
        """
        if is_uninitialized_parameter(getattr(self.lin_in, "weight", None)):
            self.lin_in.initialize_parameters(self.lin_in, (x,))
            inits.uniform(x.size(1), self.bias)
        bias = self.gate_offset.new_zeros(3 * self.heads * self.head_dim) if self.bias is None else self.bias
        offsets = torch.cat([bias, self.gate_offset])
        own = self.lin_in
        watched = (
            own._forward_hooks or own._forward_pre_hooks or own._backward_hooks or own._backward_pre_hooks
        )
        if type(own) is Linear and not watched:
            return F.linear(x, self.lin_in.weight, offsets)
        return self.lin_in(x) + offsets  # one of somebody else's, or with hooks

    def _output(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Map the heads [N, H, K] and the input to the output."""
        out = self.lin_out(hidden.flatten(1))
        return out if self.lin_root is None else out + self.lin_root(x)

    def _explained_columns(self, edge_index: Tensor) -> Tensor:
        """The mask of an explainer, one value for each column of edge_index."""
        replaced = getattr(self.explain_message, "__func__", None) is not MessagePassing.explain_message
        if replaced or self._edge_mask is None:
            raise InputError(
                "PLSTMConv has no messages to replace, only edges to mask: explain it by GNNExplainer, "
                "PGExplainer or CaptumExplainer, or set its explain to False."
            )
        if self._edge_mask.size(0) != edge_index.size(1):
            raise InputError(
                f"{self._edge_mask.size(0)} edges are masked, but edge_index has {edge_index.size(1)} "
                "columns; give the layer the edges that are explained, or set its explain to False."
            )
        return self._edge_mask.sigmoid() if self._apply_sigmoid else self._edge_mask

    def _never_fires(self, hook: Callable[..., object]) -> NoReturn:
        """Refuse a hook on a step of message passing, none of which a scan takes."""
        raise InputError(
            "PLSTMConv has no propagate, message, aggregate or edge_update that a hook could watch; use "
            "register_forward_hook, or return_gating=True to see which node receives from which."
        )

    register_propagate_forward_pre_hook = register_propagate_forward_hook = _never_fires
    register_message_forward_pre_hook = register_message_forward_hook = _never_fires
    register_aggregate_forward_pre_hook = register_aggregate_forward_hook = _never_fires
    register_message_and_aggregate_forward_pre_hook = _never_fires
    register_message_and_aggregate_forward_hook = _never_fires
    register_edge_update_forward_pre_hook = register_edge_update_forward_hook = _never_fires

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``, on layers inside other modules too."""
        refuse_torchscript()

    def __repr__(self) -> str:
        channels = f"{self.in_channels}, {self.out_channels}"
        return f"{type(self).__name__}({channels}, heads={self.heads}, mode={self.mode})"


def _gating_matrix(inputs: HeadInputs, dag: LineGraphDAG) -> GatingMatrix:
    """The gating matrix of a scan."""
    own, *reverse = inputs.gates
    receiver, sender, gating = gating_matrix(
        **own._asdict(), direct=inputs.direct, dag=dag, reverse=reverse[0] if reverse else None
    )
    scores = (inputs.query[receiver] * inputs.key[sender]).sum(-1)
    return GatingMatrix(sender, receiver, gating, scores)
