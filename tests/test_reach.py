"""Influence by distance: parts of a gradient, and none from beyond what messages can cross."""

import pytest
import torch
from torch_geometric.data import Batch

from benchmarks.accuracy.reach import distances, influences, shares
from plstm_graph.chem import smiles_to_data
from plstm_graph.models import GINE, PLSTM, CircularFingerprint

CHAIN = smiles_to_data("OCCCCCCCCCCCCCN")


def network(kind, **changes):
    torch.manual_seed(0)
    return kind(out_channels=2, hidden_channels=16, num_layers=2, **changes).eval()


@pytest.mark.parametrize("settings", [{}, {"jk": "cat", "readout": ["mean", "max"]}, {"roots": 2}])
def test_influences_on_all_nodes_sum_to_the_gradient(settings):
    made = network(PLSTM, **settings)
    data = Batch.from_data_list([smiles_to_data("CC(=O)Oc1ccccc1")])
    x, edge_attr = (part.detach() for part in made.encode(data))
    x.requires_grad_()
    graphs = made.graphs(data)
    encoded = graphs._replace(x=x, edge_attr=edge_attr)
    made.predict(made.read_out(graphs, encoded, made.dags(data))).sum().backward()
    torch.testing.assert_close(influences(made, data).sum(0), x.grad)


def test_what_stands_beside_the_nodes_changes_no_share():
    alone, beside = network(PLSTM), network(PLSTM, branches=[CircularFingerprint(size=64)])
    beside.load_state_dict(alone.state_dict(), strict=False)
    assert shares(beside, CHAIN) == pytest.approx(shares(alone, CHAIN))


def test_messages_of_two_layers_cross_two_bonds_and_a_scan_crosses_all():
    far = distances(CHAIN)
    assert far.max() == 14
    torch.testing.assert_close(far, far.T)
    messages = influences(network(GINE), CHAIN).norm(dim=2)
    assert (messages[far > 2] == 0).all()
    assert (messages[far == 2] != 0).all()
    assert shares(network(GINE), CHAIN)["more than 8"] == 0
    found = shares(network(PLSTM), CHAIN)
    assert found["more than 8"] > 0
    assert sum(found.values()) == pytest.approx(1)
