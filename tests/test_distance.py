"""Data that ask for what lies far apart, and networks for images."""

import numpy as np
import pytest
import torch
from data_modules import prepared
from rdkit import Chem
from torch_geometric.data import Batch, Data

from benchmarks.accuracy.arrows import ArrowPointing, draw_arrows
from benchmarks.accuracy.image_networks import GridPLSTM, ViT
from plstm_graph.datasets import PeptideEnds
from plstm_graph.errors import InputError
from plstm_graph.explain import gating_matrices

FEW = {"train_size": 60, "val_size": 20, "test_size": 20}


def test_peptides_are_what_they_are_said_to_be(tmp_path):
    module = prepared(PeptideEnds(shortest=3, longest=6, test_residues=9, cache=tmp_path, **FEW))
    amide = Chem.MolFromSmarts("[NX3][CX4][CX3](=O)")  # once a residue, along the chain
    lengths = [len(Chem.MolFromSmiles(s).GetSubstructMatches(amide)) for s in module.table.smiles]
    assert set(lengths[:80]) == {3, 4, 5, 6}
    assert set(lengths[80:]) == {9}
    for rows in module.rows:
        assert module.dataset.tensors["y"][rows].mean() == 0.5
    assert len(set(module.table.smiles)) == 100


def test_ends_match_where_the_label_says_so(tmp_path):
    """Of two kinds, glycine has no side chain: both ends of a matching chain have one, or none has."""
    module = PeptideEnds(shortest=4, longest=4, test_residues=4, residues="GF", cache=tmp_path, **FEW)
    first = Chem.MolFromSmarts("[NX3;H2]C(Cc)C=O"), Chem.MolFromSmarts("[NX3;H2][CH2]C=O")
    last = Chem.MolFromSmarts("NC(Cc)C(=O)[OH]"), Chem.MolFromSmarts("N[CH2]C(=O)[OH]")
    for smiles, (label,) in zip(module.table.smiles, module.table.targets, strict=True):
        molecule = Chem.MolFromSmiles(smiles)
        ends = [[molecule.HasSubstructMatch(pattern) for pattern in kinds] for kinds in (first, last)]
        assert all(sum(kinds) == 1 for kinds in ends)
        assert (ends[0] == ends[1]) == label


def test_what_is_tested_does_not_change_what_is_trained(tmp_path):
    short, long = (PeptideEnds(test_residues=n, cache=tmp_path, **FEW).table for n in (5, 12))
    assert short.smiles[:80] == long.smiles[:80]
    assert short.smiles[80:] != long.smiles[80:]
    images = [prepared(ArrowPointing(test_resolution=n, cache=tmp_path, **FEW)) for n in (48, 64)]
    nodes = 80 * 100
    assert torch.equal(*(module.dataset.tensors["x"][:nodes] for module in images))
    assert images[0].dataset.counts["nodes"][80:].tolist() == [144] * 20
    assert images[1].dataset.counts["nodes"][80:].tolist() == [256] * 20


@pytest.mark.parametrize("pixels", [48, 96])
def test_arrows_point_at_discs_where_the_label_says_so(pixels):
    """Measured on the pixels: the disc is the largest filled square, the arrow's head its thicker end."""
    images, points = draw_arrows(pixels, 40, np.random.default_rng(0))
    assert points.sum() == 20
    middle = torch.arange(pixels) + 0.5
    agreed = 0
    for image, label in zip(images, points, strict=True):
        filled = torch.nn.functional.avg_pool2d(image[None, None], 5, stride=1, padding=2)[0, 0]
        row, column = divmod(int(filled.argmax()), pixels)
        near = torch.hypot(middle[:, None] - row - 0.5, middle - column - 0.5) < 6
        disc = torch.stack([(image * near * part).sum() / (image * near).sum()
                            for part in (middle[None, :], middle[:, None])])  # fmt: skip
        arrow = image * ~near
        x, y = torch.meshgrid(middle, middle, indexing="xy")
        weights, places = arrow.flatten(), torch.stack([x.flatten(), y.flatten()], 1)
        centre = (weights[:, None] * places).sum(0) / weights.sum()
        offset = places - centre
        _, axes = torch.linalg.eigh((weights[:, None, None] * offset[:, :, None] * offset[:, None]).sum(0))
        along = offset @ axes[:, 1]
        third_moment = (weights * along**3).sum()  # the thin end reaches farther from the middle of mass
        heading = -axes[:, 1] * third_moment.sign()
        to_disc = disc - centre
        across = to_disc[0] * heading[1] - to_disc[1] * heading[0]
        agreed += bool((to_disc @ heading > 0) & (across.abs() < 4)) == bool(label)
    assert agreed == 40


def test_pixels_lie_in_their_patches(tmp_path):
    module = prepared(ArrowPointing(resolution=48, test_resolution=48, cache=tmp_path, **FEW))
    images, points = draw_arrows(48, 80, np.random.default_rng(0))
    graph = module.dataset[7]
    assert torch.equal(graph.x.view(12, 12, 4, 4).transpose(1, 2).reshape(48, 48), images[7])
    assert graph.y.item() == points[7]
    ends = torch.stack([graph.edge_index // 12, graph.edge_index % 12])
    assert (ends[:, 0] - ends[:, 1]).abs().sum(0).max() <= 2  # neighbours, corner to corner


@pytest.mark.parametrize("network", [GridPLSTM, ViT])
def test_images_do_not_depend_on_their_batch(network, tmp_path):
    torch.manual_seed(0)
    module = prepared(ArrowPointing(test_resolution=64, cache=tmp_path, **FEW))
    model = network(out_channels=2, hidden_channels=16, num_layers=2, in_channels=16).double().eval()
    graphs = [module.dataset[row] for row in (0, 5, 9)]
    for graph in graphs:
        graph.x = graph.x.double()
    together = model(Batch.from_data_list(graphs))
    alone = torch.cat([model(graph) for graph in graphs])
    torch.testing.assert_close(together, alone)
    module.dataset.tensors["x"] = module.dataset.tensors["x"].double()
    if network is GridPLSTM:
        assert len(gating_matrices(model, graphs[0])) == 2 * 2  # two scans a block, each in two directions
    with pytest.raises(InputError, match="square grids of one size"):
        model(module.dataset.__getitems__([0, 99]))


def test_scans_of_images_hear_every_patch_and_attention_knows_places():
    torch.manual_seed(0)
    model = GridPLSTM(hidden_channels=16, num_layers=1, in_channels=4).double()
    x = torch.randn(36, 4, dtype=torch.float64, requires_grad=True)
    hidden = model.blocks[0](model.encoder(x), 1, 6)
    for patch in (0, 7, 35):
        (heard,) = torch.autograd.grad(hidden[patch].sum(), x, retain_graph=True)
        assert (heard.abs().sum(1) > 0).all()
    vit = ViT(hidden_channels=16, num_layers=1, in_channels=4, readout="mean").eval()
    patches, order = torch.randn(36, 4), torch.randperm(36)
    no_edges = torch.zeros(2, 0, dtype=torch.int64)
    one, other = (Data(x=x, edge_index=no_edges) for x in (patches, patches[order]))
    assert not torch.allclose(vit(one), vit(other), atol=1e-4)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (PeptideEnds, {"shortest": 1}, "from 2 residues on"),
        (PeptideEnds, {"residues": "A"}, "two or more one-letter codes"),
        (PeptideEnds, {"residues": "A1"}, "two or more one-letter codes"),
        (ArrowPointing, {"resolution": 50}, "multiple of the patch, 4"),
        (ArrowPointing, {"test_resolution": 16}, "at least 32"),
    ],
)
def test_what_cannot_be_drawn_is_refused(module, arguments, message):
    with pytest.raises(InputError, match=message):
        module(**arguments)
