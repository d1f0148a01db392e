"""PLSTMConv in networks of others: its size, its arguments, prepared DAGs, what PyG asks of a layer."""

from contextlib import suppress

import pytest
import torch
from graphs import both_directions, path
from rdkit import Chem
from torch_geometric import transforms
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATv2Conv, HeteroConv, MessagePassing
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from plstm_graph import LineGraphDAG, PLSTMConv, ToLineGraphDAG
from plstm_graph.chem import mol_to_data, smiles_to_data
from plstm_graph.dag import build_dag, dag_of
from plstm_graph.errors import InputError

SMILES = ["C1=CC1", "c1ccccc1C=C", "O=C(O)C=Cc1ccc(C#N)cc1", "CC(=O)NC1=CC=C(O)C=C1", "OC1CC2CC1CN2"]
SQUARE = both_directions(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))


def star(leaves: int) -> torch.Tensor:
    return torch.stack([torch.zeros(leaves, dtype=torch.int64), torch.arange(1, leaves + 1)])


# Scale


@pytest.mark.parametrize("mode", ["P", "D", "PD"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("state_dim", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("root_weight", [True, False])
def test_large_inputs_give_outputs_no_larger_than_a_layer_of_attention_would(
    mode, bidirectional, state_dim, dtype, root_weight
):
    graph = smiles_to_data("CN1C=NC2=C1C(=O)N(C(=O)N2C)C")
    torch.manual_seed(0)
    conv = PLSTMConv(
        16, 16, mode=mode, bidirectional=bidirectional, state_dim=state_dim, root_weight=root_weight
    ).to(dtype)
    x = torch.randn(graph.num_nodes, 16, dtype=dtype)
    sizes = [conv(x * factor, graph.edge_index).abs().max().item() for factor in (1, 100)]
    assert 1 < sizes[1] / sizes[0] < 200


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e8])
def test_no_input_and_no_number_of_ancestors_leads_beyond_the_bound(mode, scale):
    torch.manual_seed(0)
    conv = PLSTMConv(8, 12, mode=mode, orientation="bfs")
    bound = torch.linalg.matrix_norm(conv.lin_out.weight, 2) * 12**0.5 + conv.lin_out.bias.norm()
    for bonds, num_nodes in ((path(1000), 1000), (star(999), 1000), (path(5), 5)):
        x = scale * torch.randn(num_nodes, 8)
        x.requires_grad_()
        output = conv(x, both_directions(bonds))
        heard = output - conv.lin_root(x)
        assert heard.norm(dim=1).max() <= bound + 1e-6 * scale
        (gradient,) = torch.autograd.grad(output.sum(), x)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("mode", ["P", "D"])
def test_outputs_hardly_grow_with_the_number_of_ancestors(mode):
    """By a factor of 4 at most, from a bond to a thousand atoms, and from a drug to a protein."""
    torch.manual_seed(0)
    conv = PLSTMConv(8, 8, mode=mode, root_weight=False)
    x = torch.randn(8).expand(1000, 8)  # all alike, which adds up to the most
    small = conv(x[:2], both_directions(path(2))).norm(dim=1).max()
    for bonds in (path(1000), star(999)):
        assert conv(x, both_directions(bonds)).norm(dim=1).max() < 4 * small
    atoms = torch.randn(120, 8)
    drug, protein = smiles_to_data(SMILES[3]), mol_to_data(Chem.MolFromSequence("GAVLIFWYSTNQDEKRHMPC" * 32))
    assert protein.num_nodes > 5000
    sizes = [conv(atoms[data.x[:, 0]], data.edge_index).norm(dim=1).max() for data in (drug, protein)]
    assert sizes[1] < 4 * sizes[0]


def test_small_heads_are_left_as_they_are():
    """What a node hears adds up where heads are small: sums over ancestors can be told apart."""
    torch.manual_seed(0)
    conv = PLSTMConv(8, 8, bias=False, root_weight=False).double()
    x = torch.randn(20, 8, dtype=torch.float64)
    edge_index = both_directions(path(20))
    dag = LineGraphDAG.from_edge_index(edge_index, 20)
    with torch.no_grad():
        values = conv.lin_in.weight[16:24]
        values.mul_(1e-5)
    small = conv(x, edge_index, dag=dag)
    with torch.no_grad():
        values.mul_(10)
    torch.testing.assert_close(conv(x, edge_index, dag=dag), 10 * small, rtol=1e-5, atol=0)


def test_five_layers_without_residuals_stay_as_large_as_attention():
    graphs = [smiles_to_data(smiles) for smiles in SMILES]
    batch = Batch.from_data_list(graphs)

    def largest(make):
        torch.manual_seed(0)
        encoder = torch.nn.Embedding(120, 32)
        convs = torch.nn.ModuleList(make() for _ in range(5))
        norms = torch.nn.ModuleList(torch.nn.BatchNorm1d(32) for _ in range(5))

        def network():
            x = encoder(batch.x[:, 0])
            for conv, norm in zip(convs, norms, strict=True):
                x = norm(conv(x, batch.edge_index)).relu()
            return x

        parameters = [*encoder.parameters(), *convs.parameters(), *norms.parameters()]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            (network().mean() - 3).square().backward()
            optimizer.step()
        norms.eval()
        return network().abs().max()

    assert largest(lambda: PLSTMConv(32, 32)) < 10 * largest(lambda: GATv2Conv(32, 8, heads=4))


# Purity


def test_a_result_follows_from_the_arguments_whatever_was_called_before():
    torch.manual_seed(0)
    conv, other = PLSTMConv(8, 32, edge_dim=2), PLSTMConv(8, 32, edge_dim=2, mode="D")
    for _ in range(20):
        shared = SQUARE.clone()
        x1, x2, e1, e2 = torch.randn(4, 8), torch.randn(4, 8), torch.randn(8, 2), torch.randn(8, 2)
        fresh = conv(x2, SQUARE.clone(), e2)
        conv(x1, shared, e1)
        other(x1, shared)
        assert torch.equal(conv(x2, shared, e2), fresh)


def test_renumbering_changes_nothing_where_one_edge_index_meets_new_features():
    torch.manual_seed(0)
    conv = PLSTMConv(8, 32).double()
    order = torch.tensor([2, 0, 3, 1])
    place = order.argsort()
    renumbered = place[SQUARE]
    for _ in range(20):
        x = torch.randn(4, 8, dtype=torch.float64)
        torch.testing.assert_close(conv(x, SQUARE)[order], conv(x[order], renumbered))


# Prepared DAGs


def relabelled(data):
    data.edge_index = data.edge_index.roll(2, 1)
    return data


CHANGES = {
    "coalesce": lambda data: data.coalesce(),
    "sort": lambda data: data.sort(),
    "replaced": relabelled,
    "RemoveDuplicatedEdges": transforms.RemoveDuplicatedEdges(),
    "AddSelfLoops": transforms.AddSelfLoops(attr="edge_attr"),
    "TwoHop": transforms.TwoHop(),
    "VirtualNode": transforms.VirtualNode(),
    "subgraph": lambda data: data.subgraph(torch.arange(data.num_nodes - 1)),
    "edge_subgraph": lambda data: data.edge_subgraph(torch.arange(data.num_edges - 2)),
    "no edges": lambda data: data.edge_subgraph(torch.arange(0)),
    "ToUndirected": transforms.ToUndirected(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("smiles", SMILES)
def test_a_prepared_dag_still_fits_or_is_refused(change, smiles):
    torch.manual_seed(0)
    conv = PLSTMConv(9, 8, edge_dim=3)
    graph = change(ToLineGraphDAG()(smiles_to_data(smiles)))
    x, edge_attr = graph.x.float(), graph.edge_attr.float()
    fresh = conv(x, graph.edge_index, edge_attr, dag=build_dag(graph))
    with suppress(InputError):
        output = conv(x, graph.edge_index, edge_attr, dag=dag_of(graph))
        torch.testing.assert_close(output, fresh)


def test_a_prepared_dag_that_fits_is_taken_through_batches_and_devices():
    conv = PLSTMConv(9, 8)
    batch = Batch.from_data_list([ToLineGraphDAG()(smiles_to_data(smiles)) for smiles in SMILES])
    dag = dag_of(batch)
    assert torch.equal(dag.block_columns, build_dag(batch).block_columns)
    assert conv(batch.x.float(), batch.edge_index, dag=dag).isfinite().all()
    with pytest.raises(InputError, match="the DAG is on meta"):
        conv(batch.x.float(), batch.edge_index, dag=dag.to("meta"))


def test_repeated_bonds_and_self_loops_are_part_of_what_a_dag_was_prepared_for():
    conv = PLSTMConv(3, 4)
    edge_index = torch.tensor([[0, 1, 0, 1, 2, 2], [1, 0, 1, 0, 2, 2]])
    data = ToLineGraphDAG()(Data(x=torch.randn(3, 3), edge_index=edge_index))
    batch = Batch.from_data_list([data, data])
    assert conv(batch.x, batch.edge_index, dag=dag_of(batch)).isfinite().all()
    with pytest.raises(InputError, match="does not fit edge_index"):
        conv(data.x, edge_index[:, :5], dag=dag_of(data))


@pytest.mark.parametrize("given", [{}, {"z": torch.tensor([6, 8, 6, 7])}], ids=["edges alone", "z"])
def test_a_prepared_dag_leaves_the_number_of_nodes_alone(given):
    """PyG infers it from what a graph has, by the names of its tensors."""
    graph = Data(edge_index=SQUARE, **given)
    prepared = ToLineGraphDAG()(graph)
    assert prepared.num_nodes == graph.num_nodes == 4
    batch = Batch.from_data_list([prepared, prepared])
    assert torch.equal(batch.edge_index, torch.cat([SQUARE, SQUARE + 4], dim=1))
    assert torch.equal(dag_of(batch).edge_id, build_dag(batch).edge_id)


def test_a_batch_keeps_what_was_added_to_it():
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    batch.of_graphs, batch.tag = torch.arange(len(SMILES)), "mine"
    prepared = ToLineGraphDAG()(batch)
    assert torch.equal(prepared.of_graphs, batch.of_graphs)
    assert prepared.tag == "mine"
    assert dag_of(prepared).num_nodes == batch.num_nodes


@pytest.mark.parametrize("edge_index", [SQUARE[0], SQUARE.float(), torch.cat([SQUARE, SQUARE[:1]]), SQUARE.T])
def test_columns_that_are_none_are_refused_beside_a_prepared_dag(edge_index):
    dag = LineGraphDAG.from_edge_index(SQUARE)
    with pytest.raises(InputError, match="edge_index must be integers"):
        PLSTMConv(8, 8)(torch.randn(4, 8), edge_index, dag=dag)


def test_a_graph_whose_columns_were_taken_away_has_no_batch():
    prepared = transforms.ToSparseTensor(layout=torch.sparse_csr)(ToLineGraphDAG()(smiles_to_data("CCO")))
    with pytest.raises(InputError, match="does not fit edge_index"):
        Batch.from_data_list([prepared, prepared])


# What a layer of PyG is asked


def test_one_set_of_nodes_may_be_given_twice():
    conv, x = PLSTMConv(8, 8), torch.randn(4, 8)
    assert torch.equal(conv((x, x), SQUARE), conv(x, SQUARE))
    edges = {("atom", "to", "atom"): SQUARE}
    assert HeteroConv({("atom", "to", "atom"): conv})({"atom": x}, edges)["atom"].shape == (4, 8)
    for pair in ((x, x.clone()), (x, None), (torch.randn(4, 8), torch.randn(2, 8)), (x,)):
        with pytest.raises(InputError, match="one tensor of node features"):
            conv(pair, SQUARE)
    for widths in ((8, 16), (-1, -1), [8, 8]):
        with pytest.raises(InputError, match="in_channels must be one width"):
            PLSTMConv(widths, 8)


@pytest.mark.parametrize("sparse", [to_torch_coo_tensor, to_torch_csr_tensor, to_torch_csc_tensor])
def test_a_sparse_adjacency_is_taken_like_edge_index(sparse):
    torch.manual_seed(0)
    for edge_index in (SQUARE, torch.tensor([[3, 0, 1, 0], [0, 1, 2, 2]])):  # 3 → 0 → 1 → 2, 0 → 2
        conv, x = PLSTMConv(8, 8, bidirectional=False).double(), torch.randn(4, 8, dtype=torch.float64)
        adjacency = sparse(edge_index.flip(0), size=(4, 4))  # a row for every end
        torch.testing.assert_close(conv(x, adjacency), conv(x, edge_index))
        featured = PLSTMConv(8, 8, edge_dim=2).double()
        edge_attr = torch.randn(edge_index.size(1), 2, dtype=torch.float64)
        adjacency = sparse(edge_index.flip(0), edge_attr, size=(4, 4))
        torch.testing.assert_close(featured(x, adjacency), featured(x, edge_index, edge_attr))
        with pytest.raises(InputError, match="put it into the adjacency's values"):
            featured(x, adjacency, edge_attr)


@pytest.mark.parametrize("out_channels", [1, 7, 10])
def test_any_width_of_the_output_goes_with_any_number_of_heads(out_channels):
    conv, x = PLSTMConv(8, out_channels), torch.randn(4, 8)
    assert conv(x, SQUARE).shape == (4, out_channels)
    assert conv.head_dim == -(-out_channels // 4)


def test_flow_turns_directed_graphs_round():
    torch.manual_seed(0)
    edge_index = path(4)
    forth = PLSTMConv(8, 8, bidirectional=False)
    back = PLSTMConv(8, 8, bidirectional=False, flow="target_to_source")
    back.load_state_dict(forth.state_dict())
    x = torch.randn(4, 8)
    assert not torch.equal(forth(x, edge_index), back(x, edge_index))
    assert torch.equal(forth(x, edge_index), back(x, edge_index.flip(0)))
    torch.testing.assert_close(forth(x, SQUARE), back(x, SQUARE))  # both directions: nothing to turn
    turned = LineGraphDAG.from_edge_index(edge_index.flip(0))
    assert torch.equal(back(x, edge_index, dag=turned), back(x, edge_index))
    with pytest.raises(InputError, match=r"flow='target_to_source' it has to be of edge_index.flip"):
        back(x, edge_index, dag=LineGraphDAG.from_edge_index(edge_index))
    with pytest.raises(InputError, match="flow must be"):
        PLSTMConv(8, 8, flow="sideways")


@pytest.mark.parametrize("arguments", [{"aggr": "mean"}, {"node_dim": 0}, {"decomposed_layers": 2}])
def test_arguments_of_message_passing_are_refused(arguments):
    with pytest.raises(InputError, match=f"takes no {next(iter(arguments))}"):
        PLSTMConv(8, 8, **arguments)


def test_hooks_that_can_never_fire_are_refused_and_others_fire():
    conv, seen = PLSTMConv(8, 8), []
    conv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    conv(torch.randn(4, 8), SQUARE)
    assert seen == [(4, 8)]
    names = [
        name
        for name in dir(MessagePassing)
        if name.startswith("register_") and name.endswith("hook") and not hasattr(torch.nn.Module, name)
    ]
    assert len(names) == 10
    for name in names:
        with pytest.raises(InputError, match="register_forward_hook"):
            getattr(conv, name)(lambda *_: None)


def test_hooks_on_the_map_of_the_inputs_fire_forwards_and_backwards():
    conv, fired = PLSTMConv(8, 8), []
    plain = conv(torch.ones(4, 8), SQUARE)
    conv.lin_in.register_full_backward_pre_hook(lambda *_: fired.append("before"))
    conv.lin_in.register_full_backward_hook(lambda *_: fired.append("after"))
    hooked = conv(torch.ones(4, 8, requires_grad=True), SQUARE)
    torch.testing.assert_close(hooked, plain)
    hooked.sum().backward()
    assert fired == ["before", "after"]
    conv.lin_in.register_forward_hook(lambda module, inputs, output: output.T.contiguous().T)
    conv.zero_grad()
    conv(torch.ones(4, 8), SQUARE).square().sum().backward()
    found = conv.lin_in.weight.grad.clone()
    bare = PLSTMConv(8, 8)
    bare.load_state_dict(conv.state_dict())
    bare(torch.ones(4, 8), SQUARE).square().sum().backward()
    torch.testing.assert_close(found, bare.lin_in.weight.grad)
