"""The Triton kernels in the interpreter: against the authors' numbers, the oracle, and their own promises."""

import json
import logging
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from graphs import MOLECULES, bond_lists, both_directions, gates_of_layer, path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import CASES, assert_agrees, assert_gives_the_authors_numbers, output_and_gradients, random_inputs
from torch_geometric.data import Batch

from plstm_graph import LineGraphDAG, PLSTMConv, stm
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import Lattice, ToLineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.kernels import cost
from plstm_graph.kernels.cost import (
    GatingTile,
    StateTile,
    choose_backend,
    gating_tile,
    prefers_walk,
    state_tile,
)
from plstm_graph.models import PLSTM

pytest.importorskip("triton")
from plstm_graph.kernels.triton import gating, state
from plstm_graph.kernels.triton.plan import plan_of


@pytest.fixture(autouse=True)
def poisoned_memory():
    """``torch.empty`` gives NaN, so that reading what nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def put_blocks_in(form, monkeypatch):
    """All blocks in gating form, or in state form: by level, or walked."""
    monkeypatch.setattr(cost, "_LARGEST_GATING_BLOCK", 128 if form == "gating" else 0)
    monkeypatch.setattr(cost, "_EDGES_PER_LAUNCH", 10**9 if form == "walk" else 0)


@pytest.fixture(params=["gating", "level", "walk"])
def form(request, monkeypatch):
    put_blocks_in(request.param, monkeypatch)
    return request.param


@pytest.fixture(params=["level", "walk"])
def state_form(request, monkeypatch):
    put_blocks_in(request.param, monkeypatch)
    return request.param


def batch_of(*edge_indices, nodes):
    """The DAG of several graphs with ``nodes`` nodes each."""
    columns, total = [], 0
    for edge_index, count in zip(edge_indices, nodes, strict=True):
        columns.append(edge_index + total)
        total += count
    return LineGraphDAG.from_edge_index(torch.cat(columns, dim=1), total, rank="bfs")


def star(n):
    """Edges from one node to the n - 1 others."""
    return torch.stack([torch.zeros(n - 1, dtype=torch.int64), torch.arange(1, n)])


def ring_with_tails():
    bonds = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 6, 0], [1, 2, 3, 4, 5, 0, 6, 7, 3]])
    return LineGraphDAG.from_edge_index(both_directions(bonds), 9, rank="index")


@pytest.mark.parametrize("case", CASES)
def test_the_authors_numbers(case, form):
    assert_gives_the_authors_numbers(case, "triton")


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bond_lists(max_nodes=8),
    st.sampled_from(["P", "D"]),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32]),
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)),
)
def test_agrees_with_the_oracle(form, graph, mode, both, dtype, dims):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    inputs, reverse = random_inputs(dag, *dims)
    assert_agrees(inputs, reverse if both else None, dag, "triton", dtype, mode)


@pytest.mark.parametrize("mode", ["P", "D"])
def test_molecules_of_all_sizes(mode, form):
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in MOLECULES])
    dag = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes)
    inputs, reverse = random_inputs(dag, 1, 4, 4)
    assert_agrees(inputs, reverse, dag, "triton", torch.float32, mode)


@pytest.mark.parametrize("border", [16, 32, 64])
def test_blocks_at_and_above_the_borders_of_the_tiles(border):
    sizes = [border - 1, border, border + 1]
    dag = batch_of(*(both_directions(path(n)) for n in sizes), nodes=sizes)
    inputs, reverse = random_inputs(dag, 1, 2, 3)
    tiles = [bucket.tile.nodes for bucket in plan_of(dag, 2, 3).buckets]
    assert tiles == [border, 2 * border]
    assert_agrees(inputs, reverse, dag, "triton")


def test_one_batch_with_blocks_in_all_forms(monkeypatch):
    monkeypatch.setattr(cost, "_LARGEST_GATING_BLOCK", 16)
    monkeypatch.setattr(cost, "_EDGES_PER_LAUNCH", 4)
    graphs = [path(16), path(17), star(18), path(3), star(19), path(21)]
    sizes = [int(graph.max()) + 1 for graph in graphs]
    dag = batch_of(*map(both_directions, graphs), nodes=sizes)
    states = plan_of(dag, 2, 3).states
    assert sorted(states.nodes.tolist()) == [*range(16, 51), *range(54, 94)]
    assert states.walks.blocks == 2  # the longer path first
    assert states.walks.table[:2, 0].tolist() == [[0, 20], [20, 36]]
    assert len(states.level_ptr) - 1 == 2  # a leaf, the centre, the other leaves
    inputs, reverse = random_inputs(dag, 1, 2, 3)
    assert_agrees(inputs, reverse, dag, "triton")


def test_the_largest_block_in_gating_form_beside_the_smallest_in_state_form():
    dag = batch_of(star(128), star(129), nodes=[128, 129])
    plan = plan_of(dag, 1, 1)
    assert [(bucket.tile.nodes, bucket.blocks.tolist()) for bucket in plan.buckets] == [(128, [0])]
    assert plan.states.nodes.tolist() == list(range(128, 257))
    inputs, reverse = random_inputs(dag, 1, 1, 1)
    assert_agrees(inputs, reverse, dag, "triton")


@pytest.mark.parametrize("dims", [(3, 7, 13), (1, 40, 3), (2, 1, 1), (1, 3, 70), (1, 130, 2)])
def test_odd_widths(dims, form):
    dag = ring_with_tails()
    inputs, reverse = random_inputs(dag, *dims)
    assert_agrees(inputs, reverse, dag, "triton")


def test_values_wider_than_a_tile(state_form, monkeypatch):
    monkeypatch.setattr(cost, "_LARGEST_STATE_TILE", 16)
    assert state_tile(4, 9) == StateTile(key=4, value=4, warps=1)
    dag = ring_with_tails()
    inputs, reverse = random_inputs(dag, 2, 4, 9)
    assert_agrees(inputs, reverse, dag, "triton")


def test_channels_wider_than_a_tile(monkeypatch):
    monkeypatch.setattr(cost, "_LARGEST_GATING_TILE", 64)
    assert gating_tile(9, 9, 6) == GatingTile(nodes=16, channels=4, warps=1)
    dag = ring_with_tails()
    inputs, reverse = random_inputs(dag, 2, 9, 6)
    assert_agrees(inputs, reverse, dag, "triton")


@pytest.mark.parametrize("num_nodes", [0, 1, 4])
def test_without_bonds_only_the_direct_term_is_left(num_nodes, form):
    dag = LineGraphDAG.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), num_nodes)
    inputs, reverse = random_inputs(dag)
    query, key, value, *_, direct = inputs
    output, gradients = output_and_gradients(inputs, reverse, dag, backend="triton")
    torch.testing.assert_close(output, (direct * (query * key).sum(-1)).unsqueeze(-1) * value)
    assert all(g.shape == x.shape for g, x in zip(gradients, (*inputs, *reverse), strict=True))


def test_two_runs_are_bitwise_the_same_and_a_graph_alone_as_in_a_batch(form):
    dag = batch_of(both_directions(path(5)), both_directions(path(9)), nodes=[6, 9])
    alone = LineGraphDAG.from_edge_index(both_directions(path(5)), 6, rank="bfs")
    inputs, reverse = random_inputs(dag, 2, 3, 5, torch.float32)
    first, second = (output_and_gradients(inputs, reverse, dag, backend="triton") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    rows = [6, 6, 6, alone.num_edges, alone.num_lines, alone.num_edges, 6]
    own = [x[:n] for x, n in zip(inputs, rows, strict=True)]
    turned = tuple(x[:n] for x, n in zip(reverse, rows[3:6], strict=True))
    assert torch.equal(stm(*own, alone, reverse=turned, backend="triton"), first[0][:6])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype, form):
    inputs, reverse = random_inputs(ring_with_tails(), 2, 5, 6)
    assert_agrees(inputs, reverse, ring_with_tails(), "triton", dtype)
    # 300 edges bring one node a one each; sums in bfloat16 would stop at 256.
    dag = LineGraphDAG.from_lines(
        301, torch.stack([torch.arange(300), torch.full((300,), 300)]), torch.zeros(2, 0).long()
    )
    ones = torch.ones(301, 1, 1, dtype=dtype)
    gate = torch.ones(300, 1, dtype=dtype)
    output = stm(
        ones, ones, ones, gate, gate[:0], gate, torch.zeros(301, 1, dtype=dtype), dag, backend="triton"
    )
    assert output.dtype == dtype
    torch.testing.assert_close(output[300].float(), torch.full((1, 1), 300.0), rtol=4e-3, atol=0)


def test_under_autocast_the_layer_stays_close_to_single_precision(form):
    torch.manual_seed(0)
    conv = PLSTMConv(8, 8, heads=2, backend="triton")
    data = smiles_to_data("CC(=O)Oc1ccccc1C(=O)O")
    x = torch.randn(data.num_nodes, 8)
    wanted = conv(x, data.edge_index)
    dag = LineGraphDAG.from_edge_index(data.edge_index, data.num_nodes)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x, data.edge_index)
        gates = gates_of_layer(conv, x, None, dag)
    assert found.dtype == torch.bfloat16
    assert {gate.dtype for gate in (*gates[0], *gates[1])} == {torch.float32}
    torch.testing.assert_close(found.float(), wanted, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("both", [True, False])
def test_registration_passes_opcheck(both, form):
    torch.use_deterministic_algorithms(False)  # opcheck compares memory that nobody reads
    dag = ring_with_tails()
    inputs, reverse = random_inputs(dag, 1, 2, 2)
    ways = [inputs[3:6], reverse] if both else [inputs[3:6]]
    gates = [torch.stack(gate) for gate in zip(*ways, strict=True)]
    leaves = [x.requires_grad_() for x in (*inputs[:3], inputs[6], *gates)]
    structure = (dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.succ, dag.level, dag.node_ptr, dag.edge_ptr)
    torch.library.opcheck(torch.ops.plstm_graph.stm.default, (*leaves, *structure, "triton"))


def test_a_prepared_network_compiles_without_a_break():
    torch.use_deterministic_algorithms(False)  # the compiler wants kernels of its own for that
    torch.manual_seed(0)
    model = PLSTM(hidden_channels=16, num_layers=2)
    for module in model.modules():
        if isinstance(module, PLSTMConv):
            module.backend = "triton"
    batch = Batch.from_data_list([ToLineGraphDAG()(smiles_to_data(smiles)) for smiles in MOLECULES[:4]])
    wanted = model(batch)
    wanted.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(batch)
    found.sum().backward()
    torch.testing.assert_close(found, wanted)
    again = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(again, gradients, strict=True):
        torch.testing.assert_close(a, b)


class CountedKernel:
    """Counts the launches of a kernel."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


def count_launches(monkeypatch):
    """The kernels by name, counted from now on."""
    kernels = {}
    for module, names in (
        (gating, ("forward_kernel", "backward_kernel")),
        (state, ("level_kernel", "walk_kernel", "walk_back_kernel", "arrive_kernel")),
    ):
        for name in names:
            kernels[name] = CountedKernel(getattr(module, name))
            monkeypatch.setattr(module, name, kernels[name])
    return kernels


def test_one_launch_a_bucket_and_one_a_level(monkeypatch):
    monkeypatch.setattr(cost, "_LARGEST_GATING_BLOCK", 32)
    monkeypatch.setattr(cost, "_EDGES_PER_LAUNCH", 0)
    sizes = [5, 20, 40, 7, 34]
    dag = batch_of(*(both_directions(path(n)) for n in sizes), nodes=sizes)
    kernels = count_launches(monkeypatch)
    inputs, reverse = random_inputs(dag, 1, 1, 1)
    output = stm(*(x.requires_grad_() for x in inputs), dag, reverse=reverse, backend="triton")
    depth = 39 - 1  # lines of the longest path by level, whose first edge has level 0
    assert dag.num_levels == depth + 1
    assert [kernel.launches for kernel in kernels.values()] == [2, 0, dag.num_levels, 0, 0, 1]
    output.sum().backward()
    assert [kernel.launches for kernel in kernels.values()] == [2, 2, 4 * dag.num_levels, 0, 0, 4]


@pytest.mark.parametrize("length", [200, 2000])
def test_a_long_graph_takes_seven_launches_whatever_its_length(length, monkeypatch):
    edges = path(length)
    branches = torch.stack([edges[0], torch.arange(length, 2 * length - 1)])  # a leaf at every node
    dag = batch_of(torch.cat([edges, branches], dim=1), nodes=[2 * length - 1])
    assert dag.num_levels == length - 1
    kernels = count_launches(monkeypatch)
    for kernel in kernels.values():
        monkeypatch.setattr(kernel, "kernel", NothingToDo())
    inputs, reverse = random_inputs(dag, 4, 16, 16)
    stm(*(x.requires_grad_() for x in inputs), dag, reverse=reverse, backend="triton").sum().backward()
    assert {name: kernel.launches for name, kernel in kernels.items() if kernel.launches} == {
        "walk_kernel": 2,
        "walk_back_kernel": 1,
        "arrive_kernel": 4,
    }


class NothingToDo:
    """A kernel that does nothing: the interpreter takes long for many nodes."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bond_lists())
def test_no_state_loses_its_slot_while_it_is_to_be_read(state_form, graph):
    num_nodes, bonds = graph
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    plan = plan_of(dag, 1, 1)
    links, states = plan.links, plan.states
    order, blocks = states.order.numpy(), dag.edge_ptr.diff().numpy()
    assert sorted(order.tolist()) == list(range(dag.num_edges))
    assert np.array_equal(states.place[order].numpy(), np.arange(dag.num_edges))
    # Edges of a step run at the same time, and so do groups.
    if state_form == "walk":
        block = np.repeat(np.arange(len(blocks)), blocks)[order]
        groups, step_of = [np.flatnonzero(block == b) for b in range(len(blocks))], np.arange(dag.num_edges)
    else:
        ptr = np.array(states.level_ptr)
        step_of = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
        assert np.array_equal(step_of, dag.level[order].numpy())
        groups = [np.arange(dag.num_edges)]
    used = set()
    for row in (0, 1):
        slot = states.slot[row].numpy()
        gather_ptr, gathered = links.gather_ptr[row].numpy(), links.gather_edge[row].numpy()
        for places in groups:
            holder = {}
            for now in sorted(set(step_of[places].tolist()), reverse=row == 1):
                edges = order[places[step_of[places] == now]]
                reads = {x for e in edges for x in gathered[gather_ptr[e] : gather_ptr[e + 1]]}
                assert all(holder[slot[x]] == x for x in reads)
                # None writes where another of the step reads, or writes too.
                written = [slot[e] for e in edges if slot[e] >= 0]
                assert len(set(written)) == len(written)
                assert not set(written) & {slot[x] for x in reads}
                holder |= {slot[e]: e for e in edges if slot[e] >= 0}
            assert not used & set(holder)  # neither directions nor groups share a slot
            used |= set(holder)
    assert used == set(range(states.slots))


def test_a_path_of_any_length_holds_two_states_of_each_direction(state_form):
    dag = LineGraphDAG.from_edge_index(path(200), 200)
    assert plan_of(dag, 1, 1).states.slots == 4


def test_a_walk_goes_deep_and_few_states_wait(monkeypatch):
    """On a binary tree of 10 levels, at most two edges of each wait for their successors."""
    put_blocks_in("walk", monkeypatch)
    children = torch.arange(1, 1023)
    dag = LineGraphDAG.from_edge_index(torch.stack([(children - 1) // 2, children]), 1023)
    states = plan_of(dag, 1, 1).states
    order = states.order.tolist()
    continued = {(int(a), int(b)) for a, b in zip(dag.pred, dag.succ, strict=True)}
    assert sum(pair in continued for pair in pairwise(order)) == 510  # every edge but those to leaves
    assert states.walks.table[3, :, 0].max() <= 2 * 10


def states_allocated(dag, monkeypatch):
    """How many states each of the op's memories holds, in order."""
    counts = []
    allocate = state._Launcher.states
    monkeypatch.setattr(state._Launcher, "states", lambda self, n: counts.append(n) or allocate(self, n))
    inputs, _ = random_inputs(dag, 1, 1, 1)
    output_and_gradients(inputs, None, dag, backend="triton")
    return counts


def test_the_backward_pass_keeps_states_of_about_the_square_root_of_the_depth(state_form, monkeypatch):
    dag = LineGraphDAG.from_edge_index(path(101), 101)
    slots = plan_of(dag, 1, 1).states.slots
    counts = states_allocated(dag, monkeypatch)
    if state_form == "walk":  # seven segments of 15 edges: two states where each begins, and one segment's
        assert counts == [slots, slots, 2 * 7 + 15]
    else:  # forward, adjoint, nothing for walks, a segment of ten levels both ways
        assert counts == [slots, slots, 0, slots + 2 * 10]


def test_long_blocks_are_walked_and_wide_ones_go_by_level():
    assert prefers_walk(99_999, 99_999)  # a sequence
    assert prefers_walk(430, 57)  # a peptide
    assert not prefers_walk(20_000, 199)  # a grid of 100 by 100
    assert not prefers_walk(100_000, 17)  # a binary tree


def test_tiles_at_their_borders():
    assert gating_tile(1, 24, 24) == GatingTile(nodes=16, channels=32, warps=1)
    assert gating_tile(16, 24, 24) == GatingTile(nodes=16, channels=32, warps=1)
    assert gating_tile(17, 24, 24) == GatingTile(nodes=32, channels=32, warps=2)
    assert gating_tile(128, 24, 24) == GatingTile(nodes=128, channels=16, warps=4)
    assert gating_tile(129, 24, 24) is None
    assert gating_tile(16, 300, 8) == GatingTile(nodes=16, channels=128, warps=4)
    assert state_tile(32, 32) == StateTile(key=32, value=32, warps=4)
    assert state_tile(64, 65) == StateTile(key=64, value=32, warps=8)
    assert state_tile(256, 256) == StateTile(key=256, value=8, warps=8)


def on_gpu(largest_block=100, num_levels=10, lattice=None):
    """What the choice of a backend looks at, without a GPU."""
    sizes = {"largest_block": largest_block, "num_edges": 128 * 50, "num_levels": num_levels}
    return SimpleNamespace(device=torch.device("cuda"), lattice=lattice, **sizes)


def test_auto_takes_triton_on_a_gpu_and_falls_back_with_one_line(caplog, monkeypatch):
    cost._log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING, logger="plstm_graph.kernels.cost"):
        assert choose_backend(on_gpu(), 256) == "triton"
        assert not caplog.records
        assert choose_backend(on_gpu(), 257) == "gating"
        assert choose_backend(on_gpu(), 257) == "gating"
        assert choose_backend(on_gpu(513), 257) == "reference"
        assert choose_backend(on_gpu(513, num_levels=51), 257) == "chunkwise"
        assert choose_backend(on_gpu(lattice=Lattice(2, 9, 9)), 257) == "lattice"
        monkeypatch.setattr(cost, "_TRITON_INSTALLED", False)
        assert choose_backend(on_gpu(512), 32) == "gating"
    too_wide = (
        "takes at most 256 key channels a head, not 257; use more heads, or backend 'gating', 'chunkwise' or "
        "'reference'"
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"backend 'gating' runs in place of 'triton', which {too_wide}.",
        f"backend 'reference' runs in place of 'triton', which {too_wide}.",
        f"backend 'chunkwise' runs in place of 'triton', which {too_wide}.",
        f"backend 'lattice' runs in place of 'triton', which {too_wide}.",
        "backend 'gating' runs in place of 'triton', which needs the package triton; install it, or use "
        "backend 'auto'.",
    ]


def test_what_triton_cannot_run_is_refused_in_a_sentence(monkeypatch):
    dag = ring_with_tails()
    wide, _ = random_inputs(dag, 1, 257, 1)
    with pytest.raises(InputError, match="at most 256 key channels a head, not 257; use more heads, or"):
        stm(*wide, dag, backend="triton")
    inputs, _ = random_inputs(dag)
    monkeypatch.setattr(cost, "_TRITON_INTERPRETED", False)
    with pytest.raises(InputError, match="needs tensors on a GPU, not on cpu; use backend 'auto'"):
        stm(*inputs, dag, backend="triton")
    monkeypatch.setattr(cost, "_TRITON_INSTALLED", False)
    with pytest.raises(InputError, match="needs the package triton; install it, or use backend 'auto'"):
        stm(*inputs, dag, backend="triton")


@pytest.mark.parametrize(
    "target", ["90", pytest.param("80", marks=pytest.mark.slow), pytest.param("100", marks=pytest.mark.slow)]
)
def test_every_kernel_compiles_for_real_targets_without_spills_and_atomics(target, tmp_path):
    root = Path(__file__).parent.parent
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    table = tmp_path / "kernels.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.gpu_kernels",
        "--targets",
        target,
        "--json",
        str(table),
    ]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    kernels = json.loads(table.read_text())["kernels"]
    assert {row["target"] for row in kernels} == {f"sm_{target}"}
    assert {row["dtype"] for row in kernels} == {"fp32", "fp16", "bf16"}
    assert all(row["spilled_bytes"] == row["atomics"] == 0 for row in kernels)
    assert max(row["seconds"] for row in kernels) < 60
