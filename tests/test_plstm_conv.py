"""PLSTMConv: stability, reach, what PyG's users expect of a layer, and what is refused."""

import copy
import pickle

import pytest
import torch
from graphs import bond_lists, both_directions, gates_of_layer, path
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch
from torch_geometric.nn import GPSConv, MessagePassing, Sequential, global_mean_pool

from plstm_graph import LineGraphDAG, PLSTMConv
from plstm_graph.chem import smiles_to_data
from plstm_graph.errors import InputError
from plstm_graph.kernels import HeadLayout, gates_of
from plstm_graph.testing import assert_batch_invariant, assert_renumbering_invariant

SMILES = ["CO", "CCO", "CC(=O)OC", "c1ccccc1O", "CCCCCCN", "[Na+].[O-]C", "C", "OC1CC2CC1CN2"]


@given(bond_lists(), st.sampled_from(["P", "D", "PD"]), st.floats(0.1, 50), st.integers(0, 99))
def test_gates_are_stable_for_any_weights(graph, mode, scale, seed):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    torch.manual_seed(seed)
    layout = HeadLayout(heads=4, head_dim=1, mode=mode, directions=2)
    logits, edge_logits = (
        scale * torch.randn(count, layout.edge_logits, dtype=torch.float64)
        for count in (num_nodes, 2 * bonds.size(1))
    )
    directions = gates_of(logits, edge_logits, dag, layout)
    for (source, transition, mark), start in zip(directions, (dag.pred, dag.succ), strict=True):
        for gate in (source, transition, mark):
            assert ((gate >= 0) & (gate <= 1)).all()
        shared_out = {"P": 4, "D": 0, "PD": 2}[mode]  # heads in P-mode, which come first
        columns = torch.zeros(dag.num_edges, 4, dtype=torch.float64).index_add(0, start, transition)
        assert (columns[:, :shared_out] <= 1 + 1e-12).all()
        if mode == "PD":
            assert not transition[~dag.multitree, shared_out:].any()


@pytest.mark.parametrize("mode", ["P", "D"])
def test_open_gates_lose_nothing(mode):
    dag = LineGraphDAG.from_edge_index(
        both_directions(torch.tensor([[0, 1, 1, 3], [1, 2, 3, 4]])), 5, rank="index"
    )
    layout = HeadLayout(heads=1, head_dim=1, mode=mode, directions=1)
    logits = torch.zeros(5, layout.edge_logits, dtype=torch.float64)
    logits[:, layout.places[0].keep] = 100
    ((_, transition, _),) = gates_of(logits, None, dag, layout)
    if mode == "P":
        columns = torch.zeros(4, dtype=torch.float64).index_add(0, dag.pred, transition.flatten())
        assert torch.equal(columns[columns > 0], torch.ones(2, dtype=torch.float64))
    else:
        assert torch.equal(transition, torch.ones(dag.num_lines, 1, dtype=torch.float64))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_heads_of_both_modes_start_as_those_of_two_layers(bidirectional):
    """From the farthest reach to the nearest in each mode, whatever the other has."""
    both, one = (
        PLSTMConv(4, 8, heads=heads, mode=mode, bidirectional=bidirectional).gate_offset
        for heads, mode in ((8, "PD"), (4, "P"))
    )
    for half in both.unflatten(0, (-1, 2, 4)).unbind(1):
        assert torch.equal(half.flatten(), one)
    assert len(set(one.unflatten(0, (-1, 4))[6 if bidirectional else 2].tolist())) == 4
    assert (one[-4:] == 1).all()  # what an atom gives itself


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("mode", ["P", "D"])
def test_a_new_layer_passes_gradients_over_a_thousand_atoms(mode, heads):
    torch.manual_seed(0)
    conv = PLSTMConv(16, 16, heads=heads, mode=mode, orientation="bfs")
    edge_index = both_directions(path(1000))
    x = torch.randn(1000, 16, requires_grad=True)
    output = conv(x, edge_index)

    def reach(target, source):
        (gradient,) = torch.autograd.grad(output[target].sum(), x, retain_graph=True)
        return float(gradient[source].norm())

    assert reach(999, 0) > 0.02 * reach(20, 0)
    assert reach(0, 999) > 0.02 * reach(980, 999)


def test_two_layers_join_all_atoms_whatever_the_root():
    torch.manual_seed(0)
    up, down = PLSTMConv(8, 8), PLSTMConv(8, 8, mode="D")
    edge_index = both_directions(path(30))
    x = torch.randn(30, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(down(up(x, edge_index), edge_index)[0].sum(), x)
    assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_who_hears_whom(bidirectional):
    torch.manual_seed(0)
    conv = PLSTMConv(4, 4, bidirectional=bidirectional)
    edge_index = torch.tensor([[2, 0], [0, 1]])  # 2 → 0 → 1, and 3 alone
    x = torch.randn(4, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: conv(x, edge_index), x)
    heard = jacobian.abs().sum(dim=(1, 3)) > 0  # [hearer, heard]
    wanted = torch.eye(4, dtype=torch.bool)
    for ancestor, descendant in ((2, 0), (0, 1), (2, 1)):
        wanted[descendant, ancestor] = True
        wanted[ancestor, descendant] = bidirectional
    # Gates are made from both atoms of an edge, so an edge's far end is heard through them, too.
    assert (heard | ~wanted).all()
    assert not heard[3, :3].any()
    assert not heard[:3, 3].any()


def test_bond_features_change_source_transition_and_mark():
    torch.manual_seed(0)
    conv = PLSTMConv(4, 4, edge_dim=3)
    edge_index = both_directions(path(4))
    x, edge_attr = torch.randn(4, 4), torch.randn(6, 3, requires_grad=True)
    gates = gates_of_layer(conv, x, edge_attr, LineGraphDAG.from_edge_index(edge_index, 4, rank="index"))
    for gate in gates[0]:
        (gradient,) = torch.autograd.grad(gate.sum(), edge_attr, retain_graph=True)
        assert gradient.abs().sum() > 0 or gate.size(1) == 0


def weights_of(heads: slice, name: str, value: torch.Tensor) -> torch.Tensor:
    """A parameter's part that belongs to some of four heads of three channels."""
    if name == "lin_out.bias":
        return value
    if name == "lin_out.weight":
        return value.unflatten(1, (4, 3))[:, heads].flatten(1)
    if name == "lin_in.weight":
        inner, gates = value.split([3 * 12, len(value) - 3 * 12])
        return torch.cat([weights_of(heads, "bias", inner), weights_of(heads, "gate_offset", gates)])
    if name == "bias":  # of query, key and value
        return value.unflatten(0, (3, 4, 3))[:, heads].flatten(0, 2)
    return value.unflatten(0, (-1, 4))[:, heads].flatten(0, 1)  # rows by gate, then by head


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_heads_of_both_modes_are_those_of_two_layers(backend):
    """Half of the heads do what a P-layer with their weights does, the others what a D-layer does."""
    torch.manual_seed(0)
    both = PLSTMConv(9, 12, 4, "PD", edge_dim=3, backend=backend, root_weight=False).double()
    graph = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    x, edge_attr = graph.x.double() / 10, graph.edge_attr.double()
    total = both.lin_out.bias.clone()
    for heads, mode in ((slice(0, 2), "P"), (slice(2, 4), "D")):
        half = PLSTMConv(9, 12, 2, mode, edge_dim=3, head_dim=3, backend=backend, root_weight=False).double()
        half.load_state_dict(
            {name: weights_of(heads, name, value) for name, value in both.state_dict().items()}
        )
        total = total + half(x, graph.edge_index, edge_attr) - half.lin_out.bias
    torch.testing.assert_close(both(x, graph.edge_index, edge_attr), total, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["P", "D", "PD"])
def test_plain_calls_are_invariant_to_renumbering_and_batching(mode):
    torch.manual_seed(0)
    first, second = (
        PLSTMConv(9, 16, mode=mode, edge_dim=3).double(),
        PLSTMConv(16, 16, mode=mode).double(),
    )

    def predict(batch):
        x = first(batch.x.double() / 10, batch.edge_index, batch.edge_attr.double())
        return global_mean_pool(second(x, batch.edge_index), batch.batch, batch.num_graphs)

    graphs = [smiles_to_data(smiles) for smiles in SMILES]
    assert_renumbering_invariant(predict, graphs)
    assert_batch_invariant(predict, graphs)


def test_a_prepared_dag_gives_the_same():
    torch.manual_seed(0)
    conv = PLSTMConv(9, 16)
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    x = batch.x.float()
    dag = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes, batch=batch.batch, node_labels=x)
    assert torch.equal(conv(x, batch.edge_index, dag=dag), conv(x, batch.edge_index, batch=batch.batch))


def test_inside_pygs_containers():
    torch.manual_seed(0)
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    x = torch.randn(batch.num_nodes, 16)
    edge_attr = torch.randn(batch.num_edges, 16)
    gps = GPSConv(16, PLSTMConv(16, 16, edge_dim=16), heads=2)
    assert gps(x, batch.edge_index, batch.batch, edge_attr=edge_attr).shape == x.shape
    model = Sequential(
        "x, edge_index",
        [(PLSTMConv(16, 8), "x, edge_index -> x"), torch.nn.ReLU(), torch.nn.Linear(8, 2)],
    )
    assert model(x, batch.edge_index).shape == (batch.num_nodes, 2)


def test_lazy_width_and_reset():
    torch.manual_seed(0)
    conv = PLSTMConv(-1, 8, edge_dim=-1)
    offset = conv.gate_offset.clone()
    edge_index = both_directions(path(3))
    assert conv(torch.randn(3, 5), edge_index, torch.randn(4, 2)).shape == (3, 8)
    assert torch.equal(conv.gate_offset, offset)  # the first call sets widths, not gates
    assert conv.lin_in.weight.shape == (3 * 8 + 9 * 4, 5)
    state = {name: value.clone() for name, value in conv.state_dict().items()}
    conv.reset_parameters()
    assert not torch.equal(conv.lin_in.weight, state["lin_in.weight"])
    assert not torch.equal(conv.bias, state["bias"])
    conv.load_state_dict(state)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        x = torch.randn(3, 5)
        assert torch.equal(twin(x, edge_index), conv(x, edge_index))


def test_edge_index_types_and_representation():
    conv = PLSTMConv(4, 8, heads=2, mode="D")
    assert isinstance(conv, MessagePassing)
    assert repr(conv) == "PLSTMConv(4, 8, heads=2, mode=D)"
    edge_index, x = both_directions(path(4)), torch.randn(4, 4)
    wanted = conv(x, edge_index)
    assert torch.equal(conv(x, EdgeIndex(edge_index, sparse_size=(4, 4))), wanted)
    assert torch.equal(conv(x, edge_index.int()), wanted)
    with torch.inference_mode():
        assert torch.equal(conv(x, both_directions(path(4))), wanted)


def test_no_limit_on_degree_and_graphs_without_bonds():
    conv = PLSTMConv(4, 4)
    spokes = torch.stack([torch.zeros(3000, dtype=torch.int64), torch.arange(1, 3001)])
    assert conv(torch.randn(3001, 4), both_directions(spokes)).isfinite().all()
    for num_nodes in (0, 1, 3):
        x = torch.randn(num_nodes, 4)
        assert conv(x, torch.zeros(2, 0, dtype=torch.int64)).shape == x.shape


def test_heads_as_wide_as_one_likes():
    edge_index, x = both_directions(path(6)), torch.randn(6, 5)
    conv = PLSTMConv(5, 7, heads=3, head_dim=2)
    assert conv(x, edge_index).shape == (6, 7)
    assert conv.lin_in.weight.shape == (3 * 6 + 9 * 3, 5)
    layers = []
    for head_dim in (None, 4):
        torch.manual_seed(0)
        layers.append(PLSTMConv(5, 8, heads=2, head_dim=head_dim))
    assert torch.equal(layers[0](x, edge_index), layers[1](x, edge_index))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"out_channels": 0}, "out_channels must be at least 1"),
        ({"mode": "X"}, "'P', 'D' or 'PD'"),
        ({"mode": "PD", "heads": 1}, "even number of heads, not 1"),
        ({"backend": "cup"}, "backend must be 'auto'"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"state_dim": 0}, "state_dim must be at least 1"),
        ({"head_dim": 0}, "head_dim must be at least 1"),
    ],
)
def test_bad_constructions_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        PLSTMConv(**{"in_channels": 4, "out_channels": 8, **arguments})


@pytest.mark.parametrize(
    ("x", "edge_attr", "sentence"),
    [
        (torch.randn(4, 3), None, r"x needs the shape \[num_nodes, 4\]"),
        (torch.randn(4, 4), torch.randn(6, 5), r"edge_attr needs the shape \[num_edges, 2\]"),
        (torch.randn(4, 4), torch.randn(5, 2), "edge_attr has 5 rows, but edge_index has 6"),
        (torch.randn(3, 4), None, "names node 3"),
    ],
)
def test_bad_calls_are_refused(x, edge_attr, sentence):
    with pytest.raises(InputError, match=sentence):
        PLSTMConv(4, 4, edge_dim=2)(x, both_directions(path(4)), edge_attr)


def test_more_refusals():
    edge_index, x = both_directions(path(4)), torch.randn(4, 4)
    with pytest.raises(InputError, match="without edge_dim"):
        PLSTMConv(4, 4)(x, edge_index, torch.randn(6, 2))
    with pytest.raises(InputError, match="DAG has 9 nodes"):
        PLSTMConv(4, 4)(x, edge_index, dag=LineGraphDAG.from_edge_index(both_directions(path(9)), 9))


def test_a_stack_of_layers_compiles_without_a_break():
    torch.manual_seed(0)
    edge_index = both_directions(path(12))
    dag = LineGraphDAG.from_edge_index(edge_index, 12)
    first, second = PLSTMConv(4, 8), PLSTMConv(8, 4, mode="D", state_dim=2)

    def run(x, edge_index, dag):
        return second(first(x, edge_index, dag=dag), edge_index, dag=dag)

    x = torch.randn(12, 4, requires_grad=True)
    wanted = run(x, edge_index, dag)
    (gradient,) = torch.autograd.grad(wanted.square().sum(), x)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(x, edge_index, dag)
    torch.testing.assert_close(compiled, wanted)
    torch.testing.assert_close(torch.autograd.grad(compiled.square().sum(), x)[0], gradient)
