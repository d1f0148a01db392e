"""Explanations: the gating matrix is an exact account, PyG's explainers reach the scan, groups are found."""

import itertools
from types import SimpleNamespace

import networkx as nx
import pytest
import torch
from graphs import MOLECULES, both_directions, path
from oracle import random_inputs
from rdkit import Chem
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.explain import (
    AttentionExplainer,
    CaptumExplainer,
    Explainer,
    GNNExplainer,
    GraphMaskExplainer,
    PGExplainer,
)
from torch_geometric.loader import DataLoader
from torch_geometric.nn import summary

from plstm_graph import PLSTM, LineGraphDAG, PLSTMConv, stm
from plstm_graph.chem import mol_to_data, smiles_to_data
from plstm_graph.conv.gating_matrix import mask_gates
from plstm_graph.dag import ToLineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.explain import EncodedNetwork, _scale, contributions, gating_matrices
from plstm_graph.kernels import Gates, gating_matrix
from plstm_graph.models import GCN, GIN, GINE, Branch, CircularFingerprint, GaussianProcess, Graphs, gradients
from plstm_graph.normal_scores import NormalScores
from plstm_graph.task import GraphTask


@pytest.fixture
def batch() -> Batch:
    return Batch.from_data_list([ToLineGraphDAG()(smiles_to_data(smiles)) for smiles in MOLECULES])


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("both", [False, True])
def test_the_gating_matrix_weights_the_values(batch, mode, both):
    dag = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes)
    inputs, reverse = random_inputs(dag)
    query, key, value, *gates = inputs
    receiver, sender, gating = gating_matrix(*gates, dag, mode=mode, reverse=reverse if both else None)
    assert gating.shape == (len(receiver), 2 if both else 1, 2)
    weights = gating.sum(1) * (query[receiver] * key[sender]).sum(-1)
    rebuilt = torch.zeros_like(value).index_add(0, receiver, weights.unsqueeze(-1) * value[sender])
    wanted = stm(*inputs, dag, mode=mode, reverse=reverse if both else None, backend="reference")
    torch.testing.assert_close(rebuilt, wanted)


def test_gating_has_entries_for_ancestors_and_descendants_alone(batch):
    dag = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes)
    inputs, reverse = random_inputs(dag)
    receiver, sender, gating = gating_matrix(*inputs[3:], dag, reverse=reverse)
    graph = nx.DiGraph(zip(dag.src.tolist(), dag.dst.tolist(), strict=True))
    graph.add_nodes_from(range(dag.num_nodes))
    downward = {(m, n) for m in graph for n in nx.descendants(graph, m)}
    own = {(n, n) for n in graph}
    pairs = list(zip(sender.tolist(), receiver.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == own | downward | {(n, m) for m, n in downward}
    for (m, n), entry in zip(pairs, gating, strict=True):
        assert entry[0].any() == ((m, n) in downward or m == n)  # the DAG's own direction
        assert entry[1].any() == ((n, m) in downward)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gating_of_long_paths_is_computed_in_single_precision(dtype):
    dag = LineGraphDAG.from_edge_index(path(300))
    gates = [torch.full((n, 1), 0.99, dtype=dtype) for n in (dag.num_edges, dag.num_lines, dag.num_edges)]
    direct = torch.zeros(300, 1, dtype=dtype)
    *_, found = gating_matrix(*gates, direct, dag)
    *_, wanted = gating_matrix(*(gate.double() for gate in gates), direct.double(), dag)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_masks_find_the_columns_of_large_graphs(dtype):
    """Whatever the integers of edge_index: the product of two nodes' numbers needs more than 32 bits."""
    edge_index = both_directions(path(60_000))
    dag = LineGraphDAG.from_edge_index(edge_index, rank="index")
    gates = [Gates(*(torch.ones(n, 1) for n in (dag.num_edges, dag.num_lines, dag.num_edges)))] * 2
    mask = torch.arange(1, edge_index.size(1) + 1).double()
    _, back = mask_gates(gates, mask, edge_index.to(dtype), dag)
    turned = {(int(a), int(b)): column for column, (a, b) in enumerate(edge_index.T)}
    wanted = [mask[turned[int(b), int(a)]] for a, b in zip(dag.src, dag.dst, strict=True)]
    assert torch.equal(back.source[:, 0], torch.stack(wanted))


def test_gating_of_nothing_is_empty():
    dag = LineGraphDAG.from_edge_index(torch.empty(2, 0, dtype=torch.long), 0)
    receiver, _, gating = gating_matrix(*(torch.empty(0, 3) for _ in range(4)), dag)
    assert receiver.numel() == 0
    assert gating.shape == (0, 1, 3)


def test_a_networks_gating_matrices_are_of_one_pass(batch, monkeypatch):
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, num_layers=4, scan_every=2).eval()
    wanted = model(batch)
    calls = []
    forward = PLSTMConv.forward
    monkeypatch.setattr(PLSTMConv, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    gatings = gating_matrices(model, batch)
    assert len(calls) == len(gatings) == 2
    assert torch.equal(model(batch), wanted)  # and nothing of the question is left behind
    assert len(calls) == 4
    dense = gatings[0].dense(batch.num_nodes)
    assert dense.shape == (batch.num_nodes, batch.num_nodes, 2, 4)
    assert torch.equal(dense[gatings[0].receiver, gatings[0].sender], gatings[0].gating)
    other_molecule = batch.batch[:, None] != batch.batch
    assert not dense[other_molecule].any()


@pytest.mark.parametrize("state_dim", [1, 3])
def test_an_edge_mask_weights_every_path_by_the_product_of_its_bonds(state_dim):
    torch.manual_seed(0)
    graph = smiles_to_data("CC(C)CC(N)CO")  # a tree: one path between any two atoms
    conv = PLSTMConv(8, 8, heads=2, mode="D", state_dim=state_dim).double()
    x = torch.randn(graph.num_nodes, 8, dtype=torch.double)
    _, free = conv(x, graph.edge_index, return_gating=True)
    mask = torch.rand(graph.num_edges, dtype=torch.double)
    mask[4] = 0
    conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, False
    _, masked = conv(x, graph.edge_index, return_gating=True)
    directed = nx.DiGraph()
    for column, (a, b) in enumerate(graph.edge_index.T.tolist()):
        directed.add_edge(a, b, mask=mask[column].item())
    free, masked = free.dense(graph.num_nodes).sum(2), masked.dense(graph.num_nodes).sum(2)
    assert free.ne(0).any(-1).sum() > 2 * graph.num_nodes
    for n, m in free.ne(0).any(-1).nonzero().tolist():
        walk = nx.shortest_path(directed, m, n)
        product = torch.tensor([directed.edges[e]["mask"] for e in nx.utils.pairwise(walk)]).double().prod()
        torch.testing.assert_close(masked[n, m], free[n, m] * product)


class OwnModel(nn.Module):
    """A PyG model as users write them."""

    def __init__(self):
        super().__init__()
        self.first = PLSTMConv(9, 16, edge_dim=3)
        self.second = PLSTMConv(16, 16, mode="D")
        self.head = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_attr=None):
        x = self.first(x, edge_index, edge_attr).relu()
        return self.head(self.second(x, edge_index).relu().sum(0, keepdim=True))


@pytest.mark.parametrize("ours", [False, True], ids=["own model", "PLSTM"])
@pytest.mark.parametrize(
    "algorithm", [GNNExplainer(epochs=5), CaptumExplainer("IntegratedGradients")], ids=["gnn", "captum"]
)
def test_pygs_explainers_mask_nodes_and_bonds(algorithm, ours):
    torch.manual_seed(0)
    graph = smiles_to_data("CC(=O)Nc1ccc(O)cc1")
    if ours:
        network = PLSTM(hidden_channels=16, local=False).eval()  # masks act on scans alone
        model = EncodedNetwork(network, graph)
        x, edge_attr = (features.detach() for features in network.encode(graph))
        torch.testing.assert_close(model(x, graph.edge_index, edge_attr), network(graph))
    else:
        model, x, edge_attr = OwnModel().eval(), graph.x.float(), graph.edge_attr.float()
    explainer = Explainer(
        model,
        algorithm,
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    before = model(x, graph.edge_index, edge_attr)
    explanation = explainer(x, graph.edge_index, edge_attr=edge_attr)
    assert explanation.node_mask.shape == x.shape
    assert explanation.edge_mask.shape == (graph.num_edges,)
    assert explanation.edge_mask.ne(0).all()
    assert explanation.edge_mask.std() > 1e-5
    torch.testing.assert_close(model(x, graph.edge_index, edge_attr), before)  # masks are taken off again


REGRESSION = {"mode": "regression", "task_level": "node", "return_type": "raw"}


def test_an_explainer_that_learns_masks_of_bonds_reaches_the_scan():
    torch.manual_seed(0)
    conv, graph = PLSTMConv(9, 1), smiles_to_data("CC(=O)Nc1ccc(O)cc1")
    x, target = graph.x.float(), torch.zeros(graph.num_nodes, 1)
    explainer = Explainer(
        conv,
        PGExplainer(epochs=2),
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config=REGRESSION,
    )
    for epoch in range(2):
        explainer.algorithm.train(epoch, conv, x, graph.edge_index, target=target, index=3)
    explanation = explainer(x, graph.edge_index, target=target, index=3)
    assert explanation.edge_mask.shape == (graph.num_edges,)
    assert explanation.edge_mask.std() > 0


@pytest.mark.parametrize(
    ("algorithm", "sentence"),
    [(AttentionExplainer(), "no propagate, message"), (GraphMaskExplainer(1, log=False), "GNNExplainer")],
    ids=["attention", "graph mask"],
)
def test_explainers_of_messages_are_refused_and_those_of_others_pass_by(algorithm, sentence):
    conv, graph = PLSTMConv(9, 4), smiles_to_data("CCO")
    explainer = Explainer(
        conv,
        algorithm,
        explanation_type="model",
        edge_mask_type="object",
        node_mask_type="object" if isinstance(algorithm, GraphMaskExplainer) else None,
        model_config=REGRESSION,
    )
    with pytest.raises(InputError, match=sentence):
        explainer(graph.x.float(), graph.edge_index)


def test_masks_and_messages_of_ones_own_are_refused_if_they_do_not_fit():
    graph = smiles_to_data("CCO")
    x = graph.x.float()
    conv = PLSTMConv(9, 4)
    free = conv(x, graph.edge_index)
    conv.explain = True
    with pytest.raises(InputError, match="only edges to mask"):
        conv(x, graph.edge_index)
    conv._edge_mask = torch.ones(3)
    with pytest.raises(InputError, match="3 edges are masked, but edge_index has 4 columns"):
        conv(x, graph.edge_index)
    conv._edge_mask, conv._apply_sigmoid = torch.ones(4), False
    torch.testing.assert_close(conv(x, graph.edge_index), free)

    class Own(PLSTMConv):
        def explain_message(self, inputs, dim_size):
            return inputs

    own = Own(9, 4)
    own.explain, own._edge_mask = True, torch.ones(4)
    with pytest.raises(InputError, match="no messages to replace"):
        own(x, graph.edge_index)
    own.explain = False
    assert own(x, graph.edge_index).isfinite().all()


@pytest.mark.parametrize("walk_length", [0, 8])
def test_contributions_sum_to_the_difference_from_the_alkane(batch, walk_length, monkeypatch):
    monkeypatch.setattr(
        "plstm_graph.models.gradients.STEPS", 128
    )  # of the midpoint rule, whose error shrinks
    torch.manual_seed(0)
    network = PLSTM(hidden_channels=32, readout="sum", out_channels=2, walk_length=walk_length)
    task = GraphTask(network).double().eval()
    task.target_std.copy_(torch.tensor([2.0, 3.0]))
    atoms, bonds = contributions(task, batch)
    assert atoms.shape == (batch.num_nodes, 2)
    assert bonds.shape == (batch.num_edges, 2)
    total = torch.zeros(batch.num_graphs, 2).double().index_add(0, batch.batch, atoms)
    total = total.index_add(0, batch.batch[batch.edge_index[0]], bonds)
    alkane = batch.clone()
    chain = smiles_to_data("CCC")
    alkane.x = chain.x[1].expand_as(batch.x)
    alkane.edge_attr = chain.edge_attr[0].expand_as(batch.edge_attr)
    difference = (network(batch) - network(alkane)) * task.target_std
    torch.testing.assert_close(total, difference, rtol=0.01, atol=0.01)
    assert difference.abs().max() > 0.5
    single, _ = contributions(task, batch[3])
    torch.testing.assert_close(single, atoms[batch.batch == 3])


@pytest.mark.parametrize("kind", [GIN, GCN])
def test_networks_that_read_no_bonds_give_them_nothing(batch, kind):
    torch.manual_seed(0)
    atoms, bonds = contributions(GraphTask(kind(1, 16, 1)).eval(), batch)
    assert atoms.abs().max() > 0
    assert not bonds.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_contributions_where_nothing_else_has_gradients(batch, mode):
    torch.manual_seed(0)
    task = GraphTask(PLSTM(1, 16, 1, heads=2)).eval()
    expected = contributions(task, batch)
    with mode():
        found = contributions(task, Batch.from_data_list([smiles_to_data(s) for s in batch.smiles]))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    batch.edge_attr = None
    with pytest.raises(InputError, match="edge_attr must hold OGB's features"):
        contributions(task, batch)


def test_a_compiled_network_has_no_scans_to_watch(batch):
    network = torch.compile(PLSTM(1, 16, 1, heads=2).eval(), backend="eager")
    network(batch)
    with pytest.raises(InputError, match=r"before torch\.compile"):
        gating_matrices(network, batch)


def alkane_of(batch):
    chain, alkane = smiles_to_data("CCC"), batch.clone()
    alkane.x = chain.x[1].expand_as(batch.x)
    alkane.edge_attr = chain.edge_attr[0].expand_as(batch.edge_attr)
    return alkane


def of_branches(batch, branches, task="regression", outputs=2, descriptors=0, **arguments):
    """A network with branches, fitted to the molecules' sizes and whether they hold oxygen."""
    torch.manual_seed(0)
    sizes = {"hidden_channels": 16, "num_layers": 2, "out_channels": outputs, "descriptors": descriptors}
    network = PLSTM(**sizes, branches=branches)
    oxygen = torch.tensor(["O" in smiles for smiles in batch.smiles]).float()
    targets = oxygen[:, None] if task == "multiclass" else torch.stack([oxygen, 1 - oxygen], dim=1)
    targets = targets + batch.ptr.diff()[:, None] / 10 if task == "regression" else targets
    network.fit_branches([batch], lambda _: targets, task)
    return GraphTask(network, task, **arguments).eval()


def summed(batch, atoms, bonds):
    """Contributions to every molecule."""
    total = atoms.new_zeros(batch.num_graphs, atoms.size(1)).index_add(0, batch.batch, atoms)
    return total.index_add(0, batch.batch[batch.edge_index[0]], bonds)


BRANCHES = {
    "fingerprint": lambda: [CircularFingerprint(128, channels=16)],
    "process": lambda: [GaussianProcess()],
    "mix": lambda: [CircularFingerprint(64, radius=3, columns=1, hashes=1), GaussianProcess(1, 3)],
}


@pytest.mark.parametrize(
    ("branches", "task", "outputs"),
    [
        ("fingerprint", "regression", 2),
        ("process", "regression", 2),
        ("process", "classification", 2),
        ("mix", "regression", 2),
        ("mix", "multiclass", 3),
    ],
)
def test_contributions_of_branches_sum_and_do_not_depend_on_the_numbering(
    batch, branches, task, outputs, monkeypatch
):
    monkeypatch.setattr(gradients, "STEPS", 128)  # the error of 32 is a hundredth
    torch.manual_seed(0)  # the branches are made before the network
    explained = of_branches(batch, BRANCHES[branches](), task, outputs).double()
    explained.target_std.fill_(2.0)
    network = explained.network
    for number, weight in enumerate(network.predictors.parameters()):
        weight.data *= 10.0 * (number > 3)  # without the nodes' head
    scale = 2.0 if task == "regression" else 1.0
    atoms, bonds = contributions(explained, batch)
    assert not bonds.any()  # the nodes' branch is silenced
    difference = (network(batch) - network(alkane_of(batch))) * scale
    torch.testing.assert_close(summed(batch, atoms, bonds), difference, rtol=1e-3, atol=1e-3)
    assert difference.abs().max() > 0.1

    graphs = []
    for smiles in batch.smiles:
        mol = Chem.MolFromSmiles(smiles)
        graphs.append(mol_to_data(Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])))
    other, _ = contributions(explained, Batch.from_data_list(graphs))
    back = torch.cat([torch.arange(last - 1, first - 1, -1) for first, last in itertools.pairwise(batch.ptr)])
    torch.testing.assert_close(other[back], atoms, rtol=1e-6, atol=1e-6)
    single, _ = contributions(explained, batch[3])
    torch.testing.assert_close(single, atoms[batch.batch == 3], rtol=1e-6, atol=1e-6)


def test_all_branches_and_the_scale_of_their_targets_count(batch, monkeypatch):
    """Beside descriptors; also of targets learned by normal scores, whose scale is another everywhere."""
    monkeypatch.setattr(gradients, "STEPS", 128)  # the error of 32 is a hundredth
    torch.manual_seed(1)
    batch.descriptors = torch.randn(batch.num_graphs, 1)
    for metric in ("rmse", "mae"):
        task = of_branches(batch, BRANCHES["mix"](), descriptors=1, metric=metric)
        fitted = task.network.branches[2]._fitted  # a part of which descriptors have, and no atom
        kernel = fitted.kernel._replace(linear=0.25)
        task.network.branches[2]._fitted = fitted._replace(kernel=kernel)
        task.target_mean.fill_(0.3)
        task.target_std.fill_(2.0)
        if task.normal_scores is not None:
            task.normal_scores.fit(4 * torch.rand(100, 2))  # of which no slope is steep
        atoms, bonds = contributions(task, batch)
        assert bonds.any()
        difference = task(batch) - task(alkane_of(batch))
        torch.testing.assert_close(summed(batch, atoms, bonds), difference, rtol=1e-3, atol=1e-3)
        assert difference.abs().max() > 0.1


def test_of_scores_that_are_almost_equal_the_slope_counts():
    """Contributions then sum to what two predictions that differ a little more would have between them."""
    scores = NormalScores(1)
    scores.fit(torch.rand(200, 1, generator=torch.Generator().manual_seed(0)))
    parts = {"target_mean": torch.zeros(1), "target_std": torch.ones(1), "normal_scores": scores}
    predictor, starts = SimpleNamespace(task="regression", **parts), torch.tensor([[-1.0], [0.0], [0.7]])
    equal, close = (_scale(predictor, starts, starts + gap) for gap in (0.0, 2e-3))
    assert equal.isfinite().all()
    torch.testing.assert_close(equal, close, rtol=0.1, atol=0)


def test_a_process_of_one_molecule_gives_what_is_like_it():
    """Of ethanol in the place of propane, by what it has in common with ethanol: itself all, propane C-C."""
    process = GaussianProcess(radius=0, distance=1)
    process.heads(0, 1, 1, 0.0)
    ethanol, propane = (Batch.from_data_list([smiles_to_data(smiles)]) for smiles in ("CCO", "CCC"))
    ethanol.x[:2] = propane.x[1]  # as an alkane's
    process.fit([(Graphs.from_data(ethanol), torch.tensor([[1.0]]))], "regression")
    fitted = process._fitted
    process._fitted = fitted._replace(weights=torch.tensor([[1.0]]), scale=torch.tensor([1.0]))
    process.eval()
    alkane = alkane_of(ethanol)
    found = process.contributions(Graphs.from_data(ethanol), Graphs.from_data(alkane), torch.clone)
    # Kernels 1 and 2 / 4 of nodes, of which oxygen has the difference; 1 and 1 / 3 of pairs.
    torch.testing.assert_close(found[:, 0].tolist(), [0.0, 1 / 6, 1 / 4 + 1 / 6])
    assert not process.contributions(*[Graphs.from_data(alkane)] * 2, torch.clone).any()


def test_an_alkane_has_no_contributions(batch):
    task = of_branches(batch, BRANCHES["mix"]())
    assert all(not part.any() for part in contributions(task, alkane_of(batch)))


def test_branches_of_ones_own_say_what_atoms_have(batch):
    class Sizes(Branch):
        channels = 1

        def forward(self, graphs, passes):
            return torch.bincount(graphs.batch, minlength=graphs.num_graphs)[:, None].float()

    with pytest.raises(InputError, match="Sizes has no contributions of atoms; explain a network that was"):
        contributions(of_branches(batch, [Sizes()]), batch)


#: Skeletons with two places, and what stands there: carbonyls, and groups that share an atom or a bond with
#: them, so that neither carbon nor oxygen tells a carbonyl alone.
SKELETONS = (
    ["c1cc({})cc(c1){}", "c1c({})cncc1{}", "c1ccc2c({})cccc2c1{}", "C1CC({})CCC1{}"]
    + ["C1CN(C)CC({})C1{}", "C1CC({})C1{}", "CC({})CCC{}", "CCC({})C(C){}"]
)  # fmt: skip
GROUPS = (
    ["C(=O)C", "C(=O)N", "C(=O)OC", "C=O", "C(=C)C", "C(=C)N", "C(=S)C", "C(=N)N", "C(=N)C", "S(=O)C"]
    + ["S(=O)(=O)N", "S(=O)(=O)C", "[N+](=O)[O-]", "P(=O)(C)C", "N=O", "C(O)C", "OC", "N", "CC"]
)  # fmt: skip


def test_a_group_that_decides_the_label_is_found():
    """Carbonyls: their atoms come first in at least 90 % of the molecules that have one.

    By the mean of two networks: one in eight of them alone leans on something else.
    """
    torch.manual_seed(0)
    carbonyl = Chem.MolFromSmarts("[CX3]=[OX1]")
    graphs = []
    for skeleton, *groups in itertools.product(SKELETONS, GROUPS, GROUPS):
        mol = Chem.MolFromSmiles(skeleton.format(*groups))
        graph = ToLineGraphDAG()(mol_to_data(mol))
        graph.group = torch.zeros(mol.GetNumAtoms(), dtype=torch.bool)
        graph.group[[atom for match in mol.GetSubstructMatches(carbonyl) for atom in match]] = True
        graph.y = graph.group.any().float().view(1, 1)
        graphs.append(graph)
    unique = list({graph.smiles: graph for graph in graphs}.values())
    order = torch.randperm(len(unique)).tolist()
    train, test = [unique[row] for row in order[:900]], [unique[row] for row in order[900:1300]]
    batch = Batch.from_data_list([graph for graph in test if graph.y.item()])
    assert 100 < batch.num_graphs < 200
    shares = torch.zeros(batch.num_nodes)
    for _ in range(2):
        task = GraphTask(PLSTM(hidden_channels=32, num_layers=3, readout="sum"), "classification")
        optimizer = torch.optim.AdamW(task.parameters())
        loader = DataLoader(train, 64, shuffle=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=8, steps_per_epoch=len(loader))
        for _ in range(8):
            for part in loader:
                optimizer.zero_grad()
                task._loss(task.network(part), part.y).backward()
                optimizer.step()
                schedule.step()
        shares += contributions(task.eval(), batch)[0][:, 0]
    found = 0
    for first, last in itertools.pairwise(batch.ptr.tolist()):
        group = batch.group[first:last]
        found += bool(group[shares[first:last].topk(int(group.sum())).indices].all())
    assert found / batch.num_graphs >= 0.9


def test_contributions_need_atoms():
    task = GraphTask(PLSTM(hidden_channels=16, in_channels=9))
    graph = smiles_to_data("CCO")
    graph.x = graph.x.float()
    with pytest.raises(InputError, match="OGB's atom and bond features"):
        contributions(task, graph)


def test_summaries_show_the_scans(batch):
    table = summary(PLSTM(hidden_channels=16, num_layers=2).eval(), batch, max_depth=5)
    assert table.count("PLSTMConv") == 2
    assert f"{sum(p.numel() for p in PLSTM(hidden_channels=16, num_layers=2).parameters()):,}" in table
    assert "GINEConv" in summary(GINE(hidden_channels=16, num_layers=1).eval(), batch, max_depth=5)


@pytest.mark.parametrize("given", ["CCO", [smiles_to_data("CCO")], None])
def test_what_is_no_graph_is_refused(given):
    network = PLSTM(hidden_channels=8, heads=2)
    with pytest.raises(InputError, match="A network takes a graph or a batch of PyG's"):
        network(given)
    with pytest.raises(InputError, match="contributions takes a Predictor, such as"):
        contributions(GraphTask(network), given)
    with pytest.raises(InputError, match="not a PLSTM and a Data"):
        contributions(network, smiles_to_data("CCO"))


@pytest.mark.parametrize(
    "made",
    [
        lambda: PLSTMConv(8, 8, orientation="centre"),
        lambda: PLSTM(orientation="centre"),
        lambda: ToLineGraphDAG("centre"),
    ],
)
def test_an_unknown_orientation_is_refused_before_any_graph(made):
    with pytest.raises(InputError, match="orientation 'centre' is unknown; use one of 'center'"):
        made()
