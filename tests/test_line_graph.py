"""LineGraphDAG: structure, pruning, reversal, batching, and what is refused."""

import dataclasses

import pytest
import torch
from graphs import bond_lists, both_directions, line_matrix, path, path_counts
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from plstm_graph import LineGraphDAG, ToLineGraphDAG
from plstm_graph.dag.transform import DAG_LAYOUT
from plstm_graph.errors import InputError

ORIENTATIONS = ["center", "bfs", "canonical", "index"]


def assert_same(a: LineGraphDAG, b: LineGraphDAG) -> None:
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        assert same, field.name


@given(bond_lists(), st.sampled_from(ORIENTATIONS))
def test_every_bond_once_in_topological_order(graph, orientation):
    num_nodes, bonds = graph
    edge_index = both_directions(bonds)
    dag = LineGraphDAG.from_edge_index(edge_index, num_nodes, rank=orientation)
    assert torch.equal(edge_index[:, dag.edge_id], torch.stack([dag.src, dag.dst]))
    assert torch.equal((dag.edge_id % max(bonds.size(1), 1)).sort().values, torch.arange(bonds.size(1)))
    assert (dag.pred < dag.succ).all()
    assert torch.equal(dag.dst[dag.pred], dag.src[dag.succ])
    # All pairs that meet are lines.
    assert dag.num_lines == int((dag.dst.unsqueeze(1) == dag.src).sum())
    assert path_counts(line_matrix(dag)).isfinite().all()


@given(bond_lists(), st.sampled_from(ORIENTATIONS))
def test_levels_are_longest_paths(graph, orientation):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes, rank=orientation)
    reach, longest = line_matrix(dag), torch.zeros(dag.num_edges, dtype=torch.int64)
    power = torch.eye(dag.num_edges, dtype=torch.float64)
    for length in range(1, dag.num_edges + 1):
        power = reach @ power
        longest[power.sum(1) > 0] = length
    assert torch.equal(dag.level, longest)
    assert dag.num_levels == (int(longest.max()) + 1 if dag.num_edges else 0)


@given(bond_lists(), st.sampled_from(ORIENTATIONS))
def test_multitree_has_one_path_at_most_and_cannot_grow(graph, orientation):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes, rank=orientation)
    kept = line_matrix(dag, dag.multitree)
    assert (path_counts(kept) <= 1).all()
    for line in (~dag.multitree).nonzero().squeeze(1):
        grown = dag.multitree.clone()
        grown[line] = True
        assert (path_counts(line_matrix(dag, grown)) > 1).any()


@given(bond_lists(), st.sampled_from(ORIENTATIONS))
def test_reversal(graph, orientation):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes, rank=orientation)
    reverse = dag.reverse()
    assert (reverse.pred < reverse.succ).all()
    assert torch.equal(reverse.dst[reverse.pred], reverse.src[reverse.succ])
    lines = {(int(dag.edge_id[p]), int(dag.edge_id[s])) for p, s in zip(dag.pred, dag.succ, strict=True)}
    turned = {
        (int(reverse.edge_id[s]), int(reverse.edge_id[p]))
        for p, s in zip(reverse.pred, reverse.succ, strict=True)
    }
    assert lines == turned
    assert (path_counts(line_matrix(reverse, reverse.multitree)) <= 1).all()
    assert_same(reverse.reverse(), dag)


@given(st.lists(bond_lists(max_nodes=8), max_size=4))
def test_a_batch_is_its_graphs_side_by_side(graphs):
    dags = [LineGraphDAG.from_edge_index(both_directions(bonds), n) for n, bonds in graphs]
    offsets = torch.tensor([0] + [n for n, _ in graphs]).cumsum(0)
    columns = [both_directions(bonds) + shift for (_, bonds), shift in zip(graphs, offsets, strict=False)]
    edge_index = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *columns], dim=1)
    together = LineGraphDAG.from_edge_index(edge_index, int(offsets[-1]))
    joined = LineGraphDAG.batch(dags)
    for name in (
        "src",
        "dst",
        "pred_ptr",
        "pred",
        "line_id",
        "multitree",
        "level",
        "node_ptr",
        "edge_ptr",
        "edge_id",
        "block_columns",
    ):
        assert torch.equal(getattr(together, name), getattr(joined, name)), name


def test_tensors_of_a_dag_are_no_attributes_of_nodes_or_columns():
    """Though as long by chance: a ring's DAG has an edge for every node."""
    ring = both_directions(torch.stack([torch.arange(12), torch.arange(1, 13) % 12]))
    data = ToLineGraphDAG()(Data(x=torch.randn(12, 3), edge_index=ring, edge_attr=torch.ones(24)))
    assert len(data.dag_src) == data.num_nodes
    data.dag_multitree = torch.ones(24)  # as long as columns are many
    names = list(DAG_LAYOUT)
    assert not any(map(data.is_node_attr, names))
    assert not any(map(data.is_edge_attr, names))
    assert data.is_node_attr("x")
    assert data.is_edge_attr("edge_attr")
    assert torch.equal(data.subgraph(torch.arange(6)).dag_src, data.dag_src)


@given(bond_lists(), st.randoms())
def test_lines_as_given_are_all_kept_and_found_by_their_ids(graph, random):
    num_nodes, bonds = graph
    ordered = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes, rank="index")
    edges = list(range(ordered.num_edges))
    lines = [line for line in range(ordered.num_lines) if random.random() < 0.7]
    random.shuffle(edges)
    random.shuffle(lines)
    place = {edge: i for i, edge in enumerate(edges)}
    given_edges = torch.stack([ordered.src, ordered.dst])[:, edges]
    given_lines = torch.tensor(
        [
            [place[int(ordered.pred[i])] for i in lines],
            [place[int(ordered.succ[i])] for i in lines],
        ],
        dtype=torch.int64,
    )
    dag = LineGraphDAG.from_lines(num_nodes, given_edges, given_lines)
    assert torch.equal(given_edges[:, dag.edge_id], torch.stack([dag.src, dag.dst]))
    assert torch.equal(given_lines[0][dag.line_id], dag.edge_id[dag.pred])
    assert torch.equal(given_lines[1][dag.line_id], dag.edge_id[dag.succ])
    assert (dag.pred < dag.succ).all()
    assert (path_counts(line_matrix(dag, dag.multitree)) <= 1).all()


def test_repeated_bonds_count_once_and_self_loops_do_not():
    plain = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    noisy = torch.tensor([[2, 0, 1, 0, 1, 2, 1, 1], [2, 1, 0, 1, 2, 1, 2, 1]])
    dag = LineGraphDAG.from_edge_index(noisy, 3, rank="index")
    assert dag.block_columns.tolist() == [8]
    assert_same(
        dataclasses.replace(dag, edge_id=torch.tensor([0, 2]), block_columns=torch.tensor([4])),
        LineGraphDAG.from_edge_index(plain, 3, rank="index"),
    )
    assert dag.edge_id.tolist() == [1, 4]  # the first columns of their kind


@pytest.mark.parametrize("num_nodes", [0, 1, 5])
def test_graphs_without_bonds(num_nodes):
    dag = LineGraphDAG.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), num_nodes)
    assert (dag.num_nodes, dag.num_edges, dag.num_lines, dag.num_levels) == (num_nodes, 0, 0, 0)
    assert dag.node_ptr.tolist() == list(range(num_nodes + 1))
    assert_same(dag.reverse(), dag)


def test_components_that_follow_each_other_are_blocks():
    dag = LineGraphDAG.from_edge_index(both_directions(torch.tensor([[0, 3, 4], [1, 4, 5]])), 7)
    assert dag.node_ptr.tolist() == [0, 2, 3, 6, 7]
    assert dag.edge_ptr.tolist() == [0, 1, 1, 3, 3]


def test_components_that_interleave_are_one_block():
    dag = LineGraphDAG.from_edge_index(both_directions(torch.tensor([[0, 1], [2, 3]])), 4)
    assert dag.node_ptr.tolist() == [0, 4]


def test_no_limit_on_degree():
    spokes = torch.stack([torch.zeros(5000, dtype=torch.int64), torch.arange(1, 5001)])
    dag = LineGraphDAG.from_edge_index(both_directions(spokes), 5001)
    assert (dag.num_lines, dag.num_levels) == (0, 1)
    through = torch.cat([spokes.flip(0)[:, :200], spokes[:, 200:400]], dim=1)  # 200 in, 200 out
    dag = LineGraphDAG.from_edge_index(through, 5001)
    assert (dag.num_lines, int(dag.multitree.sum())) == (40_000, 40_000)


def test_a_long_path_takes_no_quadratic_time():
    dag = LineGraphDAG.from_edge_index(both_directions(path(100_000)), 100_000)
    assert dag.num_levels == 50_000


@pytest.mark.parametrize(
    ("edge_index", "num_nodes", "sentence"),
    [
        (torch.tensor([[3, 5, 4], [5, 3, 5]]), 6, "bonds (3→5→3|5→3→5) form a directed cycle"),
        (torch.tensor([[0, 1, 2], [1, 2, 0]]), 3, "bonds .* cycle of length 3"),
        (torch.tensor([[0, 4], [4, 0]]), 3, "names node 4"),
        (torch.tensor([[0, -1], [-1, 0]]), 3, "names node -1"),
        (torch.tensor([[0.0], [1.0]]), 2, "integers"),
        (torch.tensor([0, 1]), 2, "shape"),
        ([[0], [1]], 2, "tensor"),
        ([[0], [1]], None, "tensor"),
    ],
)
def test_bad_edges_are_refused_in_a_sentence(edge_index, num_nodes, sentence):
    with pytest.raises(InputError, match=sentence):
        LineGraphDAG.from_edge_index(edge_index, num_nodes)


def test_a_cycle_is_named_in_the_order_of_its_edges():
    edge_index = torch.tensor([[7, 2, 5, 0, 9], [2, 5, 7, 7, 0]])
    with pytest.raises(InputError, match=r"(7→2→5→7|2→5→7→2|5→7→2→5)"):
        LineGraphDAG.from_edge_index(edge_index, 10)


def test_bad_batches_are_refused():
    edge_index = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(InputError, match="two graphs"):
        LineGraphDAG.from_edge_index(edge_index, 2, batch=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="sorted"):
        LineGraphDAG.from_edge_index(edge_index, 3, batch=torch.tensor([1, 1, 0]))
    with pytest.raises(InputError, match=r"shape \[3\]"):
        LineGraphDAG.from_edge_index(edge_index, 3, batch=torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("edges", "lines", "sentence"),
    [
        ([[0, 1], [1, 2]], [[1], [0]], "line 0 joins edges 1 and 0"),
        ([[0, 1], [1, 2]], [[0, 0], [1, 1]], "the same"),
        ([[0, 1], [1, 0]], [[0, 1], [1, 0]], "cycle"),
        ([[0, 1], [1, 2]], [[0], [2]], "node 2"),
    ],
)
def test_bad_lines_are_refused(edges, lines, sentence):
    with pytest.raises(InputError, match=sentence):
        LineGraphDAG.from_lines(3, torch.tensor(edges), torch.tensor(lines))


def test_other_integer_types_and_layouts():
    edge_index = both_directions(path(6))
    dag = LineGraphDAG.from_edge_index(edge_index, 6)
    assert_same(LineGraphDAG.from_edge_index(edge_index.int(), 6), dag)
    assert_same(LineGraphDAG.from_edge_index(edge_index.T.contiguous().T, 6), dag)
    assert_same(LineGraphDAG.from_edge_index(edge_index), dag)
