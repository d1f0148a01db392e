"""Signals and gradients over a hundred thousand edges, in float32, where nothing is damped."""

import pytest
import torch

from plstm_graph import LineGraphDAG, stm
from plstm_graph.dag import sequence_dag

DEPTH = 100_000


def scan(dag, transition, source, mark, *, heads=1, mode="P", backend="auto"):
    """What arrives at every node of values at node 0 and elsewhere, and the gradients of the inputs."""
    torch.manual_seed(0)
    ones = torch.ones(dag.num_nodes, heads, 1)
    value = torch.randn(dag.num_nodes, heads, 1, requires_grad=True)
    leaves = [x.clone().requires_grad_() for x in (source, transition, mark)]
    direct = torch.zeros(dag.num_nodes, heads)
    output = stm(ones, ones, value, *leaves, direct, dag, mode=mode, backend=backend)
    return output, value, leaves


@pytest.mark.parametrize("backend", ["cpu", "lattice", "chunkwise"])
@pytest.mark.parametrize("mode", ["P", "D"])
def test_a_sequence_carries_gradients_from_end_to_end(mode, backend):
    dag = sequence_dag(DEPTH + 1)
    gates = torch.ones(dag.num_lines, 1), torch.ones(dag.num_edges, 1), torch.ones(dag.num_edges, 1)
    output, value, leaves = scan(dag, *gates, mode=mode, backend=backend)
    found = torch.autograd.grad(output[-1].sum(), [value, *leaves])
    assert torch.equal(found[0][:-1], torch.ones(DEPTH, 1, 1))  # undiminished, from every node before
    assert all(gradient.isfinite().all() for gradient in found)
    sums = value.detach().double().cumsum(0)[:-1]
    torch.testing.assert_close(output[1:].double(), sums, rtol=0, atol=1e-5 * float(sums.abs().max()) + 1e-2)


@pytest.mark.parametrize("backend", ["cpu", "chunkwise"])
def test_a_random_dag_shares_out_all_that_was_put_in(backend):
    generator = torch.Generator().manual_seed(0)
    nodes = torch.arange(DEPTH)
    skips = torch.randint(0, DEPTH - 3, (30_000,), generator=generator).unique()
    ends = skips + torch.randint(2, 4, (len(skips),), generator=generator)
    edges = torch.cat([torch.stack([nodes, nodes + 1]), torch.stack([skips, ends])], dim=1)
    dag = LineGraphDAG.from_edge_index(edges, DEPTH + 1)
    assert dag.num_levels == DEPTH
    share = torch.rand(dag.num_lines, 1, generator=generator) + 0.1
    total = torch.zeros(dag.num_edges, 1).index_add(0, dag.pred, share)
    gates = share / total[dag.pred], torch.ones(dag.num_edges, 1), torch.ones(dag.num_edges, 1)
    output, value, leaves = scan(dag, *gates, backend=backend)
    assert output.isfinite().all()
    found = torch.autograd.grad(output[-1].sum(), [value, *leaves])  # the one node that no edge leaves
    assert all(gradient.isfinite().all() for gradient in found)
    leaving = torch.bincount(dag.src, minlength=DEPTH + 1)
    torch.testing.assert_close(found[0].flatten(), leaving.float(), rtol=1e-3, atol=0)


def test_rotations_keep_the_length_of_a_state():
    """Of a state of two components, which every line turns by an angle of its own; one head reads each."""
    dag = sequence_dag(DEPTH + 1)
    angle = torch.rand(dag.num_lines, generator=torch.Generator().manual_seed(0)) * 6.3
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 1, 2, 2)
    first = torch.zeros(dag.num_edges, 2, 2)
    first[..., 0] = 1
    component = torch.eye(2).expand(dag.num_edges, 2, 2)
    output, value, leaves = scan(dag, turn.expand(-1, 2, -1, -1), first, component, heads=2)
    found = torch.autograd.grad(output[-1].square().sum(), [value, *leaves])
    assert all(gradient.isfinite().all() for gradient in found)
    # d output[-1] / d value[n] is column 0 of a rotation, component by component.
    jacobian = found[0][:-1, :, 0] / (2 * output[-1, :, 0].detach())
    torch.testing.assert_close(jacobian.square().sum(1), torch.ones(DEPTH), rtol=0, atol=0.05)
