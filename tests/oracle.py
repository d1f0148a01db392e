"""The op's inputs and the two things it is held against: the authors' numbers and the oracle."""

from pathlib import Path

import numpy as np
import torch
from graphs import random_gates

from plstm_graph import LineGraphDAG, stm
from plstm_graph.testing import TOLERANCES

INPUTS = ["query", "key", "value", "source", "transition", "mark", "direct"]
GOLDEN = np.load(Path(__file__).parent / "data" / "stm_golden.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def random_inputs(dag, heads=2, key_dim=3, value_dim=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator)

    nodes = normal(dag.num_nodes, heads, key_dim), normal(dag.num_nodes, heads, key_dim)
    nodes += (normal(dag.num_nodes, heads, value_dim),)
    gates, reverse = (random_gates(dag, heads, dtype, generator) for _ in range(2))
    return (*nodes, *gates, normal(dag.num_nodes, heads)), reverse


def output_and_gradients(inputs, reverse, dag, **kwargs):
    """Output, and the gradients of all inputs for one fixed weighting of it."""
    leaves = [x.clone().requires_grad_() for x in (*inputs, *(reverse or ()))]
    output = stm(*leaves[:7], dag, reverse=tuple(leaves[7:]) or None, **kwargs)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output.detach(), torch.autograd.grad((output * weight).sum(), leaves, materialize_grads=True)


def assert_agrees(inputs, reverse, dag, backend, dtype=torch.float64, mode="P"):
    wanted = output_and_gradients(inputs, reverse, dag, backend="reference", mode=mode)
    cast = [x.to(dtype) for x in inputs], reverse and [x.to(dtype) for x in reverse]
    found = output_and_gradients(*cast, dag, backend=backend, mode=mode)
    scale = largest_number(wanted)  # errors count against the largest number involved
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(a.double() / scale, b / scale, **tolerance)


def largest_number(result):
    return max([1.0, *(float(x.abs().max()) for x in (result[0], *result[1]) if x.numel())])


def assert_gives_the_authors_numbers(case, backend):
    """Output and gradients of one golden case, float64."""

    def load(name):
        return torch.from_numpy(GOLDEN[f"{case}/{name}"])

    dag = LineGraphDAG.from_lines(int(load("num_nodes")), load("edges").long(), load("lines").long())
    leaves = {name: load(f"input/{name}").requires_grad_() for name in INPUTS}
    order = {"source": dag.edge_id, "mark": dag.edge_id, "transition": dag.line_id}
    ordered = [leaves[name][order[name]] if name in order else leaves[name] for name in INPUTS]
    output = stm(*ordered, dag, backend=backend)
    loss = (output * load("output_weight")).sum()
    gradients = torch.autograd.grad(loss, leaves.values(), materialize_grads=True)
    torch.testing.assert_close(output, load("output"), rtol=0, atol=1e-10)
    for name, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(gradient, load(f"gradient/{name}"), rtol=0, atol=1e-10)
