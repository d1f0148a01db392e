"""States of several components with matrix transitions, against the recurrence written out."""

import pytest
import torch
from graphs import bond_lists, both_directions, gates_of_layer, path
from hypothesis import given
from hypothesis import strategies as st
from oracle import output_and_gradients, random_inputs

from benchmarks.accuracy.parity import accuracy, train
from plstm_graph import LineGraphDAG, PLSTMConv, stm
from plstm_graph.errors import InputError
from plstm_graph.kernels import gating_matrix

BACKENDS = ["reference", "gating", "chunkwise", "cpu"]


def matrix_gates(dag, heads, state_dim, seed):
    """Source [E, H, J], transition [L, H, J, J] and mark [E, H, J] of small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (dag.num_edges, heads, state_dim), (dag.num_lines, heads, state_dim, state_dim)
    shapes += (shapes[0],)
    return [torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5 for shape in shapes]


def written_out(query, key, value, source, transition, mark, dag, kept):
    """One way of the scan, edge by edge, without the direct part."""
    states = []
    out = torch.zeros_like(value)
    for e in range(dag.num_edges):
        n = dag.src[e]
        outer = key[n].unsqueeze(-1) * value[n].unsqueeze(-2)  # [H, K, V]
        state = source[e][..., None, None] * outer.unsqueeze(1)  # [H, J, K, V]
        for line in range(dag.pred_ptr[e], dag.pred_ptr[e + 1]):
            if kept[line]:
                state = state + torch.einsum("hij,hjkv->hikv", transition[line], states[dag.pred[line]])
        states.append(state)
        read = torch.einsum("hj,hk,hjkv->hv", mark[e], query[dag.dst[e]], state)
        out = out.index_add(0, dag.dst[e : e + 1], read.unsqueeze(0))
    return out


@given(
    bond_lists(max_nodes=8),
    st.sampled_from(BACKENDS),
    st.sampled_from(["P", "D"]),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
)
def test_backends_give_the_recurrence_of_matrices(graph, backend, mode, dims, state_dim):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    (query, key, value, _, _, _, direct), _ = random_inputs(dag, *dims)
    gates, reverse = (matrix_gates(dag, dims[0], state_dim, seed) for seed in (0, 1))
    kept = torch.ones_like(dag.multitree) if mode == "P" else dag.multitree
    back = dag.reverse()  # has edges and lines of its own order
    edge_of = {int(column): place for place, column in enumerate(dag.edge_id)}
    edges = torch.tensor([edge_of[int(column)] for column in back.edge_id], dtype=torch.int64)
    line_of = {(int(a), int(b)): place for place, (a, b) in enumerate(zip(dag.pred, dag.succ, strict=True))}
    ends = zip(edges[back.succ].tolist(), edges[back.pred].tolist(), strict=True)
    lines = torch.tensor([line_of[pair] for pair in ends], dtype=torch.int64)
    turned = [gate[rows] for gate, rows in zip(reverse, (edges, lines, edges), strict=True)]
    wanted = (direct * (query * key).sum(-1)).unsqueeze(-1) * value
    wanted = wanted + written_out(query, key, value, *gates, dag, kept)
    wanted = wanted + written_out(query, key, value, *turned, back, kept[lines])
    found = stm(query, key, value, *gates, direct, dag, mode=mode, reverse=tuple(reverse), backend=backend)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_component_is_bitwise_the_scalar(backend):
    edge_index = torch.randint(40, (2, 90), generator=torch.Generator().manual_seed(0))
    dag = LineGraphDAG.from_edge_index(both_directions(edge_index), 40)
    inputs, reverse = random_inputs(dag, dtype=torch.float32)
    *nodes, source, transition, mark, direct = inputs
    scalars = (source, transition, mark), reverse
    vectors = tuple((s[..., None], t[..., None, None], m[..., None]) for s, t, m in scalars)
    expected = output_and_gradients(inputs, reverse, dag, backend=backend)
    found = output_and_gradients((*nodes, *vectors[0], direct), vectors[1], dag, backend=backend)
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert torch.equal(a.reshape(b.shape), b)


def test_gating_matrix_of_components_weights_the_output():
    dag = LineGraphDAG.from_edge_index(both_directions(path(6)), 6)
    (query, key, value, _, _, _, direct), _ = random_inputs(dag)
    gates, reverse = (matrix_gates(dag, 2, 3, seed) for seed in (0, 1))
    receiver, sender, entries = gating_matrix(*gates, direct, dag, reverse=reverse)
    weights = entries.sum(1) * (query[receiver] * key[sender]).sum(-1)
    wanted = torch.zeros_like(value).index_add(0, receiver, weights.unsqueeze(-1) * value[sender])
    found = stm(query, key, value, *gates, direct, dag, reverse=reverse)
    torch.testing.assert_close(found, wanted)


@given(bond_lists(), st.integers(1, 3))
def test_expanded_line_graph_is_the_one_of_its_lists(graph, state_dim):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    expanded, transition = dag.expand(state_dim)
    component = torch.arange(state_dim)
    place = torch.arange(dag.num_edges).unsqueeze(1) * state_dim + component  # [E, J]
    pred = place[dag.pred].unsqueeze(1).expand(-1, state_dim, -1)  # [L, J, I]
    succ = place[dag.succ].unsqueeze(2).expand(-1, -1, state_dim)
    edges = torch.stack([dag.src, dag.dst]).repeat_interleave(state_dim, 1)
    lines = torch.stack([pred.flatten(), succ.flatten()])
    assert torch.equal(expanded.src, edges[0])
    assert torch.equal(expanded.dst, edges[1])
    assert torch.equal(torch.stack([expanded.pred, expanded.succ]), lines[:, transition])
    assert (expanded.pred < expanded.succ).all()
    assert torch.equal(transition.sort().values, torch.arange(lines.size(1)))
    assert (expanded.level[expanded.pred] < expanded.level[expanded.succ]).all()


@pytest.mark.parametrize("mode", ["P", "D", "PD"])
def test_norms_of_transitions_stay_bounded(mode):
    torch.manual_seed(0)
    edge_index = both_directions(torch.randint(60, (2, 100)))
    dag = LineGraphDAG.from_edge_index(edge_index, 60)
    conv = PLSTMConv(5, 8, heads=4, mode=mode, edge_dim=2, state_dim=3)
    x, edge_attr = torch.randn(60, 5), torch.randn(200, 2)
    with torch.no_grad():
        for parameter in conv.states.parameters():
            parameter.mul_(10)
        gates = conv.states(x, edge_attr, dag, gates_of_layer(conv, x, edge_attr, dag))
    for way, before in enumerate((dag.pred, dag.succ)):
        norms = torch.linalg.matrix_norm(gates[way][1], 2)
        assert norms.max() <= 1 + 1e-5
        halves = {"P": slice(None), "D": slice(0), "PD": slice(2)}
        total = torch.zeros(dag.num_edges, 4).index_add(0, before, norms)[:, halves[mode]]
        assert not total.numel() or total.max() <= 1 + 1e-5
        for gate in gates[way][0], gates[way][2]:
            assert gate.norm(dim=-1).max() <= 1 + 1e-5


def test_states_start_near_the_scalar_gates():
    torch.manual_seed(0)
    dag = LineGraphDAG.from_edge_index(both_directions(path(30)), 30)
    conv = PLSTMConv(4, 8, heads=2, state_dim=4)
    x = 0.01 * torch.randn(30, 4)
    gates = gates_of_layer(conv, x, None, dag)
    for (_, scalar, _), (_, matrix, _) in zip(gates, conv.states(x, None, dag, gates), strict=True):
        wanted = scalar[..., None, None] * torch.eye(4)
        torch.testing.assert_close(matrix, wanted, rtol=0, atol=0.05)


def test_layer_does_not_depend_on_the_numbering():
    torch.manual_seed(0)
    conv = PLSTMConv(3, 8, heads=2, edge_dim=2, state_dim=2).double().eval()
    bonds = torch.tensor([[0, 1, 2, 3, 4, 5, 1], [1, 2, 3, 4, 5, 0, 6]])
    x, bond_attr = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    edge_attr = torch.cat([bond_attr, bond_attr])
    out = conv(x, both_directions(bonds), edge_attr)
    order = torch.randperm(7)
    place = order.argsort()
    renumbered = conv(x[order], both_directions(place[bonds]), edge_attr)
    torch.testing.assert_close(renumbered, out[order])


def test_refusals_name_the_shape():
    with pytest.raises(InputError, match="state_dim must be at least 1, not 0"):
        PLSTMConv(4, 8, state_dim=0)
    dag = LineGraphDAG.from_edge_index(both_directions(path(4)), 4)
    (query, key, value, _, transition, _, direct), _ = random_inputs(dag)
    source, _, mark = matrix_gates(dag, 2, 3, 0)
    with pytest.raises(InputError, match=r"transition needs the shape \[1, 2, 3, 3\], not \[1, 2\]"):
        stm(query, key, value, source, transition, mark, direct, dag)


@pytest.mark.slow
def test_matrix_transitions_learn_parity_and_positive_scalars_do_not():
    assert accuracy(train(4, seed=0, steps=900), 100) >= 0.99
    assert accuracy(train(1, seed=0, steps=900), 20) < 0.6
