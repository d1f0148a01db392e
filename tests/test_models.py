"""Networks: invariance, what they alternate, and what they refuse."""

import datamol as dm
import pytest
import torch
from rdkit import Chem
from torch._subclasses import FakeTensorMode
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINEConv
from torch_geometric.transforms import AddRandomWalkPE as PyGsWalks

from plstm_graph import PLSTM, ToLineGraphDAG
from plstm_graph.chem import mol_to_data, smiles_to_data
from plstm_graph.dag import AddRandomWalkPE, LineGraphData, Root, dag_of
from plstm_graph.dag.walks import random_walk_pe
from plstm_graph.errors import InputError
from plstm_graph.explain import gating_matrices
from plstm_graph.models import GAT, GCN, GIN, GINE, MPNN, CircularFingerprint, GaussianProcess, NodeReadout
from plstm_graph.models.dropout import Dropout
from plstm_graph.models.graphs import Graphs
from plstm_graph.models.local import gin_mixer
from plstm_graph.testing import assert_batch_invariant, assert_renumbering_invariant


@pytest.fixture(scope="module")
def molecules():
    return [mol_to_data(mol) for mol in dm.data.solubility()["mol"].sample(200, random_state=0)]


def without_ranks(data: Data) -> Data:
    """A plain PyG graph: features and bonds, nothing from RDKit's ranking."""
    return Data(x=data.x, edge_index=data.edge_index, edge_attr=data.edge_attr)


@pytest.mark.parametrize("roots", [0, 3])
@pytest.mark.parametrize(
    "prepare", [lambda data: data, without_ranks], ids=["rdkit ranks", "colour refinement"]
)
def test_renumbered_molecules_get_the_same_prediction(molecules, prepare, roots):
    torch.manual_seed(0)
    model = PLSTM(roots=roots).double().eval()
    assert_renumbering_invariant(model, [prepare(data) for data in molecules], atol=1e-9)


def test_other_spellings_get_the_same_prediction(molecules):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=32).double().eval()
    smiles = [data.smiles for data in molecules[:50]]
    respelled = [Chem.MolToSmiles(Chem.MolFromSmiles(s), doRandom=True) for s in smiles]
    a, b = (
        model(Batch.from_data_list([smiles_to_data(s) for s in spelling])) for spelling in (smiles, respelled)
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_index_order_is_not_invariant(molecules):
    """The test above can fail: the published ordering does."""
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="moves its prediction"):
        assert_renumbering_invariant(PLSTM(orientation="index").double().eval(), molecules[:50])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tolerance_of_assertions_is_that_of_the_precision(molecules, dtype):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=32).to(dtype).eval()
    assert_renumbering_invariant(model, molecules[:20])
    assert_batch_invariant(model, molecules[:20])
    with pytest.raises(AssertionError, match="renumbering its nodes moves"):
        assert_renumbering_invariant(PLSTM(orientation="index").to(dtype).eval(), molecules[:50])


def test_several_roots_give_the_mean_of_their_embeddings(molecules):
    torch.manual_seed(0)
    model, single = PLSTM(hidden_channels=32, roots=3).eval(), PLSTM(hidden_channels=32).eval()
    single.load_state_dict(model.state_dict())
    plain, prepared, *rooted = (
        Batch.from_data_list([prepare(data) for data in molecules[:20]])
        for prepare in (Data.clone, ToLineGraphDAG(), *(ToLineGraphDAG(Root(n / 6)) for n in (1, 3, 5)))
    )
    parts = [single.embed(batch) for batch in rooted]
    assert not torch.allclose(parts[0], parts[1])
    wanted = single.predict(torch.stack(parts).mean(0))
    torch.testing.assert_close(model(plain), wanted)
    torch.testing.assert_close(model(prepared), wanted)  # whatever the batch carries
    assert len(gating_matrices(model, plain)) == 3 * model.num_layers


def test_training_draws_roots_by_torchs_numbers(molecules):
    torch.manual_seed(0)
    model, batch = PLSTM(hidden_channels=32, roots=1).train(), Batch.from_data_list(molecules[:20])
    first, second = model(batch), model(batch)
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=32, roots=1).train()
    assert torch.equal(model(batch), first)


@pytest.mark.parametrize("roots", [0, 3])
def test_a_batch_changes_nothing(molecules, roots):
    torch.manual_seed(0)
    assert_batch_invariant(PLSTM(hidden_channels=32, roots=roots).double().eval(), molecules[:20])


def test_prepared_batches_round_trip_and_predict_the_same(molecules):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=32).double().eval()
    prepared = [ToLineGraphDAG()(data) for data in molecules[:20]]
    batch = Batch.from_data_list(prepared)
    assert torch.equal(model(batch), model(Batch.from_data_list(molecules[:20])))
    for before, after in zip(prepared, batch.to_data_list(), strict=True):
        assert isinstance(after, LineGraphData)
        assert before.to_dict().keys() == after.to_dict().keys()
        for key, value in before.to_dict().items():
            assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]


class Molecules(InMemoryDataset):
    """A PyG data set of a few molecules, as users write them."""

    processed_file_names = "data.pt"

    def __init__(self, root, **kwargs):
        super().__init__(root, **kwargs)
        self.load(self.processed_paths[0], data_cls=LineGraphData if self.pre_transform else Data)

    def process(self):
        graphs = [smiles_to_data(smiles) for smiles in ("CCO", "C", "c1ccccc1", "[Na+].[Cl-]")]
        self.save(
            [self.pre_transform(g) if self.pre_transform else g for g in graphs],
            self.processed_paths[0],
        )


@pytest.mark.parametrize("stage", ["transform", "pre_transform"])
def test_a_data_set_prepares_dags(stage, tmp_path):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16).eval()
    (raw,) = DataLoader(Molecules(tmp_path / "raw"), batch_size=4)
    (batch,) = DataLoader(Molecules(tmp_path / "dag", **{stage: ToLineGraphDAG()}), batch_size=4)
    assert dag_of(raw) is None
    assert dag_of(batch).num_edges == 2 + 0 + 6 + 0
    assert torch.equal(model(batch), model(raw))


def plain(data: Data, edges: bool) -> Data:
    """The same graph with floating-point features, of edges too or of nodes alone."""
    edge_attr = data.edge_attr.double() if edges else None
    return Data(x=data.x.double(), edge_index=data.edge_index, edge_attr=edge_attr)


NETWORKS = [PLSTM, GIN, GINE, GCN, GAT, MPNN]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_learns(network, molecules):
    torch.manual_seed(0)
    model = network(hidden_channels=16, out_channels=3)
    output = model(Batch.from_data_list(molecules[:50]))
    assert output.shape == (50, 3)
    output.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    if network in (GIN, GCN):  # which are blind to bonds
        assert all(name.startswith("encoder.edges.") for name in idle)
        assert len(idle) == 3
    else:
        assert not idle


@pytest.mark.parametrize("edge_dim", [3, None])
@pytest.mark.parametrize("network", NETWORKS)
def test_other_features_are_encoded_by_a_linear_map(network, edge_dim, molecules):
    if network is GINE and edge_dim is None:
        with pytest.raises(InputError, match="GINE needs edge features"):
            GINE(hidden_channels=16, in_channels=9)
        return
    torch.manual_seed(0)
    model = network(hidden_channels=16, in_channels=9, edge_dim=edge_dim).double().eval()
    graphs = [plain(data, edge_dim is not None) for data in molecules[:20]]
    assert_renumbering_invariant(model, graphs, atol=1e-9)
    batch = Batch.from_data_list(graphs)
    model(batch).sum().backward()
    assert all(p.grad.any() for name, p in model.named_parameters() if name.startswith("encoder.nodes"))
    with pytest.raises(InputError, match=r"x must be of floating point and \[rows, 9\], not torch.int64"):
        model(Batch.from_data_list(molecules[:2]))


@pytest.mark.parametrize("network", [GINE, GAT, MPNN])
def test_bonds_count_where_they_are_said_to(network, molecules):
    torch.manual_seed(0)
    model = network(hidden_channels=16).eval()
    batch = Batch.from_data_list(molecules[:20])
    before = model(batch)
    batch.edge_attr = torch.zeros_like(batch.edge_attr)
    assert not torch.allclose(model(batch), before)


def test_local_networks_see_as_far_as_they_have_layers():
    """In a chain, the end hears of the other end through as many layers as there are bonds, PLSTM at once."""
    torch.manual_seed(0)
    chain = smiles_to_data("CCCCCCC")
    changed = chain.clone()
    changed.x[0, 0] = 7  # oxygen at one end

    def last_atom(model, data):
        x, edge_attr = model.encode(data)
        [dag] = model.dags(data)
        return model.run_blocks(model.graphs(data)._replace(x=x, edge_attr=edge_attr, dag=dag))[-1][-1]

    for network in (GIN, GINE, GCN, GAT, MPNN):
        model = network(hidden_channels=16, num_layers=2).eval()
        assert torch.equal(last_atom(model, chain), last_atom(model, changed))
    model = PLSTM(hidden_channels=16, num_layers=2).eval()
    assert not torch.equal(last_atom(model, chain), last_atom(model, changed))


def test_one_graph_and_one_atom():
    model = PLSTM(hidden_channels=16).eval()
    assert model(smiles_to_data("CCO")).shape == (1, 1)
    assert model(smiles_to_data("C")).isfinite().all()


@pytest.mark.parametrize(
    "arguments", [{}, {"branches": [CircularFingerprint(64)]}, {"walk_length": 16}], ids=str
)
def test_a_prepared_network_compiles_without_a_break(molecules, arguments):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, num_layers=2, **arguments).eval()
    batch = Batch.from_data_list([ToLineGraphDAG()(data) for data in molecules[:8]])
    wanted = model(batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(batch)
    torch.testing.assert_close(compiled, wanted)


@pytest.mark.parametrize(
    ("arguments", "modes"),
    [
        ({}, ["P", "D", "P", "D", "P"]),
        ({"scan_every": 2}, [None, "P", None, "D", None]),
        ({"scan_every": 2, "mode": "D"}, [None, "D", None, "D", None]),
        ({"scan_every": 9, "mode": "D"}, [None, None, None, None, "D"]),
        ({"mode": "PD"}, ["PD"] * 5),
    ],
)
def test_blocks_scan_in_the_modes_that_are_asked_for(arguments, modes):
    model = PLSTM(hidden_channels=8, num_layers=5, **arguments)
    scans = [getattr(block.mixer, "scan", None) for block in model.blocks]
    assert [scan and scan.mode for scan in scans] == modes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scan_every": 0}, "scan_every must be at least 1, not 0"),
        ({"scan_every": 2, "local": False}, "need local message passing"),
        ({"mode": "DP"}, "mode must be 'alternate', 'P', 'D', 'PD', not 'DP'"),
        ({"roots": -1}, "roots must be at least 0, not -1"),
    ],
)
def test_blocks_that_could_do_nothing_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        PLSTM(hidden_channels=8, **arguments)


def test_other_features_are_refused():
    data = smiles_to_data("CCO")
    for changes, sentence in (
        ({"x": data.x.float()}, r"x must hold OGB's features"),
        ({"x": data.x[:, :5]}, r"int64 \[3, 5\]"),
        ({"edge_attr": None}, "edge_attr must hold"),
        ({"edge_attr": data.edge_attr[:, :2]}, "edge_attr must hold"),
    ):
        changed = Data(**{**data.to_dict(), **changes})
        with pytest.raises(InputError, match=sentence):
            PLSTM(hidden_channels=16)(changed)
    with pytest.raises(InputError, match="give in_channels too"):
        PLSTM(edge_dim=3)


def walk_matrix(data: Data) -> torch.Tensor:
    """Chances of one step of a walk along bonds, by definition."""
    adjacency = torch.zeros(data.num_nodes, data.num_nodes, dtype=torch.float64)
    row, col = data.edge_index
    adjacency[row, col] = adjacency[col, row] = 1
    adjacency.fill_diagonal_(0)
    return adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("walk_length", [1, 2, 7, 16])
@pytest.mark.parametrize("columns", [0, 1, 40, 120])
def test_random_walk_encodings_are_diagonals_of_powers(walk_length, columns):
    """Of any graph: with repeated bonds, self loops, bonds in one direction, nodes without any."""
    torch.manual_seed(columns)
    data = Data(edge_index=torch.randint(30, (2, columns)), num_nodes=33)
    found = random_walk_pe(data.edge_index, 33, walk_length)
    powers = torch.stack([walk_matrix(data).matrix_power(k) for k in range(1, walk_length + 1)])
    torch.testing.assert_close(found, powers.diagonal(dim1=1, dim2=2).T, rtol=0, atol=1e-14)
    assert torch.equal(AddRandomWalkPE(walk_length)(data).random_walk_pe, found.float())


def test_walks_tell_two_triangles_from_a_hexagon():
    """Neighbours of neighbours of equal nodes are equal in both: message passing sees one graph."""
    triangles = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
    hexagon = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    pair = [
        Data(x=torch.ones(6, 1), edge_index=torch.cat([edges, edges.flip(0)], 1))
        for edges in (triangles, hexagon)
    ]
    for walk_length, alike in ((0, True), (2, True), (3, False)):
        torch.manual_seed(0)
        model = GIN(hidden_channels=16, in_channels=1, walk_length=walk_length).eval()
        assert torch.allclose(model(pair[0]), model(pair[1]), atol=1e-6) is alike


def test_walks_of_renumbered_and_prepared_molecules(molecules):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, walk_length=16).double().eval()
    assert_renumbering_invariant(model, molecules[:50], atol=1e-9)
    model = model.float()
    wanted = model(Batch.from_data_list(molecules[:20]))
    for walks in (AddRandomWalkPE(16), PyGsWalks(20)):
        batch = Batch.from_data_list([walks(ToLineGraphDAG()(data)) for data in molecules[:20]])
        torch.testing.assert_close(model(batch), wanted)
        torch.testing.assert_close(model(ToLineGraphDAG()(walks(molecules[0].clone()))), wanted[:1])
    batch.random_walk_pe = batch.random_walk_pe[:, :15]
    with pytest.raises(InputError, match="at least 16"):
        model(batch)
    with pytest.raises(InputError, match="walk_length must be at least 0"):
        PLSTM(walk_length=-1)
    with pytest.raises(InputError, match="walk_length must be at least 1, not 0"):
        AddRandomWalkPE(0)


@pytest.mark.parametrize("network", [PLSTM, GIN])
def test_every_block_is_read_out_in_every_way(network, molecules):
    torch.manual_seed(0)
    arguments = {"hidden_channels": 16, "num_layers": 3, "readout": ["mean", "max"], "jk": "cat"}
    model = network(**arguments).double().eval()
    assert_renumbering_invariant(model, molecules[:50], atol=1e-9)
    batch = Batch.from_data_list(molecules[:20])
    embedding = model.embed(batch)
    assert embedding.shape == (20, model.embedding_channels) == (20, 2 * 4 * 16)
    encoded = model.branches[0].norms[0](model.encode(batch)[0])
    for graph in range(20):
        nodes = encoded[batch.batch == graph]
        torch.testing.assert_close(embedding[graph, :16], nodes.mean(0))
        torch.testing.assert_close(embedding[graph, 64:80], nodes.max(0).values)
    last = network(**arguments | {"jk": "last", "readout": "mean"}).double().eval()
    assert last.embedding_channels == 16
    with pytest.raises(InputError, match="jk must be 'last' or 'cat', not 'max'"):
        network(jk="max")


def test_batch_norm_is_one_of_the_batch_in_training_alone(molecules):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, norm="batch", jk="cat").double()
    batch = Batch.from_data_list(molecules[:50])
    model(batch)
    assert model(smiles_to_data("C")).isfinite().all()  # one atom, as a last batch may be
    assert_renumbering_invariant(model.eval(), molecules[:50], atol=1e-9)
    assert_batch_invariant(model, molecules[:20])
    assert all(module.module.running_mean.any() for module in model.branches[0].norms)
    with pytest.raises(InputError, match="norm must be 'layer' or 'batch', not 'graph'"):
        PLSTM(norm="graph")
    with pytest.raises(InputError, match="readout_norm must be 'layer', 'batch' or 'none', not 'graph'"):
        PLSTM(readout_norm="graph")


@pytest.mark.parametrize(
    ("readout_norm", "told_apart"), [(None, False), ("layer", False), ("batch", True), ("none", True)]
)
def test_layer_norm_hides_how_large_the_nodes_are_that_are_read_out(readout_norm, told_apart, molecules):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, num_layers=2, readout="sum", readout_norm=readout_norm).double().eval()
    embeddings = []
    for scale in (1, 2):
        model.run_blocks = lambda graphs, scale=scale: [scale * graphs.x]
        embeddings.append(model.embed(molecules[0]))
    assert torch.allclose(*embeddings, rtol=1e-4) != told_apart


@pytest.mark.parametrize("other", [["sum"], ["mean", "sum", "max"]])
def test_a_scaled_sum_is_the_sum_over_twenty(other):
    """Beside other readouts too, which PyG may compute in one pass."""
    nodes, graph = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 3, 3, 3])
    graphs = Graphs(nodes, torch.empty(2, 0), None, graph, num_graphs=4)
    plain = NodeReadout(3, other, "none", layers=1)(graphs, [[nodes]]).view(4, len(other), 3)
    scaled = NodeReadout(3, [{"sum": "scaled_sum"}.get(name, name) for name in other], "none", layers=1)
    plain[:, other.index("sum")] /= 20
    torch.testing.assert_close(scaled(graphs, [[nodes]]), plain.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_as_many_as_it_should_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    layer, x = Dropout(0.3), torch.ones(401, 1001, dtype=dtype, requires_grad=True)
    output = layer(x)
    dropped = (output == 0).float()
    count = dropped.numel()
    assert abs(dropped.mean() - 0.3) < 5 * (0.3 * 0.7 / count) ** 0.5
    # As independent along rows and columns as coins: deviations of their means are those of coins.
    for dim in (0, 1):
        means = dropped.mean(dim)
        expected = (0.3 * 0.7 / dropped.size(dim)) ** 0.5
        assert means.std() == pytest.approx(expected, rel=0.2)
    torch.testing.assert_close(output[output != 0], torch.full_like(output[output != 0], 1 / 0.7))
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(gradient, output)
    again = layer(x)
    assert not torch.equal(again, output)
    torch.manual_seed(0)
    assert torch.equal(layer(x), output)
    assert torch.equal(layer.eval()(x), x)
    assert Dropout(0.5)(x[:0]).shape == (0, 1001)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_all(p):
    x = torch.randn(4, 3)
    assert torch.equal(Dropout(p)(x), (1 - p) * x)


def test_messages_made_in_place_are_those_of_gine():
    torch.manual_seed(0)
    data = smiles_to_data("CC(=O)Oc1ccccc1C(=O)O")
    ours = gin_mixer(8, 8).conv
    theirs = GINEConv(ours.nn)
    found = []
    for conv in (ours, theirs):
        torch.manual_seed(1)
        x = torch.randn(data.num_nodes, 8, requires_grad=True)
        edges = torch.randn(data.num_edges, 8, requires_grad=True)
        out = conv(x, data.edge_index, edges)
        found.append((out, *torch.autograd.grad(out.square().sum(), (x, edges, *conv.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_dropout_under_transforms_and_tracers_is_torchs():
    layer, x = Dropout(0.5), torch.ones(8, 100)
    masks = torch.func.vmap(layer, randomness="different")(torch.ones(2, 8, 100))
    assert not torch.equal(*masks)
    with FakeTensorMode() as mode:
        assert layer(mode.from_tensor(x)).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_heads_and_branches_predict_in_the_networks_precision(molecules, dtype):
    """Also beside a process, which computes in its own."""
    torch.manual_seed(0)
    network = PLSTM(1, 16, 1, branches=[GaussianProcess(distance=2)])
    values = torch.arange(len(molecules)).float()[:, None]
    network.fit_branches([Batch.from_data_list(molecules)], lambda _: values, "regression")
    batch = Batch.from_data_list(molecules)
    wanted = network.eval()(batch)
    found = network.to(dtype)(batch)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=0.05, atol=0.05)


def test_networks_of_an_ensemble_may_be_stacked(molecules):
    """As torch's tutorial on ensembles has it: one call of several networks' weights."""
    networks = [GINE(hidden_channels=8, num_layers=1).eval() for _ in range(2)]
    parameters, _ = torch.func.stack_module_state(networks)
    batch = Batch.from_data_list(molecules)

    def call(weights):
        return torch.func.functional_call(networks[0], weights, (batch,))

    together = torch.func.vmap(call)(parameters)
    torch.testing.assert_close(together, torch.stack([network(batch) for network in networks]))
