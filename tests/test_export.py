"""torch.compile and torch.export of the layer, and the tracers that are refused."""

import io
from pathlib import Path

import pytest
import torch
from graphs import both_directions, path
from torch.fx.experimental.proxy_tensor import make_fx
from torch_geometric.nn import global_add_pool
from unwritable import run

import plstm_graph
from plstm_graph import PLSTMConv
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import build_dag
from plstm_graph.errors import InputError
from plstm_graph.models import GINE

ROOT = Path(plstm_graph.__file__).resolve().parent.parent


class Network(torch.nn.Module):
    """Two layers, in a network of somebody else."""

    def __init__(self, **arguments):
        super().__init__()
        self.first = PLSTMConv(9, 8, edge_dim=3, **arguments)
        self.second = PLSTMConv(8, 4, mode="D", **arguments)

    def forward(self, x, edge_index, edge_attr, dag=None):
        x = self.first(x, edge_index, edge_attr, dag=dag).relu()
        return global_add_pool(self.second(x, edge_index, dag=dag), None)


def inputs(smiles):
    data = smiles_to_data(smiles)
    return data.x.float(), data.edge_index, data.edge_attr.float()


def test_compiled_networks_take_graphs_that_they_have_not_seen():
    torch.manual_seed(0)
    network = Network()
    compiled = torch.compile(network, backend="aot_eager")
    for smiles in ("CCO", "c1ccccc1O", "CC(=O)NC1=CC=C(O)C=C1"):
        torch.testing.assert_close(compiled(*inputs(smiles)), network(*inputs(smiles)))


FRESH = """
import torch
from plstm_graph import PLSTM
from plstm_graph.chem import smiles_to_data
compiled = torch.compile(PLSTM(hidden_channels=16, num_layers=1, **{arguments}).eval(), backend="eager")
with torch.no_grad():
    found = compiled(smiles_to_data("CCO"))
    print((found - compiled._orig_mod(smiles_to_data("CCO"))).abs().max().item() < 1e-6)
"""


@pytest.mark.parametrize("arguments", [{}, {"roots": 2}])
def test_networks_may_be_compiled_before_anything_else_has_run(arguments):
    """In a process in which none of Numba's functions was called before."""
    lines, complaint = run(FRESH.format(arguments=arguments), ROOT, [])
    assert lines == ["True"], complaint


def test_sizes_may_be_symbols():
    conv = PLSTMConv(9, 8, edge_dim=3)
    compiled = torch.compile(conv, dynamic=True, fullgraph=True, backend="eager")
    for smiles in ("CCO", "c1ccccc1O"):
        dag = build_dag(smiles_to_data(smiles))
        torch.testing.assert_close(compiled(*inputs(smiles), dag=dag), conv(*inputs(smiles), dag=dag))


def check_traced(call, x):
    """A graph of ops that was made of other numbers gives what the call gives."""
    with torch.no_grad():
        traced = make_fx(call)(torch.zeros_like(x))
        torch.testing.assert_close(traced(x), call(x))


@pytest.mark.parametrize("backend", ["auto", "reference", "gating"])
def test_tracers_of_ops_see_all_of_a_layer(backend):
    x, edge_index, edge_attr = inputs("CC(=O)Nc1ccc(O)cc1")
    dag, network = build_dag(smiles_to_data("CC(=O)Nc1ccc(O)cc1")), Network(backend=backend)
    check_traced(lambda x: network(x, edge_index, edge_attr, dag), x)


def test_tracers_of_ops_see_all_of_gine():
    network = GINE(1, 16, 1).eval()
    graphs = network.graphs(smiles_to_data("CC(=O)Nc1ccc(O)cc1"))._replace(edge_attr=torch.randn(22, 16))
    check_traced(lambda x: network.blocks[0](graphs._replace(x=x)), torch.randn(11, 16))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"state_dim": 2, "bidirectional": False}])
def test_exported_programs_give_the_same_numbers(strict, arguments):
    torch.manual_seed(0)
    network = Network(**arguments).eval()
    example = (*inputs("CC(=O)Nc1ccc(O)cc1"), build_dag(smiles_to_data("CC(=O)Nc1ccc(O)cc1")))
    program = torch.export.export(network, example, strict=strict)
    torch.testing.assert_close(program.module()(*example), network(*example))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(*example), network(*example))
    x, edge_index, edge_attr, dag = example
    with pytest.raises(RuntimeError, match="does not fit edge_index"):
        program.module()(x, edge_index.roll(2, 1), edge_attr, dag)


def test_a_compiled_network_refuses_a_dag_that_does_not_fit():
    x, edge_index, edge_attr = inputs("CCO")
    dag = build_dag(smiles_to_data("CCO"))
    compiled = torch.compile(Network(), backend="aot_eager", fullgraph=True)
    assert compiled(x, edge_index, edge_attr, dag).isfinite().all()
    with pytest.raises(RuntimeError, match="does not fit edge_index"):
        compiled(x, edge_index.flip(1), edge_attr, dag)


def test_what_cannot_be_traced_is_refused_in_a_sentence():
    network, example = Network(), inputs("CCO")
    for script in (lambda: torch.jit.script(network), lambda: torch.jit.script(network.first)):
        with pytest.raises(InputError, match=r"use torch\.export or torch\.compile"):
            script()
    with pytest.raises(InputError, match=r"use torch\.export or torch\.compile"):
        torch.jit.trace(network, example)
    with pytest.raises(InputError, match=r"use torch\.export or torch\.compile"):
        torch.onnx.export(network, example, io.BytesIO(), dynamo=False)
    with pytest.raises(InputError, match="pass dag="):
        torch.export.export(network, example)


def test_plain_calls_under_functional_transforms():
    torch.manual_seed(0)
    conv, edge_index = PLSTMConv(5, 3).double(), both_directions(path(6))
    x = torch.randn(6, 5, dtype=torch.float64)
    wanted = torch.autograd.functional.jacobian(lambda x: conv(x, edge_index), x)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(lambda x: conv(x, edge_index))(x), wanted)
    with pytest.raises(InputError, match="pass dag="):
        torch.func.vmap(lambda x: conv(x, edge_index))(torch.randn(2, 6, 5, dtype=torch.float64))
