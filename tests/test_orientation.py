"""Rankings: what they promise about roots, directions and renumbering."""

import time

import networkx as nx
import numpy as np
import pytest
import torch
from graphs import MOLECULES, bond_lists, both_directions, nx_graph, path
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from plstm_graph import LineGraphDAG, PLSTMConv
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import Orientation, Root, rank_nodes
from plstm_graph.dag.bonds import label_keys
from plstm_graph.errors import InputError
from plstm_graph.testing import renumber_nodes


def components_by_root(graph: tuple[int, torch.Tensor], orientation: Orientation) -> dict[int, nx.Graph]:
    """Components that are oriented breadth first, by the one node of theirs to which no edge leads."""
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes, rank=orientation)
    has_parent = set(dag.dst.tolist())
    reference = nx_graph(num_nodes, bonds)
    found = {}
    for component in nx.connected_components(reference):
        roots = [node for node in component if node not in has_parent]
        assert len(roots) == 1
        # Breadth first: along every edge the distance from the root stays or grows by one.
        distance = nx.single_source_shortest_path_length(reference, roots[0])
        for u, v in zip(dag.src.tolist(), dag.dst.tolist(), strict=True):
            if u in component:
                assert distance[v] - distance[u] in (0, 1)
        found[roots[0]] = reference.subgraph(component)
    return found


@given(bond_lists(), st.sampled_from(["center", "bfs"]))
def test_roots_are_centres_or_ends(graph, orientation):
    for root, component in components_by_root(graph, orientation).items():
        ecc = nx.eccentricity(component)
        assert ecc[root] == (min(ecc.values()) if orientation == "center" else max(ecc.values()))


@given(bond_lists(), st.floats(0, 1, exclude_max=True))
def test_a_root_has_its_place_in_the_canonical_order(graph, place):
    num_nodes, bonds = graph
    canonical = rank_nodes(Data(edge_index=both_directions(bonds), num_nodes=num_nodes), "canonical")
    for root, component in components_by_root(graph, Root(place)).items():
        order = sorted(component, key=lambda node: int(canonical[node]))
        assert order[int(place * len(order))] == root


@given(bond_lists())
def test_a_root_that_is_drawn_is_one_as_well(graph):
    components_by_root(graph, Root())


def test_every_node_is_drawn_as_often_in_every_component():
    two_chains = torch.cat([path(3), path(4) + 3], dim=1)
    graph = 7, two_chains
    torch.manual_seed(0)
    draws = [tuple(components_by_root(graph, Root())) for _ in range(1200)]
    for pair in ((a, b) for a in range(3) for b in range(3, 7)):
        assert 60 <= draws.count(pair) <= 140  # 100 and four deviations
    torch.manual_seed(0)
    assert [tuple(components_by_root(graph, Root())) for _ in range(20)] == draws[:20]


@pytest.mark.parametrize("place", [-0.1, 1, float("nan")])
def test_roots_without_a_place_are_refused(place):
    with pytest.raises(InputError, match="from 0 to below 1, not"):
        Root(place)


@given(bond_lists(), st.sampled_from(["center", "bfs", "canonical"]), st.randoms(), st.integers(1, 3))
def test_renumbered_trees_and_rings_give_the_same_dag(graph, orientation, random, kinds):
    num_nodes, bonds = graph
    degrees = torch.bincount(bonds.flatten(), minlength=num_nodes)
    assume(bonds.size(1) <= num_nodes and int(degrees.max()) <= 4)  # refinement is exact on these
    x = torch.tensor([[random.randrange(kinds)] for _ in range(num_nodes)])
    edge_index = both_directions(bonds)
    bond_type = torch.tensor([random.randrange(kinds) for _ in range(bonds.size(1))]).repeat(2)
    data = Data(x=x, edge_index=edge_index, edge_attr=bond_type, num_nodes=num_nodes)
    order = torch.tensor(random.sample(range(num_nodes), num_nodes))
    other = renumber_nodes(data, order)

    def ranked(graph: Data) -> set[tuple[int, ...]]:
        """The DAG written in ranks, with what its nodes and bonds are; components told apart by content."""
        dag = LineGraphDAG.from_edge_index(
            graph.edge_index,
            num_nodes,
            rank=orientation,
            node_labels=graph.x,
            edge_labels=graph.edge_attr,
        )
        whole = nx.DiGraph()
        whole.add_nodes_from((n, {"x": int(graph.x[n])}) for n in range(num_nodes))
        for e, (u, v) in enumerate(zip(dag.src.tolist(), dag.dst.tolist(), strict=True)):
            kept = sum(
                int(dag.multitree[i]) << (int(dag.pred[i]) % 7)
                for i in range(int(dag.pred_ptr[e]), int(dag.pred_ptr[e + 1]))
            )
            whole.add_edge(u, v, label=f"{int(graph.edge_attr[dag.edge_id[e]])}/{kept.bit_count()}")
        return nx.weisfeiler_lehman_graph_hash(whole, node_attr="x", edge_attr="label", iterations=num_nodes)

    assert ranked(data) == ranked(other)


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("orientation", ["center", "bfs", "canonical"])
def test_ranks_follow_rdkit_where_it_has_ranked(smiles, orientation):
    data = smiles_to_data(smiles)
    order = torch.randperm(data.num_nodes, generator=torch.Generator().manual_seed(0))
    other = renumber_nodes(data, order)
    for graph in (data, other):
        graph.pairs = LineGraphDAG.from_edge_index(
            graph.edge_index, graph.num_nodes, rank=orientation, node_labels=graph.canonical_rank
        )
    edges = [
        set(
            zip(
                g.canonical_rank[g.pairs.src].tolist(),
                g.canonical_rank[g.pairs.dst].tolist(),
                strict=True,
            )
        )
        for g in (data, other)
    ]
    assert edges[0] == edges[1]


@given(bond_lists(), st.randoms())
def test_a_dag_keeps_its_directions_whatever_its_numbers(graph, random):
    num_nodes, bonds = graph
    shuffled = torch.tensor(random.sample(range(num_nodes), num_nodes))
    edge_index = shuffled[bonds]  # low → high before the shuffle: acyclic
    for orientation in ("center", "bfs", "canonical", "index"):
        dag = LineGraphDAG.from_edge_index(edge_index, num_nodes, rank=orientation)
        assert torch.equal(edge_index[:, dag.edge_id], torch.stack([dag.src, dag.dst]))
        assert torch.equal(dag.edge_id.sort().values, torch.arange(bonds.size(1)))


def test_every_component_is_directed_or_not_on_its_own():
    edge_index = torch.tensor([[1, 2, 3, 4], [0, 3, 2, 2]])  # 1→0 | 2-3 and 4→2: a two-cycle
    with pytest.raises(InputError, match="cycle of length 2"):
        LineGraphDAG.from_edge_index(edge_index, 5)
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):  # side by side, and interleaved
        place = torch.tensor(order)
        dag = LineGraphDAG.from_edge_index(place[edge_index[:, :3]], 4, rank="index")
        edges = set(zip(dag.src.tolist(), dag.dst.tolist(), strict=True))
        assert edges == {(order[1], order[0]), tuple(sorted((order[2], order[3])))}


def test_ranks_given_as_tensor_or_function():
    edge_index = both_directions(path(4))
    rank = torch.tensor([3, 0, 2, 1])
    wanted = {(1, 0), (1, 2), (3, 2)}
    for orientation in (rank, rank.double() - 7, lambda graph: rank[: graph.num_nodes]):
        dag = LineGraphDAG.from_edge_index(edge_index, 4, rank=orientation)
        assert set(zip(dag.src.tolist(), dag.dst.tolist(), strict=True)) == wanted


@pytest.mark.parametrize(
    "rank",
    [
        torch.tensor([3_000_002, 3_000_001, 3_000_000]),
        torch.tensor([2**62 + 2, 2**62 + 1, 2**62]),
        1 - torch.arange(3, dtype=torch.float64) * 1e-15,
        torch.tensor([True, False, False]),
    ],
)
def test_given_ranks_are_not_rounded(rank):
    dag = LineGraphDAG.from_edge_index(both_directions(path(3)), 3, rank=rank)
    assert (1, 0) in zip(dag.src.tolist(), dag.dst.tolist(), strict=True)
    for one, other in zip(dag.src, dag.dst, strict=True):
        assert rank[one] <= rank[other]


def test_rows_that_differ_are_no_ties():
    """In particular rows of whole numbers, whose sums by regular weights would often be equal."""
    rows = torch.cartesian_prod(*[torch.arange(-3, 4)] * 5)
    for values in (rows, rows.float(), rows.double() / 3):
        assert len(np.unique(label_keys(values, len(rows), "x"))) == len(rows)


@pytest.mark.parametrize(("dtype", "noise"), [(torch.float32, 1e-7), (torch.float64, 1e-15)])
def test_noise_parts_no_ties(dtype, noise):
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(10_000, 64, generator=draw, dtype=dtype)
    noisy = rows * (1 + noise * torch.randn(rows.shape, generator=draw, dtype=dtype))
    same = label_keys(rows, len(rows), "x") == label_keys(noisy, len(rows), "x")
    assert same.mean() > 0.95


@settings(max_examples=60)
@given(graph=bond_lists(), random=st.randoms(use_true_random=False))
def test_features_that_differ_between_directions_tell_ends_apart(graph, random):
    """Nodes are alike; whichever column comes first, the DAG is the same."""
    num_nodes, bonds = graph
    edge_index = both_directions(bonds)
    edge_attr = torch.tensor([random.randint(0, 3) for _ in range(edge_index.size(1))]).float()[:, None]
    order = torch.tensor(random.sample(range(num_nodes), num_nodes))
    shuffled = torch.tensor(random.sample(range(edge_index.size(1)), edge_index.size(1)), dtype=torch.int64)
    conv = PLSTMConv(2, 4, edge_dim=1).double()
    x, edge_attr = torch.ones(num_nodes, 2).double(), edge_attr.double()
    outputs = conv(x, edge_index, edge_attr).sum(0)
    renumbered = conv(x, order[edge_index][:, shuffled], edge_attr[shuffled]).sum(0)
    torch.testing.assert_close(outputs, renumbered, atol=1e-10, rtol=0)


def test_ties_in_a_given_rank_are_broken_canonically():
    x = torch.tensor([[6], [6], [8]])
    for order in ([0, 1, 2], [2, 1, 0]):
        data = renumber_nodes(Data(x=x, edge_index=both_directions(path(3))), torch.tensor(order))
        rank = rank_nodes(data, torch.zeros(3))
        assert rank[data.x.squeeze(1) == 8] == 2


def test_node_features_tell_equal_ends_apart():
    ends = [(6, 8), (8, 6)]
    roots = []
    for pair in ends:
        data = Data(x=torch.tensor([[pair[0]], [pair[1]]]), edge_index=torch.tensor([[0, 1], [1, 0]]))
        roots.append(pair[int(rank_nodes(data).argmin())])
    assert roots[0] == roots[1]


@pytest.mark.parametrize(
    ("orientation", "sentence"),
    [
        ("centre", "unknown"),
        (torch.zeros(3), "3 rows"),
        (torch.zeros(4, 1), "shape"),
        (7, "not int"),
        (torch.tensor([0.0, 1.0, torch.nan, 2.0]), "NaN"),
        (lambda graph: torch.zeros(9), "9 rows"),
        (lambda graph: [3, 2, 1, 0], "not list"),
        (lambda graph: None, "not NoneType"),
        (lambda graph: "centre", "'centre' is unknown"),
        (lambda graph: lambda graph: torch.zeros(4), "returns another"),
    ],
)
def test_bad_orientations_are_refused(orientation, sentence):
    with pytest.raises(InputError, match=sentence):
        LineGraphDAG.from_edge_index(both_directions(path(4)), 4, rank=orientation)


def test_a_function_may_return_a_name_or_a_root():
    ends = both_directions(path(4))
    for orientation in ("center", Root(0.0)):
        wanted = LineGraphDAG.from_edge_index(ends, 4, rank=orientation)
        found = LineGraphDAG.from_edge_index(ends, 4, rank=lambda graph, named=orientation: named)
        assert torch.equal(found.src, wanted.src)


def test_a_root_is_drawn_on_the_cpu_whatever_the_default_device():
    data = Data(x=torch.zeros(3, 1), edge_index=both_directions(path(3)))
    with torch.device("meta"):
        assert sorted(rank_nodes(data, Root()).tolist()) == [0, 1, 2]


def test_many_alike_branches_take_no_time_for_every_pair_of_them():
    """A hub with n legs of two atoms: each leg is singled out, and costs its own atoms alone."""

    def seconds(legs: int) -> float:
        first = torch.arange(1, legs + 1)
        bonds = torch.cat([torch.stack([0 * first, first]), torch.stack([first, first + legs])], dim=1)
        data = Data(x=torch.zeros(2 * legs + 1, 1), edge_index=both_directions(bonds))
        rank_nodes(data, "canonical")
        begun = time.perf_counter()
        rank_nodes(data, "canonical")
        return time.perf_counter() - begun

    few, many = (min(seconds(legs) for _ in range(3)) for legs in (4_000, 32_000))
    assert many < 30 * few  # 64 times, were it their square


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor(1.0), "needs 4 rows"),
        (torch.zeros(2, 3), "needs 4 rows, not the shape"),
        (torch.zeros(4, dtype=torch.complex64), "must be real"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        LineGraphDAG.from_edge_index(both_directions(path(4)), 4, node_labels=labels)
