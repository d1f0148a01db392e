"""Sequences and grids against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import output_and_gradients, random_inputs

from plstm_graph.dag import LineGraphDAG, grid_dag, sequence_dag
from plstm_graph.errors import InputError
from plstm_graph.kernels import stm

BACKENDS = ["reference", "gating", "lattice", "cpu"]


def from_origin(dag: LineGraphDAG, transition: torch.Tensor, source: torch.Tensor, mode: str, backend: str):
    """What arrives everywhere of a one at node 0, in double precision."""
    ones = torch.ones(dag.num_nodes, 1, 1, dtype=torch.float64)
    value = torch.zeros_like(ones)
    value[0] = 1
    mark, direct = torch.ones(dag.num_edges, 1, dtype=torch.float64), torch.zeros_like(ones[..., 0])
    gates = source.view(-1, 1), transition.view(-1, 1), mark
    return stm(ones, ones, value, *gates, direct, dag, mode=mode, backend=backend).flatten()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_sequence_is_a_gated_linear_attention(length, backend):
    """h_t = m_t Σ_{s<t} (q_t·k_s) s_s v_s Π of the transitions between, and the same from the other side."""
    torch.manual_seed(0)
    dag = sequence_dag(length)
    query, key = torch.randn(2, length, 2, 3, dtype=torch.float64)
    value, direct = (
        torch.randn(length, 2, 5, dtype=torch.float64),
        torch.randn(length, 2, dtype=torch.float64),
    )
    edges, lines = max(0, length - 1), max(0, length - 2)
    gates = [[torch.rand(n, 2, dtype=torch.float64) for n in (edges, lines, edges)] for _ in range(2)]
    found = stm(query, key, value, *gates[0], direct, dag, reverse=tuple(gates[1]), backend=backend)
    wanted = torch.einsum("th,thk,thk,thv->thv", direct, query, key, value)
    (s, t, m), (s_back, t_back, m_back) = gates
    for i in range(length):
        for j in range(length):
            score = torch.einsum("hk,hk->h", query[i], key[j])
            if j < i:  # source on the edge that leaves j, mark on the one that enters i
                weight = s[j] * t[j : i - 1].prod(0) * m[i - 1]
            elif j > i:
                weight = s_back[j - 1] * t_back[i : j - 1].prod(0) * m_back[i]
            else:
                continue
            wanted[i] += (weight * score)[:, None] * value[j]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (5, 1), (7, 9)])
def test_paths_of_a_grid_are_counted_by_binomials(height, width, backend):
    dag = grid_dag(height, width)
    assert dag.num_edges == height * (width - 1) + width * (height - 1)
    ones = torch.ones(dag.num_edges, dtype=torch.float64), torch.ones(dag.num_lines, dtype=torch.float64)
    found = from_origin(dag, ones[1], ones[0], "P", backend).view(height, width)
    wanted = [[math.comb(i + j, i) for j in range(width)] for i in range(height)]
    wanted[0][0] = 0  # the direct gate, which is shut
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def shares(dag: LineGraphDAG, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """P-mode gates that send α across and 1 - α down."""
    across = dag.dst - dag.src == 1
    share = torch.where(across, *torch.tensor([alpha, 1 - alpha], dtype=torch.float64))
    return share[dag.succ], share


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_constant_shares_spread_as_a_binomial_law(alpha, backend):
    dag = grid_dag(12, 15)
    found = from_origin(dag, *shares(dag, alpha), "P", backend).view(12, 15)
    for i in range(12):
        for j in range(15):
            law = math.comb(i + j, i) * alpha**j * (1 - alpha) ** i
            assert found[i, j] == pytest.approx(law if i + j else 0, rel=1e-10)


def test_what_goes_in_one_direction_decays_with_the_root_of_the_distance():
    dag = grid_dag(129, 129)
    diagonal = from_origin(dag, *shares(dag, 0.5), "P", "cpu").view(129, 129).diagonal()
    slope = math.log(diagonal[128] / diagonal[32]) / math.log(128 / 32)
    assert slope == pytest.approx(-0.5, abs=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leftwards", [False, True])
def test_d_mode_reaches_every_node_below_once(leftwards, backend):
    height, width = 8, 11
    dag = grid_dag(height, width, leftwards)
    ones = torch.ones(dag.num_edges, dtype=torch.float64), torch.ones(dag.num_lines, dtype=torch.float64)
    for row, column in ((0, 0), (3, 4), (7, 10)):
        value = torch.zeros(dag.num_nodes, 1, 1, dtype=torch.float64)
        value[row * width + column] = 1
        gates = ones[0].view(-1, 1), ones[1].view(-1, 1), ones[0].view(-1, 1)
        query, direct = torch.ones_like(value), torch.ones(dag.num_nodes, 1, dtype=torch.float64)
        found = stm(query, query, value, *gates, direct, dag, mode="D", backend=backend).view(height, width)
        wanted = torch.zeros(height, width, dtype=torch.float64)
        wanted[row:, slice(None, column + 1) if leftwards else slice(column, None)] = 1
        assert torch.equal(found, wanted)


def test_grids_keep_the_generic_structure():
    """The same edges and lines as from the edge list, and a multitree that is one."""
    dag = grid_dag(4, 5)
    order = dag.edge_id.argsort()
    generic = LineGraphDAG.from_edge_index(torch.stack([dag.src, dag.dst])[:, order], 20)
    pairs = [
        {(int(d.src[p]), int(d.dst[p]), int(d.dst[s])) for p, s in zip(d.pred, d.succ, strict=True)}
        for d in (dag, generic)
    ]
    assert pairs[0] == pairs[1]
    paths = torch.eye(dag.num_edges)
    kept = torch.zeros_like(paths)
    kept[dag.pred[dag.multitree], dag.succ[dag.multitree]] = 1
    step = kept
    while step.any():
        paths += step
        step = step @ kept
    assert paths.max() == 1


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.booleans(), st.booleans())
def test_logarithmic_depth_gives_the_general_numbers(graphs, height, width, leftwards, both):
    dag = LineGraphDAG.batch([grid_dag(height, width, leftwards)] * graphs)
    assert dag.lattice == (graphs, height, width, leftwards)
    inputs, reverse = random_inputs(dag, 2, 3, 4)
    for gate in inputs[4], reverse[1]:  # or sums over all paths would have hundreds of digits
        gate *= 0.5
    reverse = reverse if both else None
    wanted = output_and_gradients(inputs, reverse, dag, backend="cpu")
    found = output_and_gradients(inputs, reverse, dag, backend="lattice")
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [63, 64, 65, 1000])
def test_sequences_of_any_length_in_logarithmic_depth(length):
    dag = sequence_dag(length)
    inputs, reverse = random_inputs(dag, 2, 3, 4)
    wanted = output_and_gradients(inputs, reverse, dag, backend="cpu")
    found = output_and_gradients(inputs, reverse, dag, backend="lattice")
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_what_is_no_lattice_is_refused():
    assert LineGraphDAG.batch([sequence_dag(4), sequence_dag(5)]).lattice is None
    assert sequence_dag(4).to("meta").lattice == (1, 1, 4, False)
    dag = LineGraphDAG.from_edge_index(torch.tensor([[0, 1], [1, 2]]))
    inputs, _ = random_inputs(dag)
    with pytest.raises(InputError, match="takes batches of sequence_dag or grid_dag of one size"):
        stm(*inputs, dag, backend="lattice")


def test_sizes_that_are_none_are_refused():
    with pytest.raises(InputError, match="length must be at least 1, not 0"):
        sequence_dag(0)
    with pytest.raises(InputError, match="not 0 and 3"):
        grid_dag(0, 3)
