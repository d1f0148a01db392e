"""The op: every backend against the authors' numbers and the oracle, and what the op promises."""

import multiprocessing
import os
import threading
from unittest import mock

import numpy as np
import pytest
import torch
from graphs import bond_lists, both_directions, path
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    CASES,
    INPUTS,
    assert_agrees,
    assert_gives_the_authors_numbers,
    output_and_gradients,
    random_inputs,
)

from plstm_graph import LineGraphDAG, stm
from plstm_graph.dag import grid_dag, sequence_dag
from plstm_graph.errors import InputError
from plstm_graph.kernels.cost import prefers_states
from plstm_graph.kernels.cpu.threads import run_over_ranges
from plstm_graph.kernels.reference import cell_states

BACKENDS = [pytest.param("reference", marks=pytest.mark.level_path), "gating", "chunkwise", "cpu"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_authors_numbers(case, backend):
    assert_gives_the_authors_numbers(case, backend)


@given(
    bond_lists(),
    st.sampled_from(["gating", "chunkwise", "cpu"]),
    st.sampled_from(["P", "D"]),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32]),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
)
def test_backends_agree_with_the_oracle(graph, backend, mode, both, dtype, dims):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    inputs, reverse = random_inputs(dag, *dims)
    assert_agrees(inputs, reverse if both else None, dag, backend, dtype, mode)


@given(
    bond_lists(),
    st.integers(1, 9),
    st.sampled_from(["P", "D"]),
    st.booleans(),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)
def test_chunks_of_any_size_agree_with_the_oracle(graph, edges, mode, both, dims):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    inputs, reverse = random_inputs(dag, *dims)
    with mock.patch("plstm_graph.kernels.chunkwise.CHUNK", edges):
        assert_agrees(inputs, reverse if both else None, dag, "chunkwise", torch.float64, mode)


def long_dags():
    """A sequence, a random DAG whose lines leap far, and a grid, each beside small ones."""
    torch.manual_seed(0)
    ends = torch.randint(900, (2, 2400)).sort(dim=0).values
    random = LineGraphDAG.from_edge_index(ends[:, ends[0] < ends[1]], 900)
    short = LineGraphDAG.from_edge_index(both_directions(path(9)), 9)
    for long in (sequence_dag(1500), random, grid_dag(25, 26)):
        yield LineGraphDAG.batch([short, long, short])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("backend", ["chunkwise", "cpu"])
def test_long_blocks_are_cut_into_chunks(number, backend):
    """Forward and backward, both ways; the sizes are above those that the fused kernels leave whole."""
    dag = list(long_dags())[number]
    assert dag.edge_ptr.diff().max() > 1024
    inputs, reverse = random_inputs(dag, 2, 3, 4)
    gates = inputs[4], reverse[1]
    for gate in gates:  # or sums over all the paths of a random DAG would have hundreds of digits
        gate *= 0.3
    assert_agrees(inputs, reverse, dag, backend)


@pytest.mark.parametrize("backend", ["gating", "chunkwise", "cpu"])
@pytest.mark.parametrize("dims", [(3, 7, 13), (2, 16, 8), (1, 1, 1), (4, 24, 24), (1, 100, 63)])
def test_odd_widths_on_a_mixed_batch(backend, dims):
    edge_index = torch.cat([both_directions(path(33)), both_directions(path(8)) + 40], dim=1)
    dag = LineGraphDAG.from_edge_index(edge_index, 50)  # two paths and single nodes
    inputs, reverse = random_inputs(dag, *dims)
    assert_agrees(inputs, reverse, dag, backend)


@pytest.mark.parametrize("length", [10, 300])
def test_short_blocks_take_the_gating_form_and_long_ones_states(length):
    dag = LineGraphDAG.from_edge_index(both_directions(path(length)), length, rank="bfs")
    assert bool(prefers_states(length, length - 1, length - 2, 16, 16, 2)) == (length == 300)
    inputs, reverse = random_inputs(dag, 2, 16, 16)
    assert_agrees(inputs, reverse, dag, "cpu")


def test_reverse_is_the_scan_of_the_reversed_dag():
    dag = LineGraphDAG.from_edge_index(both_directions(torch.tensor([[0, 1, 2, 3, 1], [1, 2, 3, 0, 4]])), 5)
    (query, key, value, source, transition, mark, direct), turned = random_inputs(dag)
    both = stm(query, key, value, source, transition, mark, direct, dag, reverse=turned)
    nothing = torch.zeros_like(direct)
    forward = stm(query, key, value, source, transition, mark, direct, dag)
    # Ids are columns of edge_index here, so number the dag's own edges before the turn.
    numbered = LineGraphDAG.from_lines(5, torch.stack([dag.src, dag.dst]), torch.stack([dag.pred, dag.succ]))
    back = numbered.reverse()
    edges, lines = back.edge_id, back.line_id
    backward = stm(query, key, value, turned[0][edges], turned[1][lines], turned[2][edges], nothing, back)
    torch.testing.assert_close(both, forward + backward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["P", "D"])
def test_gradients_equal_finite_differences(backend, mode):
    bonds = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 2, 3, 4, 4, 5]])  # a ring with two tails
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), 7, rank="index")
    assert not dag.multitree.all()
    inputs, reverse = random_inputs(dag, 1, 2, 2)
    leaves = [x.requires_grad_() for x in (*inputs, *reverse)]

    def run(*leaves):
        return stm(*leaves[:7], dag, reverse=leaves[7:], backend=backend, mode=mode)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("backend", ["gating", "chunkwise", "cpu"])
def test_registration_passes_opcheck(backend, both):
    dag = LineGraphDAG.from_edge_index(both_directions(path(5)), 6)
    inputs, reverse = random_inputs(dag)
    ways = [inputs[3:6], reverse] if both else [inputs[3:6]]
    gates = [torch.stack(gate) for gate in zip(*ways, strict=True)]
    leaves = [x.requires_grad_() for x in (*inputs[:3], inputs[6], *gates)]
    structure = (dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.succ, dag.level, dag.node_ptr, dag.edge_ptr)
    torch.library.opcheck(torch.ops.plstm_graph.stm.default, (*leaves, *structure, backend))


def many_molecules(count=64):
    generator = torch.Generator().manual_seed(0)
    columns, nodes = [], 0
    for _ in range(count):
        size = int(torch.randint(1, 40, (), generator=generator))
        parents = [int(torch.randint(0, i, (), generator=generator)) for i in range(1, size)]
        bonds = torch.tensor([parents, range(1, size)], dtype=torch.int64).reshape(2, -1)
        columns.append(both_directions(bonds) + nodes)
        nodes += size
    return torch.cat(columns, dim=1), nodes


def test_bitwise_the_same_for_any_number_of_threads():
    dag = LineGraphDAG.from_edge_index(*many_molecules())
    inputs, reverse = random_inputs(dag, 4, 24, 24, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(output_and_gradients(inputs, reverse, dag, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for output, gradients in results[1:]:
        assert torch.equal(output, results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


def test_bitwise_the_same_alone_and_in_a_batch():
    edge_index, num_nodes = many_molecules(16)
    dag = LineGraphDAG.from_edge_index(edge_index, num_nodes)
    inputs, reverse = random_inputs(dag, 4, 24, 24, torch.float32)
    together = stm(*inputs, dag, reverse=reverse)
    for b in range(16):
        nodes = slice(int(dag.node_ptr[b]), int(dag.node_ptr[b + 1]))
        edges = slice(int(dag.edge_ptr[b]), int(dag.edge_ptr[b + 1]))
        lines = slice(int(dag.pred_ptr[edges.start]), int(dag.pred_ptr[edges.stop]))
        inside = (edge_index[0] >= nodes.start) & (edge_index[0] < nodes.stop)
        alone = LineGraphDAG.from_edge_index(edge_index[:, inside] - nodes.start, nodes.stop - nodes.start)
        rows = (nodes, nodes, nodes, edges, lines, edges, nodes)
        own = [x[part] for x, part in zip(inputs, rows, strict=True)]
        turned = tuple(x[part] for x, part in zip(reverse, rows[3:6], strict=True))
        assert torch.equal(stm(*own, alone, reverse=turned), together[nodes])


def test_python_threads_do_not_disturb_each_other():
    dag = LineGraphDAG.from_edge_index(*many_molecules())
    inputs, reverse = random_inputs(dag, 4, 24, 24, torch.float32)
    wanted, wanted_gradients = output_and_gradients(inputs, reverse, dag)
    wrong = []

    def work():
        for _ in range(20):
            output, gradients = output_and_gradients(inputs, reverse, dag)
            if not torch.equal(output, wanted) or not torch.equal(gradients[4], wanted_gradients[4]):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def _blocks_covered(queue):
    seen = np.zeros(64, np.int64)

    def kernel(first, last):
        seen[first:last] += 1

    run_over_ranges(kernel, np.full(64, 1e6))
    queue.put(seen.tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_forked_process_starts_threads_of_its_own():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    _blocks_covered(queue)  # the parent's threads exist now
    child = context.Process(target=_blocks_covered, args=(queue,), daemon=True)
    child.start()
    for _ in ("parent", "child"):
        assert queue.get(timeout=30) == [1] * 64
    child.join(timeout=30)
    assert child.exitcode == 0


@pytest.mark.level_path
@settings(max_examples=4)
@given(st.sampled_from(["P", "D"]), st.integers(0, 2**31))
def test_states_stay_bounded_at_depth_10_000(mode, seed):
    depth = 10_000
    generator = torch.Generator().manual_seed(seed)
    skips = torch.randint(0, depth - 3, (3000,), generator=generator)
    ends = skips + torch.randint(2, 4, (3000,), generator=generator)
    bonds = torch.cat([path(depth + 1), torch.stack([skips, ends])], dim=1).unique(dim=1)
    dag = LineGraphDAG.from_edge_index(bonds, depth + 1)
    assert dag.num_levels == depth
    source = torch.rand(dag.num_edges, 1, dtype=torch.float64, generator=generator)
    key = torch.rand(depth + 1, 1, 1, dtype=torch.float64, generator=generator)
    if mode == "P":  # columns of T sum to one exactly: what leaves an edge is what came, shared out
        share = torch.rand(dag.num_lines, 1, dtype=torch.float64, generator=generator)
        total = torch.zeros(dag.num_edges, 1, dtype=torch.float64).index_add(0, dag.pred, share)
        transition = share / total[dag.pred]
        states = cell_states(key, torch.ones_like(key), source, transition, dag)
        injected = source * key[dag.src].flatten(1)
        # Mass is conserved: nothing is larger than all that was put in, and the last edges hold all of it.
        assert states.max() <= injected.sum() * (1 + 1e-9)
        last = torch.bincount(dag.pred, minlength=dag.num_edges) == 0
        torch.testing.assert_close(states[last].sum(), injected.sum())
    else:  # |T| = 1 along a multitree: every source arrives at most once
        transition = torch.where(dag.multitree.unsqueeze(1), 1.0, 0.0).double()
        states = cell_states(key, torch.ones_like(key), source, transition, dag)
        assert states.max() <= (source * key[dag.src].flatten(1)).sum() * (1 + 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_nodes", [0, 1, 4])
def test_without_bonds_only_the_direct_term_is_left(backend, num_nodes):
    dag = LineGraphDAG.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), num_nodes)
    inputs, reverse = random_inputs(dag)
    query, key, value, *_, direct = inputs
    output, gradients = output_and_gradients(inputs, reverse, dag, backend=backend)
    torch.testing.assert_close(output, (direct * (query * key).sum(-1)).unsqueeze(-1) * value)
    assert all(g.shape == x.shape for g, x in zip(gradients, (*inputs, *reverse), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    dag = LineGraphDAG.from_edge_index(both_directions(path(2000)), 2000, rank="bfs")
    ones = torch.ones(2000, 1, 1, dtype=dtype)
    open_gates = [torch.ones(n, 1, dtype=dtype) for n in (dag.num_edges, dag.num_lines, dag.num_edges)]
    output = stm(ones, ones, ones, *open_gates, torch.zeros(2000, 1, dtype=dtype), dag)
    assert output.dtype == dtype
    # The far end has gathered 1999 ones; sums in bfloat16 would stop at 256, in float16 at 2048.
    torch.testing.assert_close(output.max().float(), torch.tensor(1999.0), rtol=4e-3, atol=0)


def test_strided_inputs_give_the_same():
    dag = LineGraphDAG.from_edge_index(both_directions(path(9)), 9)
    inputs, reverse = random_inputs(dag)
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in inputs]
    expanded = [x[..., :1].expand(x.shape) for x in inputs]
    assert torch.equal(stm(*strided, dag, reverse=reverse), stm(*inputs, dag, reverse=reverse))
    copies = [x.contiguous() for x in expanded]
    assert torch.equal(stm(*expanded, dag), stm(*copies, dag))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": torch.zeros(4, 2, 3)}, r"query needs the shape \[5, heads, dim\]"),
        ({"query": torch.zeros(5, 2, 0)}, "query needs"),
        ({"key": torch.zeros(5, 2, 4)}, "key needs query's shape"),
        ({"value": torch.zeros(5, 3, 3)}, "value needs"),
        ({"direct": torch.zeros(5)}, "direct needs"),
        ({"source": torch.zeros(3, 2)}, r"source needs the shape \[4, 2\]"),
        ({"transition": torch.zeros(9, 2)}, "transition needs"),
        ({"mark": torch.zeros(4, 2, dtype=torch.int64)}, "mark must be floating point"),
        ({"query": torch.zeros(5, 2, 3, device="meta")}, "is on meta"),
    ],
)
def test_bad_inputs_are_refused_in_a_sentence(changes, sentence):
    dag = LineGraphDAG.from_edge_index(both_directions(path(5)), 5)
    inputs = dict(zip(INPUTS, random_inputs(dag, dtype=torch.float32, value_dim=3)[0], strict=True))
    with pytest.raises(InputError, match=sentence):
        stm(**{**inputs, **changes}, dag=dag)


def test_unknown_names_are_refused():
    dag = LineGraphDAG.from_edge_index(both_directions(path(5)), 5)
    inputs, _ = random_inputs(dag)
    with pytest.raises(InputError, match="mode must be"):
        stm(*inputs, dag, mode="X")
    with pytest.raises(InputError, match="backend must be one of"):
        stm(*inputs, dag, backend="gpu")
