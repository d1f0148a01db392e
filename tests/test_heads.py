"""A layer's heads as compiled code, held against the composition that it stands for, and its inner loops."""

import copy

import numpy as np
import pytest
import torch
from graphs import MOLECULES, bond_lists, both_directions, path
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch

from plstm_graph import LineGraphDAG, PLSTMConv
from plstm_graph.chem import smiles_to_data
from plstm_graph.compiled import kernel
from plstm_graph.errors import InputError
from plstm_graph.kernels import HeadLayout
from plstm_graph.kernels.cpu import vectors
from plstm_graph.kernels.heads import head_inputs, normed_heads, scan_heads


def inputs_of(layout, dag, columns, dtype=torch.float64, scale=1.0):
    """Leaves: a product, and logits of the columns of edge_index."""
    projected = scale * torch.randn(dag.num_nodes, sum(layout.widths), dtype=dtype)
    logits = torch.randn(columns, layout.edge_logits, dtype=dtype)
    return projected.requires_grad_(), logits.requires_grad_()


def assert_heads_agree(layout, dag, projected, logits):
    """Values and gradients of compiled code and of the composition, on the reference backend."""
    wanted = scan_heads(head_inputs(projected, logits, dag, layout), dag, "reference")
    found = normed_heads(projected, logits, dag, layout)
    assert type(found.grad_fn).__name__ == "_HeadsBackward"
    weight = torch.linspace(-1, 1, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
    leaves = [projected] if logits is None else [projected, logits]
    derivatives = [torch.autograd.grad((x * weight).sum(), leaves) for x in (found, wanted)]
    for one, other in zip((found, *derivatives[0]), (wanted, *derivatives[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@given(
    bond_lists(),
    st.sampled_from(["P", "D", "PD"]),
    st.booleans(),
    st.sampled_from([1, 3, 8, 24]),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(0, 99),
)
def test_compiled_heads_equal_the_composition(graph, mode, both, head_dim, scale, seed):
    num_nodes, bonds = graph
    torch.manual_seed(seed)
    dag = LineGraphDAG.from_edge_index(both_directions(bonds), num_nodes)
    largest = 1.0 if both else 16.0
    layout = HeadLayout(heads=2, head_dim=head_dim, mode=mode, directions=1 + both, largest_input=largest)
    projected, logits = inputs_of(layout, dag, 2 * bonds.size(1), scale=scale)
    assert_heads_agree(layout, dag, projected, logits if both else None)


def test_gradients_do_not_depend_on_the_layout_in_memory():
    """What lies column by column, as a hook on a linear map may leave it, is read and written as well."""
    dag = LineGraphDAG.from_edge_index(both_directions(path(5)))
    layout = HeadLayout(heads=2, head_dim=3, mode="PD", directions=2)
    torch.manual_seed(0)
    leaves = inputs_of(layout, dag, 8)
    turned = [leaf.detach().T.contiguous().T.requires_grad_() for leaf in leaves]
    assert not any(leaf.is_contiguous() for leaf in turned)
    assert_heads_agree(layout, dag, *turned)
    gradients = [
        torch.autograd.grad(normed_heads(*inputs, dag, layout).square().sum(), inputs)
        for inputs in (leaves, turned)
    ]
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("mode", ["P", "D"])
def test_a_chain_that_is_cut_into_chunks_agrees_too(mode):
    torch.manual_seed(0)
    dag = LineGraphDAG.from_edge_index(both_directions(path(3000)), 3000)
    layout = HeadLayout(heads=1, head_dim=3, mode=mode, directions=2, largest_input=2.0)
    assert_heads_agree(layout, dag, *inputs_of(layout, dag, 5998))


@pytest.mark.parametrize("mode", ["P", "D", "PD"])
def test_a_molecule_gets_the_same_bits_alone_and_in_a_batch_on_any_number_of_threads(mode):
    torch.manual_seed(0)
    conv = PLSTMConv(9, 32, mode=mode, edge_dim=3)
    molecules = [smiles_to_data(smiles) for smiles in MOLECULES]
    batch = Batch.from_data_list(molecules * 20)
    layout, found = conv.layout, []
    dag = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes)
    projected, logits = (
        conv.project(batch.x.float()).detach(),
        conv.lin_edge(batch.edge_attr.float()).detach(),
    )
    leaves = projected.requires_grad_(), logits.requires_grad_()
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        heads = normed_heads(*leaves, dag, layout)
        found.append((heads, *torch.autograd.grad(heads.square().sum(), leaves)))
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    node = column = 0
    for data in molecules:
        rows = slice(node, node + data.num_nodes), slice(column, column + data.num_edges)
        own = LineGraphDAG.from_edge_index(data.edge_index, data.num_nodes)
        alone = normed_heads(projected[rows[0]], logits[rows[1]], own, layout)
        assert torch.equal(alone, found[0][0][rows[0]])
        node, column = rows[0].stop, rows[1].stop


@pytest.mark.parametrize("column", [-1, 4, 10**12])
def test_a_column_that_is_none_is_refused_not_read(column):
    dag = LineGraphDAG.from_edge_index(both_directions(path(3)), 3)
    layout = HeadLayout(heads=1, head_dim=2, mode="P", directions=2)
    projected, logits = inputs_of(layout, dag, 4)
    dag.edge_id[-1] = column
    with pytest.raises(InputError, match="tensors of this LineGraphDAG were changed"):
        normed_heads(projected, logits, dag, layout)


def test_half_precision_is_computed_in_single_and_rounded_once():
    torch.manual_seed(0)
    dag = LineGraphDAG.from_edge_index(both_directions(path(20)), 20)
    layout = HeadLayout(heads=2, head_dim=4, mode="P", directions=2)
    half = [x.detach().bfloat16() for x in inputs_of(layout, dag, 38, torch.float32)]
    found = normed_heads(*half, dag, layout)
    assert torch.equal(found, normed_heads(*(x.float() for x in half), dag, layout).bfloat16())


def test_one_map_of_nodes_is_what_heads_are_made_of():
    """Query, key, value and gates are columns of one product: zeros in one part change that part alone."""
    torch.manual_seed(0)
    conv = PLSTMConv(4, 8, heads=2, bias=False)
    x, edge_index = torch.randn(5, 4), both_directions(path(5))
    parts = conv.layout.split(conv.project(x))
    for number, width in enumerate(conv.layout.widths):
        start = sum(conv.layout.widths[:number])
        other = copy.deepcopy(conv)
        with torch.no_grad():
            other.lin_in.weight[start : start + width] = 0
        changed = other.layout.split(other.project(x))
        assert [torch.equal(a, b) for a, b in zip(parts, changed, strict=True)] == [
            n != number for n in range(5)
        ]
        assert not torch.equal(other(x, edge_index), conv(x, edge_index))


@kernel
def _all_of_them(a, b, c, d, sums, rows, inner, cols):
    vectors.set_product(a, b, c, rows, inner, cols)
    vectors.set_transposed_product(a, c, d, inner, rows, cols)
    vectors.add_row(d, 1, 0.5, c, 2, cols)
    sums[0] = vectors.row_dot(c, 0, d, 1, cols)
    vectors.clear(c, 2, cols)
    sums[1] = vectors.padded(rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "inner", "cols"), [(3, 2, 8), (5, 3, 16), (4, 8, 24), (30, 24, 32), (7, 2, 40)]
)
def test_inner_loops_do_what_their_python_says(dtype, rows, inner, cols):
    generator = np.random.default_rng(0)
    shapes = (32, 32), (32, 40), (32, 40), (32, 40)
    matrices = [generator.standard_normal(shape).astype(dtype) for shape in shapes]
    compiled, python = ([x.copy() for x in matrices] for _ in range(2))
    sums = np.zeros((2, 2))
    _all_of_them(*compiled, sums[0], rows, inner, cols)
    _all_of_them.py_func(*python, sums[1], rows, inner, cols)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    for one, other, used in zip(compiled, python, (rows, inner, rows, inner), strict=True):
        np.testing.assert_allclose(one[:used], other[:used], rtol=tolerance, atol=tolerance)
        # Beyond the next whole tile nothing is written.
        tile = -(-used // vectors.TILE_ROWS) * vectors.TILE_ROWS
        np.testing.assert_array_equal(one[tile:], other[tile:])
        np.testing.assert_array_equal(one[:, cols:], other[:, cols:])
    np.testing.assert_allclose(*sums, rtol=tolerance, atol=tolerance)
