"""GINE's sums in one pass: what PyG's layer gives, and only where that pass may take its place."""

import pytest
import torch
from torch import Tensor
from torch_geometric.explain.algorithm.utils import set_masks
from torch_geometric.nn import GINEConv

from plstm_graph.kernels.cpu import messages
from plstm_graph.kernels.cpu.messages import gine_sum
from plstm_graph.models import local
from plstm_graph.models.local import gin_mixer

NODES, COLUMNS = 50, 300


def make_graph(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Node features, columns of edge_index between any two nodes but the last, and their features."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, channels, generator=draw, dtype=dtype)
    edge_index = torch.randint(NODES - 1, (2, COLUMNS), generator=draw)
    return x, edge_index, torch.randn(COLUMNS, channels, generator=draw, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 16, 33, 96])
def test_sums_are_those_of_pyg(channels: int, dtype: torch.dtype) -> None:
    """The last node hears nobody; a quarter of its own features is added."""
    x, edge_index, edge_attr = make_graph(channels, dtype)
    expected = GINEConv(torch.nn.Identity(), eps=0.25, edge_dim=None)
    expected.nn.in_features = channels  # what it would ask its first map for
    torch.testing.assert_close(gine_sum(x, edge_index, edge_attr, 1.25), expected(x, edge_index, edge_attr))


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread takes all channels, or two share them."""
    graph = make_graph(96, torch.float32)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        try:
            monkeypatch.setattr(messages, "_CHANNELS", 16 // number)
            results.append(gine_sum(*graph, 1.0))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_nan_stays_where_it_is_sent() -> None:
    """A node whose neighbour is NaN is NaN, and no other."""
    x, edge_index, edge_attr = make_graph(4, torch.float32)
    x[0] = torch.nan
    told = torch.zeros(NODES, dtype=torch.bool)
    told[edge_index[1, edge_index[0] == 0]] = told[0] = True
    assert torch.equal(gine_sum(x, edge_index, edge_attr, 1.0).isnan().any(1), told)


def test_no_edges() -> None:
    """Nodes alone keep their own features."""
    x, edge_index, edge_attr = make_graph(4, torch.float32)
    assert torch.equal(gine_sum(x, edge_index[:, :0], edge_attr[:0], 2.0), 2 * x)


def test_fewer_features_than_columns_are_refused() -> None:
    """The last columns would read beside the tensor."""
    x, edge_index, edge_attr = make_graph(4, torch.float32)
    with pytest.raises(IndexError, match=rf"\[{COLUMNS}, 4\], not"):
        gine_sum(x, edge_index, edge_attr[:-1], 1.0)


@pytest.mark.parametrize("node", [-1, NODES])
def test_columns_of_no_node_are_refused(node: int) -> None:
    """Compiled code would read beside the tensor."""
    x, edge_index, edge_attr = make_graph(4, torch.float32)
    edge_index[0, 7] = node
    with pytest.raises(IndexError, match=f"0 to {NODES - 1}"):
        gine_sum(x, edge_index, edge_attr, 1.0)


def test_takes_part_without_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, an explainer's masks and half precision have PyG's messages; the numbers are the same."""
    calls: list[int] = []
    monkeypatch.setattr(local, "gine_sum", lambda *inputs: calls.append(1) or gine_sum(*inputs))
    x, edge_index, edge_attr = make_graph(8, torch.float32)
    GINEConv(torch.nn.Linear(8, 8))  # after which PyG explains what is derived from it without any mask
    conv = gin_mixer(8, 8).conv
    trained = conv(x, edge_index, edge_attr)
    assert not calls
    with torch.inference_mode():
        torch.testing.assert_close(conv(x, edge_index, edge_attr), trained.detach())
        assert len(calls) == 1
        conv.to(torch.bfloat16)(x.bfloat16(), edge_index, edge_attr.bfloat16())
        assert len(calls) == 1
        set_masks(conv.float(), torch.zeros(COLUMNS), edge_index, apply_sigmoid=False)
        torch.testing.assert_close(conv(x, edge_index, edge_attr), conv.nn(x))
    assert len(calls) == 1
