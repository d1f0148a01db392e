"""PLSTMConv: a layer whose linear recurrence crosses a whole molecule."""

from typing import Literal, get_args, overload

from torch import Tensor, nn
from torch_geometric.nn import Linear, MessagePassing
from torch_geometric.nn.inits import reset

from plstm_graph.conv.explanation import GatingMatrix, mask_gates
from plstm_graph.conv.gates import HeadMode, STMGates
from plstm_graph.conv.shared_dag import shared_dag
from plstm_graph.conv.states import StateGates
from plstm_graph.dag import LineGraphDAG, Orientation
from plstm_graph.errors import InputError
from plstm_graph.kernels import Backend, Mode, gating_matrix, stm


class PLSTMConv(MessagePassing):
    r"""The pLSTM graph layer from the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper: a linear recurrence along the line graph of an oriented graph.

    .. math::
        C_e = S_e \, k_{src(e)} v_{src(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'}, \qquad
        x'_n = W_O \Big( \sum_{e: dst(e) = n} M_e \, q_n^T C_e + D_n (q_n \cdot k_n) v_n \Big)

    with :math:`q = W_Q x / \sqrt{K}`, :math:`k = W_K x`, :math:`v = W_V x` per head and gates from node
    and bond features (:class:`~plstm_graph.conv.gates.STMGates`).

    A graph with both directions of every bond is oriented to a DAG; a directed one must be acyclic and
    keeps its directions. An atom hears from its ancestors and, if ``bidirectional``, from its descendants.
    With the default orientation, atoms in different branches of the centre meet after two layers.

    Args:
        in_channels: width of the input, -1 to take it from the first call.
        out_channels: width of the output.
        heads: H.
        mode: ``"P"`` (propagation: what an edge holds is shared out among its successors), ``"D"``
            (distribution: it goes whole to each of them, along a multitree), or ``"PD"``: each in half of
            the heads.
        bidirectional: walk the reversed DAG as well, with gates of its own.
        edge_dim: width of the bond features, which feed the source, transition and mark gates.
        orientation: how undirected graphs become DAGs, see :func:`plstm_graph.dag.rank_nodes`.
        bias: additive biases of the query, key, value and output maps; the gates always have offsets.
        head_dim: query, key and value channels of every head; by default out_channels / H.
        backend: see :func:`plstm_graph.kernels.stm`.
        state_dim: J, components of a state, which matrix transitions rotate
            (:class:`~plstm_graph.conv.StateGates`); with 1, transitions are positive scalars.
        qk_norm: bring every head's queries and keys to a root mean square of 1, times a learned scale a
            channel (Henry et al., arXiv 2010.04245). Without it what an atom tells itself grows with the
            fourth power of its features (query, key, value and direct gate), with it with the second.
        **kwargs: of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** node features :math:`(|V|, F_{in})`, edge indices :math:`(2, |E|)`, bond features
          :math:`(|E|, D)` *(optional)*
        - **output:** node features :math:`(|V|, F_{out})`

    Raises:
        InputError: shapes that do not fit, or a graph that cannot be oriented.

    Complexity: see :func:`plstm_graph.kernels.stm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 4,
        mode: HeadMode = "P",
        bidirectional: bool = True,
        edge_dim: int | None = None,
        orientation: Orientation = "center",
        bias: bool = True,
        head_dim: int | None = None,
        backend: Backend = "auto",
        state_dim: int = 1,
        qk_norm: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(aggr="add", **kwargs)
        if heads < 1 or out_channels < 1 or (head_dim is None and out_channels % heads):
            raise InputError(
                f"out_channels must be a multiple of heads, but {out_channels} is not one of {heads}; "
                "or choose head_dim."
            )
        if head_dim is not None and head_dim < 1:
            raise InputError(f"head_dim must be at least 1, not {head_dim}.")
        if state_dim < 1:
            raise InputError(f"state_dim must be at least 1, not {state_dim}.")
        if mode not in get_args(HeadMode):
            raise InputError(f"mode must be 'P', 'D' or 'PD', not {mode!r}.")
        if mode == "PD" and heads % 2:
            raise InputError(f"mode 'PD' needs an even number of heads, not {heads}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.mode: HeadMode = mode
        self.bidirectional = bidirectional
        self.edge_dim = edge_dim
        self.head_dim = out_channels // heads if head_dim is None else head_dim
        self.state_dim = state_dim
        self.qk_norm = qk_norm
        self.orientation = orientation
        self.backend: Backend = backend
        inner_channels = heads * self.head_dim
        self.lin_query = Linear(in_channels, inner_channels, bias=bias)
        self.lin_key = Linear(in_channels, inner_channels, bias=bias)
        self.lin_value = Linear(in_channels, inner_channels, bias=bias)
        self.query_norm, self.key_norm = (
            nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.gates = STMGates(in_channels, heads, mode, bidirectional, edge_dim)
        self.states = None
        if state_dim > 1:
            self.states = StateGates(in_channels, heads, state_dim, bidirectional, edge_dim)
        self.lin_out = Linear(inner_channels, out_channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        super().reset_parameters()
        inputs = (self.lin_query, self.lin_key, self.lin_value, self.query_norm, self.key_norm)
        for module in (*inputs, self.gates, self.states, self.lin_out):  # in this order with every seed
            reset(module)

    @overload
    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = ...,
        batch: Tensor | None = ...,
        dag: LineGraphDAG | None = ...,
        return_gating: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = ...,
        batch: Tensor | None = ...,
        dag: LineGraphDAG | None = ...,
        *,
        return_gating: Literal[True],
    ) -> tuple[Tensor, GatingMatrix]: ...

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        dag: LineGraphDAG | None = None,
        return_gating: bool = False,
    ) -> Tensor | tuple[Tensor, GatingMatrix]:
        """Run the layer.

        Args:
            x: [N, in_channels].
            edge_index: [2, C].
            edge_attr: [C, edge_dim].
            batch: [N] sorted; never needed, checked against the bonds when a DAG is built.
            dag: the prepared line graph of ``edge_index``. Without it one is built from ``edge_index``,
                with ``x`` and ``edge_attr`` to break ties, and shared with the layers that are called
                with the same ``edge_index`` afterwards.

            return_gating: return the gating matrix too, from the same gates.

        Returns:
            [N, out_channels], or a tuple of that and the :class:`~plstm_graph.conv.GatingMatrix`.
        """
        if x.dim() != 2 or self.in_channels not in (-1, x.size(1)):
            raise InputError(f"x needs the shape [num_nodes, {self.in_channels}], not {list(x.shape)}.")
        if edge_attr is not None and edge_attr.shape[:1] != edge_index.shape[1:]:
            rows, columns = sum(edge_attr.shape[:1]), edge_index.size(1)
            raise InputError(f"edge_attr has {rows} rows, but edge_index has {columns} columns.")
        for name, features in (("x", x), ("edge_attr", edge_attr)):
            if features is None:
                continue
            if not features.is_floating_point():
                raise InputError(f"{name} must be floating point, not {features.dtype}; encode it first.")
            if features.device != edge_index.device:
                raise InputError(
                    f"{name} is on {features.device}, but edge_index is on {edge_index.device}; move one."
                )
        if dag is None:
            dag = shared_dag(edge_index, x, edge_attr, batch, self.orientation)
        elif dag.num_nodes != x.size(0):
            raise InputError(f"the DAG has {dag.num_nodes} nodes, but x has {x.size(0)} rows.")
        query, key, value = (
            linear(x).unflatten(1, (self.heads, -1))
            for linear in (self.lin_query, self.lin_key, self.lin_value)
        )
        query = self.query_norm(query) * self.head_dim**-0.5
        key = self.key_norm(key)
        gates, direct = self.gates(x, edge_attr, dag)
        if self.states is not None:
            gates = self.states(x, edge_attr, dag, gates)
        if self.explain:  # one of PyG's explainers masks edges
            mask = self._edge_mask.sigmoid() if self._apply_sigmoid else self._edge_mask
            gates = mask_gates(gates, mask, edge_index, dag)
        (source, transition, mark), reverse = gates[0], gates[1] if self.bidirectional else None
        mode: Mode = "D" if self.mode == "D" else "P"  # with "PD", gates leave out the D heads' lines
        hidden = stm(
            query, key, value, source, transition, mark, direct, dag,
            mode=mode, reverse=reverse, backend=self.backend,
        )  # fmt: skip
        out = self.lin_out(hidden.flatten(1))
        if not return_gating:
            return out
        receiver, sender, gating = gating_matrix(
            source, transition, mark, direct, dag, mode=mode, reverse=reverse
        )
        scores = (query[receiver] * key[sender]).sum(-1)
        return out, GatingMatrix(sender, receiver, gating, scores)

    def __repr__(self) -> str:
        channels = f"{self.in_channels}, {self.out_channels}"
        return f"{type(self).__name__}({channels}, heads={self.heads}, mode={self.mode})"
