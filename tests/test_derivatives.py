"""Derivatives of every kind and order, by autograd and torch.func, in batches and compiled."""

import itertools
import os
from functools import partial

import pytest
import torch
from graphs import both_directions
from oracle import random_inputs
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp
from torch_geometric.data import Data
from torch_geometric.utils import total_influence

from plstm_graph import LineGraphDAG, PLSTMConv, stm
from plstm_graph.dag import grid_dag, sequence_dag
from plstm_graph.errors import InputError
from plstm_graph.kernels import gating_matrix
from plstm_graph.kernels.segments import segment_sum

BACKENDS = [pytest.param("reference", marks=pytest.mark.level_path), "gating", "chunkwise", "cpu"]
CASES = [("P", False, 1), ("D", True, 1), ("P", True, 2), ("D", False, 2)]  # mode, both ways, components
RING = both_directions(torch.tensor([[0, 1, 1, 2, 3], [1, 2, 3, 4, 4]]))  # of four, with a tail


class Case:
    """`stm` of one DAG as a function of its seven or ten tensors."""

    def __init__(self, mode="P", both=True, components=1, dag=None, dims=(1, 2, 1)):
        self.dag = LineGraphDAG.from_edge_index(RING, 5, rank="index") if dag is None else dag
        self.mode = mode
        inputs, reverse = random_inputs(self.dag, *dims)
        leaves = [*inputs, *reverse] if both else list(inputs)
        if components > 1:
            for i in (3, 4, 5, 7, 8, 9)[: 6 if both else 3]:
                sizes = (components, components) if i in (4, 8) else (components,)
                leaves[i] = leaves[i].view(*leaves[i].shape, *[1] * len(sizes)) * torch.rand(sizes).double()
        self.leaves = tuple(leaves)
        generator = torch.Generator().manual_seed(1)
        self.direction = tuple(
            torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in self.leaves
        )

    def run(self, backend, *leaves):
        return stm(*leaves[:7], self.dag, reverse=leaves[7:] or None, backend=backend, mode=self.mode)

    def loss(self, backend, *leaves):
        return self.run(backend, *leaves).sin().sum()

    def of_one(self, backend, number, loss=False):
        """A function of one of the tensors."""

        def call(x):
            leaves = (*self.leaves[:number], x, *self.leaves[number + 1 :])
            return (self.loss if loss else self.run)(backend, *leaves)

        return call


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def check(function, leaves):
    """First and second derivatives equal finite differences, in all modes that autograd has."""
    leaves = [x.clone().requires_grad_() for x in leaves]
    every = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, **every)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize(
    ("backend", "case"),
    [
        *(pytest.param("reference", case, marks=pytest.mark.level_path) for case in CASES),
        *itertools.product(["cpu"], CASES),
        *itertools.product(["gating", "chunkwise"], CASES[1:3]),
    ],
)
def test_first_and_second_derivatives_equal_finite_differences(backend, case):
    case = Case(*case)
    check(partial(case.run, backend), case.leaves)


@pytest.mark.parametrize("dag", [sequence_dag(4), grid_dag(2, 3)], ids=["sequence", "grid"])
def test_derivatives_on_lattices_equal_finite_differences(dag):
    case = Case(dag=dag)
    check(partial(case.run, "lattice"), case.leaves)


@pytest.mark.level_path
def test_derivatives_of_sums_of_segments_equal_finite_differences():
    for counts in ([2, 0, 3], [0], []):
        ptr = torch.tensor([0, *counts]).cumsum(0)
        check(lambda x, ptr=ptr: segment_sum(x, ptr), [torch.randn(sum(counts), 2, dtype=torch.float64)])


def forward_derivative(function, case):
    return lambda *x: jvp(function, x, case.direction)[1]


def reverse_derivative(function, case):
    """Along the same direction."""

    def derivative(*x):
        gradients = grad(function, tuple(range(len(x))))(*x)
        return sum((a * b).sum() for a, b in zip(gradients, case.direction, strict=True))

    return derivative


def twice_reverse_derivative(function, case):
    """The same without torch.func."""

    def derivative(*x):
        leaves = [y if y.requires_grad else y.clone().requires_grad_() for y in x]
        gradients = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
        return sum((a * b).sum() for a, b in zip(gradients, case.direction, strict=True))

    return derivative


def batched(function, _):
    return lambda *x: torch.vmap(function)(*(torch.stack([y, -0.5 * y]) for y in x)).sum()


def one_by_one(function, _):
    return lambda *x: function(*x) + function(*(-0.5 * y for y in x))


TRANSFORMS = {"forward": forward_derivative, "reverse": reverse_derivative, "vmap": batched}
JUDGES = {"forward": twice_reverse_derivative, "reverse": twice_reverse_derivative, "vmap": one_by_one}
NESTS = [
    *itertools.product(TRANSFORMS, repeat=1),
    *itertools.product(TRANSFORMS, repeat=2),
    ("forward", "forward", "forward"),
    ("forward", "reverse", "vmap"),
    ("reverse", "forward", "reverse"),
    ("vmap", "reverse", "forward"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("components", [1, 2])
def test_transforms_nest_in_any_order(backend, components):
    """On one DAG, with which nothing of a transform may stay when it is over."""
    case = Case(components=components)
    for names in NESTS:
        found, wanted = partial(case.loss, backend), partial(case.loss, "reference")
        for name in names:
            found, wanted = TRANSFORMS[name](found, case), JUDGES[name](wanted, case)
        assert_same(found(*case.leaves), wanted(*case.leaves).detach())


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("number", [0, 4, 6])  # query, transition, direct
def test_jacobians_and_hessians(backend, number):
    case = Case()
    x, run = case.leaves[number], case.of_one(backend, number)
    judge = case.of_one("reference", number), case.of_one("reference", number, loss=True)
    jacobian = torch.autograd.functional.jacobian
    wanted = jacobian(judge[0], x)
    for found in (
        jacrev(run)(x),
        jacfwd(run)(x),
        jacobian(run, x, vectorize=True),
        jacobian(run, x, vectorize=True, strategy="forward-mode"),
    ):
        assert_same(found, wanted)
    wanted = torch.autograd.functional.hessian(judge[1], x)
    loss = case.of_one(backend, number, loss=True)
    second = hessian(loss)(x), jacrev(jacrev(loss))(x)
    for found in (*second, torch.autograd.functional.hessian(loss, x, vectorize=True)):
        assert_same(found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [(0, 1, 2, 6), (3, 4, 5), (4,), (8,), tuple(range(10))])
def test_any_inputs_can_be_batched(backend, which):
    """Along any axis; a sample of a batch is computed as it is alone, bit for bit."""
    case = Case(dims=(2, 3, 2))
    axes = [(-1 if i % 2 else 0) if i in which else None for i in range(10)]
    batch = [
        torch.stack([x, 2 * x, x - 1], dim=axis) if axis is not None else x
        for x, axis in zip(case.leaves, axes, strict=True)
    ]
    samples = [
        [x if axis is None else x.select(axis, b) for x, axis in zip(batch, axes, strict=True)]
        for b in range(3)
    ]
    run, gradients = partial(case.run, backend), grad(partial(case.loss, backend), tuple(range(10)))
    found = torch.vmap(run, tuple(axes))(*batch)
    wanted = torch.stack([run(*x) for x in samples])
    if backend == "cpu":
        assert torch.equal(found, wanted)
    assert_same(found, wanted)
    wanted = [torch.stack(x) for x in zip(*(gradients(*x) for x in samples), strict=True)]
    for a, b in zip(torch.vmap(gradients, tuple(axes))(*batch), wanted, strict=True):
        assert_same(a, b)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are not interpreted")
def test_fused_gpu_kernels_have_them_too():
    case = Case(dag=sequence_dag(3), dims=(1, 1, 1))
    for names in (("forward",), ("vmap", "reverse")):
        found, wanted = partial(case.loss, "triton"), partial(case.loss, "reference")
        for name in names:
            found, wanted = TRANSFORMS[name](found, case), JUDGES[name](wanted, case)
        assert_same(found(*case.leaves), wanted(*case.leaves).detach())


def test_compiled_code_loses_no_tangent():
    case = Case()
    loss, judge = partial(case.loss, "auto"), partial(case.loss, "reference")
    wanted = twice_reverse_derivative(judge, case)(*case.leaves).detach()
    compiled = torch.compile(loss, backend="aot_eager")
    assert_same(jvp(compiled, case.leaves, case.direction)[1], wanted)
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, case.leaves, case.direction)
        assert_same(forward_ad.unpack_dual(compiled(*duals)).tangent, wanted)
    for transform in (forward_derivative, reverse_derivative):
        assert_same(torch.compile(transform(loss, case), backend="aot_eager")(*case.leaves), wanted)
    both = torch.compile(batched(reverse_derivative(loss, case), case), backend="aot_eager")
    assert_same(both(*case.leaves), batched(reverse_derivative(judge, case), case)(*case.leaves))


@pytest.mark.parametrize("backend", ["auto", "reference", "chunkwise"])
@pytest.mark.parametrize(("mode", "state_dim"), [("P", 1), ("D", 1), ("PD", 1), ("P", 2)])
def test_a_layer_has_them_by_inputs_and_by_parameters(backend, mode, state_dim):
    torch.manual_seed(0)
    conv = PLSTMConv(2, 4, heads=2, mode=mode, state_dim=state_dim, backend=backend).double()
    dag = LineGraphDAG.from_edge_index(RING, 5)
    x, direction = torch.randn(2, 5, 2, dtype=torch.float64)

    def run(x):
        return conv(x, RING, dag=dag)

    def loss(x):
        return run(x).sin().sum()

    step = 1e-5 * direction
    slope = (run(x + step) - run(x - step)).detach() / 2e-5
    torch.testing.assert_close(jvp(run, (x,), (direction,))[1], slope, rtol=1e-6, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian
    for found in (jacrev(run)(x), jacfwd(run)(x), jacobian(run, x, vectorize=True)):
        assert_same(found, jacobian(run, x))
    slope = (grad(loss)(x + step) - grad(loss)(x - step)) / 2e-5
    torch.testing.assert_close(
        (hessian(loss)(x) * direction).sum((2, 3)).detach(), slope, rtol=1e-6, atol=1e-7
    )

    def of_parameters(parameters, x):
        return functional_call(conv, parameters, (x, RING), {"dag": dag}).sin().sum()

    parameters = {name: p.detach() for name, p in conv.named_parameters()}
    samples = torch.stack([x, direction])
    together = torch.vmap(grad(of_parameters), (None, 0))(parameters, samples)
    for b, sample in enumerate(samples):
        gradients = torch.autograd.grad(loss(sample), list(conv.parameters()))
        for name, gradient in zip(parameters, gradients, strict=True):
            assert_same(together[name][b], gradient)


def test_influence_of_nodes_on_nodes():
    """PyG's, which takes jacobian(vectorize=True) of a layer that builds its DAG itself."""
    torch.manual_seed(0)
    conv, data = PLSTMConv(3, 4), Data(x=torch.randn(5, 3), edge_index=RING)
    (fast, reach), (slow, wanted) = (
        total_influence(conv, data, max_hops=2, num_samples=5, vectorize=vectorize)
        for vectorize in (True, False)
    )
    torch.testing.assert_close(fast, slow)
    assert reach == pytest.approx(wanted)
    assert fast[0] == 1
    assert (fast > 0).all()


def test_gating_matrices_are_made_sample_by_sample():
    dag = sequence_dag(4)
    inputs, _ = random_inputs(dag)
    source, transition, mark, direct = inputs[3:]
    with pytest.raises(InputError, match="sample by sample"):
        torch.func.vmap(lambda x: gating_matrix(source, transition, mark, x, dag))(torch.stack([direct] * 2))
