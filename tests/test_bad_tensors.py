"""Tensors that do not fit: each is refused in a sentence, or gives what its plain copy gives.

``TRUST=full`` draws twenty times as many.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_runs import FULL
from graphs import both_directions, path
from oracle import INPUTS, random_inputs

from plstm_graph import PLSTM, LineGraphDAG, PLSTMConv, stm
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import AddRandomWalkPE
from plstm_graph.errors import InputError
from plstm_graph.kernels import gating_matrix
from plstm_graph.models import GINE, CircularFingerprint, GaussianProcess

TIMES = 20 if FULL else 1

BONDS = torch.tensor([[0, 1, 2, 3, 4, 5, 1, 7], [1, 2, 3, 4, 5, 0, 6, 8]])  # a ring with a tail, a pair
DAG = LineGraphDAG.from_edge_index(both_directions(BONDS), 9)


def misshape(x, rng):
    """The same numbers, or some of them, in another shape."""
    axis = int(rng.integers(x.dim()))
    ways = [
        lambda: x.unsqueeze(axis),
        lambda: x.select(axis, 0),
        lambda: torch.cat([x, x.narrow(axis, 0, 1)], dim=axis),
        lambda: x.narrow(axis, 0, x.size(axis) - 1),
        lambda: x.narrow(axis, 0, 0),
        lambda: x.flatten(),
        lambda: x.new_zeros(()),
    ]
    return ways[rng.integers(len(ways))]()


def retype(x, rng):
    """The same numbers in a type or on a device that does not fit."""
    kinds = [torch.int64, torch.int32, torch.bool, torch.complex64]
    choice = rng.integers(len(kinds) + 1)
    return x.to("meta") if choice == len(kinds) else x.to(kinds[choice])


def disguise(x, rng):
    """The same numbers, laid out in memory in another way."""
    wide = torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)
    ways = [
        lambda: wide[..., 0],
        lambda: x.flip(0).clone().flip(0),
        lambda: x.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: torch.as_strided(x.clone(), x.shape, x.stride()),
    ]
    return ways[rng.integers(len(ways))]()


def one_sentence(message):
    return message.endswith(".") and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("backend", ["auto", "gating", "chunkwise", "reference"])
def test_the_op_refuses_what_does_not_fit(backend, record_property):
    rng = np.random.default_rng(0)
    inputs, reverse = random_inputs(DAG)
    for _ in range(150 * TIMES):
        everything = [*inputs, *reverse]
        place = int(rng.integers(len(everything)))
        before = everything[place]
        everything[place] = (misshape, retype)[rng.integers(2)](before, rng)
        if place == INPUTS.index("value") and everything[place].shape[:-1] == before.shape[:-1]:
            everything[place] = before[0]  # values may be of any width
        assert everything[place].shape != before.shape or not everything[place].is_floating_point() or (
            everything[place].device != before.device
        )  # fmt: skip
        with pytest.raises(InputError) as caught:
            stm(*everything[:7], DAG, reverse=tuple(everything[7:]), backend=backend)
        assert one_sentence(str(caught.value))
    record_property("trust", f"stm, {backend}: {150 * TIMES:,} wrong shapes, types and devices, all refused")


@pytest.mark.parametrize("name", ["direct", "source", "transition", "mark"])
def test_the_gating_matrix_refuses_what_does_not_fit(name):
    rng = np.random.default_rng(0)
    inputs, _ = random_inputs(DAG)
    gates = dict(zip(INPUTS, inputs, strict=True))
    gates = {kind: gates[kind] for kind in ("source", "transition", "mark", "direct")}
    for wrong in (misshape(gates[name], rng), retype(gates[name], rng), gates[name][:, 0]):
        with pytest.raises(InputError) as caught:
            gating_matrix(**gates | {name: wrong}, dag=DAG)
        assert one_sentence(str(caught.value))


@pytest.mark.parametrize("function", [stm, gating_matrix])
def test_reversed_gates_are_three(function):
    inputs, reverse = random_inputs(DAG)
    with pytest.raises(InputError, match="not 2 tensors"):
        function(*inputs[0 if function is stm else 3 :], DAG, reverse=reverse[:2])


@pytest.mark.parametrize("backend", ["auto", "gating", "chunkwise"])
def test_the_layout_in_memory_plays_no_part(backend, record_property):
    rng = np.random.default_rng(0)
    inputs, reverse = random_inputs(DAG)
    plain = [x.clone().requires_grad_() for x in (*inputs, *reverse)]
    wanted = stm(*plain[:7], DAG, reverse=tuple(plain[7:]), backend=backend)
    gradients = torch.autograd.grad(wanted.sum(), plain)
    for _ in range(20 * TIMES):
        given = [disguise(x.detach(), rng).requires_grad_() for x in plain]
        found = stm(*given[:7], DAG, reverse=tuple(given[7:]), backend=backend)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        # The gradient of a sum is expanded from one number.
        for a, b in zip(torch.autograd.grad(found.sum(), given), gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    expanded = [x[:1].expand_as(x) for x in inputs]
    copied = [x.contiguous() for x in expanded]
    found, wanted = (stm(*given, DAG, backend=backend) for given in (expanded, copied))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    record_property("trust", f"stm, {backend}: {20 * TIMES} layouts in memory, the same numbers")


@pytest.mark.parametrize("backend", ["auto", "gating", "chunkwise", "reference"])
def test_any_of_the_inputs_may_want_gradients(backend, record_property):
    inputs, _ = random_inputs(DAG)
    leaves = [x.clone().requires_grad_() for x in inputs]
    every = torch.autograd.grad(stm(*leaves, DAG, backend=backend).sum(), leaves)
    for wanted in itertools.product([False, True], repeat=len(INPUTS)):
        given = [x.clone().requires_grad_(on) for x, on in zip(inputs, wanted, strict=True)]
        output = stm(*given, DAG, backend=backend)
        assert output.requires_grad == any(wanted)
        if any(wanted):
            output.sum().backward()
        for x, gradient, on in zip(given, every, wanted, strict=True):
            assert (x.grad is None) == (not on)
            assert not on or torch.allclose(x.grad, gradient, rtol=1e-12, atol=1e-12)
    record_property(
        "trust", f"stm, {backend}: {2 ** len(INPUTS)} choices of inputs with gradients, all right"
    )


@pytest.mark.parametrize("backend", ["auto", "gating", "chunkwise", "reference"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_graph(backend, number):
    """The pair of atoms 7 and 8 is another graph than the ring."""
    inputs, reverse = random_inputs(DAG)
    wanted = stm(*inputs, DAG, reverse=reverse, backend=backend)
    for place in range(3):
        spoiled = [x.clone() for x in inputs]
        spoiled[place][0] = number
        found = stm(*spoiled, DAG, reverse=reverse, backend=backend)
        assert torch.equal(found[7:], wanted[7:])
        assert not found[0].isfinite().all()


def test_indices_of_any_integer_type_and_none_other(record_property):
    edge_index = both_directions(BONDS)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        dag = LineGraphDAG.from_edge_index(edge_index.to(dtype), 9)
        for name in ("src", "dst", "pred", "pred_ptr", "edge_id"):
            assert torch.equal(getattr(dag, name), getattr(DAG, name))
    rng = np.random.default_rng(0)
    for _ in range(100 * TIMES):
        spoiled = edge_index.clone()
        spot = int(rng.integers(2)), int(rng.integers(spoiled.size(1)))
        spoiled[spot] = int(rng.choice([-1, -(2**62), 9, 10**6, 2**62]))
        with pytest.raises(InputError) as caught:
            LineGraphDAG.from_edge_index(spoiled, 9)
        assert one_sentence(str(caught.value))
    for wrong in (edge_index.float(), edge_index.bool(), edge_index[0], edge_index[:, :0].T, edge_index.T):
        with pytest.raises(InputError):
            LineGraphDAG.from_edge_index(wrong, 9)
    record_property("trust", f"LineGraphDAG: {100 * TIMES:,} indices that lead nowhere, all refused")


@pytest.mark.parametrize("number", [-1, 3, 100, 2**40])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(
    "networks",
    [
        pytest.param(lambda: PLSTM(hidden_channels=16, num_layers=1, walk_length=4), id="walks"),
        pytest.param(lambda: PLSTM(hidden_channels=16, num_layers=1, roots=1), id="roots"),
        pytest.param(lambda: GINE(hidden_channels=16, num_layers=1), id="gine"),
        pytest.param(lambda: GINE(1, 16, 1, branches=[CircularFingerprint()]), id="fingerprint"),
    ],
)
def test_networks_follow_no_index_out_of_the_graph(networks, row, number):
    network, data = networks().eval(), smiles_to_data("CCO")
    narrow = data.clone()
    narrow.edge_index = data.edge_index.int()
    with torch.no_grad():
        assert torch.equal(network(narrow), network(data))
    data.edge_index[row, 0] = number
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(InputError, match=f"edge_index names node {number}"):
            network(data)
    with pytest.raises(InputError, match=f"edge_index names node {number}"):
        AddRandomWalkPE(4)(data)
    process = GINE(1, 16, 1, branches=[GaussianProcess()])
    with pytest.raises(InputError, match=f"edge_index names node {number}"):
        process.fit_branches([data], lambda _: torch.ones(1, 1), "regression")


@pytest.mark.parametrize("name", ["src", "dst", "pred", "pred_ptr", "node_ptr", "edge_ptr"])
def test_compiled_kernels_follow_no_index_out_of_the_graph(name, record_property):
    """Of a DAG that was changed in place, or put together by hand."""
    rng = np.random.default_rng(0)
    for _ in range(60 * TIMES):
        spoiled = getattr(DAG, name).clone()
        spot = int(rng.integers(len(spoiled)))
        spoiled[spot] = int(rng.choice([-1, -(2**62), int(spoiled[spot]) + 9, 10**6, 2**62]))
        dag = replace(DAG, **{name: spoiled})
        inputs, reverse = random_inputs(DAG)
        leaves = [x.requires_grad_() for x in (*inputs, *reverse)]
        with pytest.raises(InputError, match="tensors of this LineGraphDAG were changed"):
            stm(*leaves[:7], dag, reverse=tuple(leaves[7:]), backend="cpu")
    record_property("trust", f"compiled kernels: {60 * TIMES:,} changes of {name} in place, all refused")


def test_layers_refuse_what_does_not_fit(record_property):
    rng = np.random.default_rng(0)
    edge_index = both_directions(BONDS)
    conv = PLSTMConv(6, 8, heads=2, edge_dim=3, state_dim=2)
    x, edge_attr = torch.randn(9, 6), torch.randn(16, 3)
    for _ in range(150 * TIMES):
        given = {"x": x, "edge_attr": edge_attr}
        name = str(rng.choice(list(given)))
        given[name] = (misshape, retype)[rng.integers(2)](given[name], rng)
        with pytest.raises(InputError) as caught:
            conv(given["x"], edge_index, given["edge_attr"], dag=DAG)
        assert one_sentence(str(caught.value))
    record_property("trust", f"PLSTMConv: {150 * TIMES:,} wrong features, all refused")


@pytest.mark.parametrize("name", ["x", "edge_index", "edge_attr", "batch", "dag"])
@pytest.mark.parametrize("value", [np.zeros((9, 3)), [0], "none", 3])
def test_layers_refuse_what_is_no_tensor_or_dag(name, value):
    conv = PLSTMConv(6, 8, edge_dim=3)
    given = {"x": torch.zeros(9, 6), "edge_index": both_directions(BONDS), "edge_attr": torch.zeros(16, 3)}
    with pytest.raises(InputError) as caught:
        conv(**given | {name: value})
    assert one_sentence(str(caught.value))
    assert name in str(caught.value)


def test_graphs_without_rows():
    conv = PLSTMConv(6, 8, edge_dim=3)
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    out = conv(torch.zeros(0, 6, requires_grad=True), nothing, torch.zeros(0, 3))
    assert out.shape == (0, 8)
    out.sum().backward()
    assert conv(torch.zeros(3, 6), nothing, torch.zeros(0, 3)).shape == (3, 8)
    assert LineGraphDAG.from_edge_index(both_directions(path(1)), 1).num_edges == 0
