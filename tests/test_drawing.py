"""Drawings: what the picture shows is read back from its SVG."""

import re
import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDepictor

from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import build_dag, rank_nodes
from plstm_graph.drawing import (
    Drawing,
    draw_contributions,
    draw_gating,
    draw_influence,
    draw_orientation,
)
from plstm_graph.drawing.svg import Scale, number, text_width
from plstm_graph.errors import InputError

PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"
PENICILLIN = "CC1(C(N2C(S1)C(C2=O)NC(=O)Cc3ccccc3)C(=O)O)C"
MOLECULES = {
    "methane": "C",
    "chloride": "[Cl-]",
    "neopentane": "CC(C)(C)C",
    "salt": "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]",
    "nitrile": "C#CCC#N",
    "spiro": "C1CCC2(CC1)OCCO2",
    "paracetamol": PARACETAMOL,
    "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "pyrene": "c1cc2ccc3cccc4ccc(c1)c2c34",
    "penicillin": PENICILLIN,
    "cholesterol": "C[C@H](CCCC(C)C)[C@H]1CC[C@@H]2[C@@]1(CC[C@H]3[C@H]2CC=C4[C@@]3(CC[C@@H](C4)O)C)C",
    "imatinib": "Cc1ccc(cc1Nc2nccc(n2)c3cccnc3)NC(=O)c4ccc(cc4)CN5CCN(CC5)C",
    "peptide": "NC(C)C(=O)NC(Cc1ccccc1)C(=O)NC(CC(C)C)C(=O)NC(CCCNC(N)=N)C(=O)NC(Cc1c[nH]c2ccccc12)C(=O)O",
    "glycines": "NCC(=O)" * 14 + "O",
}
every_molecule = pytest.mark.parametrize("smiles", MOLECULES.values(), ids=MOLECULES)


def tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def elements(drawing: Drawing, name: str, kind: str | None = None) -> list[ElementTree.Element]:
    return [
        element
        for element in ElementTree.fromstring(drawing.svg).iter()
        if tag(element) == name and (kind is None or kind in element.get("class", "").split())
    ]


def texts(drawing: Drawing) -> list[str]:
    return [element.text or "" for element in elements(drawing, "text")]


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([pair.split(",") for pair in element.get("points").split()], dtype=float)


def places(smiles: str | Chem.Mol) -> np.ndarray:
    """Where the atoms are drawn, inside the molecule's panel."""
    mol = Chem.MolFromSmiles(smiles) if isinstance(smiles, str) else smiles
    discs = elements(draw_influence(mol, np.zeros(mol.GetNumAtoms())), "circle", "atom")
    return np.array([(disc.get("cx"), disc.get("cy")) for disc in discs], dtype=float)


def boxes(drawing: Drawing) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every text and of every letter that RDKit draws."""
    found = []

    def walk(element: ElementTree.Element, left: float, top: float) -> None:
        if element.get("stroke-width") == "3":
            return  # what letters stand off with
        moved = re.fullmatch(r"translate\(([-\d.]+),([-\d.]+)\)", element.get("transform", ""))
        if moved:
            left, top = left + float(moved[1]), top + float(moved[2])
        if tag(element) == "text":
            x, y, size = (float(element.get(key)) for key in ("x", "y", "font-size"))
            width = text_width(element.text, size)
            before = {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor")]
            if element.get("transform"):  # a quarter turn to the left
                box = (x - 0.75 * size, y - (width - before), x, y + before)
            else:
                box = (x - before, y - 0.75 * size, x + width - before, y)
            found.append((box[0] + left, box[1] + top, box[2] + left, box[3] + top))
        elif re.match("atom-|note", element.get("class", "")):
            numbers = np.array(re.findall(r"-?[\d.]+", element.get("d")), dtype=float).reshape(-1, 2)
            found.append((*(numbers.min(0) + (left, top)), *(numbers.max(0) + (left, top))))
        for child in element:
            walk(child, left, top)

    walk(ElementTree.fromstring(drawing.svg), 0.0, 0.0)
    return found


def assert_legible(drawing: Drawing) -> None:
    """No two texts or letters overlap, and all are on the card."""
    [card] = elements(drawing, "rect", "card")
    width, height = float(card.get("width")), float(card.get("height"))
    found = boxes(drawing)
    assert found
    for left, top, right, bottom in found:
        assert left > 0
        assert top > 0
        assert right < width
        assert bottom < height
    for a, b in combinations(found, 2):
        across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert min(across, down) < 1.0, (a, b)  # a pixel, for the tail of a subscript


@every_molecule
@pytest.mark.parametrize("orientation", ["center", "bfs"])
def test_every_bond_has_one_arrow_to_the_higher_rank(smiles, orientation):
    data = smiles_to_data(smiles)
    rank, where = rank_nodes(data, orientation), places(smiles)
    arrows = elements(draw_orientation(smiles, orientation), "polygon", "edge")
    seen = []
    for arrow in map(points, arrows):
        tail, tip = (arrow[0] + arrow[-1]) / 2, arrow[3]
        src = int(np.linalg.norm(where - tail, axis=1).argmin())
        dst = int(np.linalg.norm(where - tip, axis=1).argmin())
        assert rank[src] < rank[dst]
        seen.append(frozenset((src, dst)))
    bonds = [
        frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in Chem.MolFromSmiles(smiles).GetBonds()
    ]
    assert sorted(map(sorted, seen)) == sorted(map(sorted, bonds))


def test_arrows_are_coloured_by_level_and_the_legend_names_all():
    drawing = draw_orientation(PARACETAMOL)
    dag = build_dag(smiles_to_data(PARACETAMOL))
    colours = [arrow.get("fill") for arrow in elements(drawing, "polygon", "edge")]
    by_level = {
        level: {c for c, other in zip(colours, dag.level.tolist(), strict=True) if other == level}
        for level in range(4)
    }
    assert all(len(colours) == 1 for colours in by_level.values())
    swatches = [r.get("fill") for r in elements(drawing, "rect") if r.get("class") != "card"]
    assert swatches == [by_level[level].pop() for level in range(4)]
    assert len(set(swatches)) == 4
    assert texts(drawing) == ["level of the edge", "0", "1", "2", "3"]


def test_numbers_of_many_levels_are_thinned_out_but_for_the_last():
    drawing = draw_orientation("C" * 125)
    assert_legible(drawing)
    assert texts(drawing)[1:] == [str(level) for level in [*range(0, 60, 4), 61]]
    assert len(elements(drawing, "rect")) == 1 + 62


@every_molecule
def test_arcs_are_the_line_edges_and_dashed_ones_are_pruned(smiles):
    drawing, dag, where = (
        draw_orientation(smiles, mode="D"),
        build_dag(smiles_to_data(smiles)),
        places(smiles),
    )
    arcs = elements(drawing, "path", "line")
    assert ["kept" in arc.get("class") for arc in arcs] == dag.multitree.tolist()
    assert [arc.get("stroke-dasharray") is None for arc in arcs] == dag.multitree.tolist()
    for arc, before, after in zip(arcs, dag.pred, dag.succ, strict=True):
        shape = re.fullmatch(r"M (\S+) (\S+) A (\S+) \S+ 0 0 [01] (\S+) (\S+)", arc.get("d"))
        x1, y1, radius, x2, y2 = map(float, shape.groups())
        atom = where[dag.dst[before]]
        for end, neighbour in (((x1, y1), dag.src[before]), ((x2, y2), dag.dst[after])):
            bond = where[neighbour] - atom
            assert np.allclose(atom + radius * bond / np.linalg.norm(bond), end, atol=0.3)
    kept = int(dag.multitree.sum())
    assert texts(drawing)[-2:] == [f"line edges of the multitree: {kept}", f"pruned: {dag.num_lines - kept}"]


def test_penicillin_has_pruned_line_edges():
    assert len(elements(draw_orientation(PENICILLIN, mode="D"), "path", "pruned")) == 3


@every_molecule
def test_nothing_overlaps(smiles):
    count, bonds = smiles_to_data(smiles).num_nodes, smiles_to_data(smiles).edge_attr.size(0) // 2
    values = np.random.default_rng(0).normal(size=(count, count)) * 1e-3
    drawings = [
        draw_orientation(smiles, indices=True),
        draw_orientation(smiles, mode="D", indices=True),
        draw_influence(smiles, values[0], atom=count - 1, indices=True),
        draw_contributions(smiles, values[0], np.zeros(bonds), indices=True, label="contribution to logS"),
        draw_gating(smiles, values),
    ]
    for drawing in drawings:
        assert_legible(drawing)


def test_a_drawing_is_an_opaque_card_and_the_same_each_time():
    drawing = draw_orientation(PENICILLIN, mode="D")
    root = ElementTree.fromstring(drawing.svg)
    card = root[0]
    assert card.get("class") == "card"
    assert card.get("fill") == "#ffffff"
    assert float(card.get("rx")) > 0
    assert abs(float(card.get("width")) - float(root.get("width"))) <= 1
    assert "opacity='0" not in drawing.svg
    assert " id=" not in drawing.svg  # ids of two pictures in one notebook would clash
    assert draw_orientation(PENICILLIN, mode="D").svg == drawing.svg
    assert draw_orientation(Chem.MolFromSmiles(PENICILLIN), mode="D")._repr_svg_() == drawing.svg


def test_indices_are_written_on_demand():
    glyphs = {
        indices: len(elements(draw_orientation(PARACETAMOL, indices=indices), "path", "note"))
        for indices in (False, True)
    }
    assert glyphs == {False: 0, True: 12}  # digits of 0 … 10


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 0.5, 2.0], ["0", "0.5", "1", "1.5", "2"]),
        ([-4.0, 0.0, 1.0], ["−4", "−2", "0", "2", "4"]),
        ([-1.0, -3.0, -0.5], ["−3", "−1.5", "0", "1.5", "3"]),
        ([-1.0, 0.0, 2.0], ["−2", "−1", "0", "1", "2"]),
        ([0.0, 0.0, 0.0], ["0"]),
    ],
)
def test_colours_reach_the_ends_of_the_scale_and_its_numbers_are_the_range(values, ticks):
    drawing = draw_influence("CCO", torch.tensor(values, requires_grad=True), label="what")
    assert texts(drawing) == ["what", *ticks]
    discs = [disc.get("fill") for disc in elements(drawing, "circle", "atom")]
    bar = [r.get("fill") for r in elements(drawing, "rect") if r.get("class") != "card"][:-1]  # but the frame
    for value, colour in zip(values, discs, strict=True):
        if value == 0:
            assert colour == "#ffffff"
        if value and abs(value) == max(map(abs, values)):
            assert colour == bar[0 if value < 0 else -1]
            assert colour != "#ffffff"
    titles = [disc[0].text for disc in elements(drawing, "circle", "atom")]
    assert titles == [f"{name}: {number(v)}" for name, v in zip(("C0", "C1", "O2"), values, strict=True)]


def test_signs_are_red_and_blue_and_dark_enough_to_tell_and_light_enough_for_letters():
    scale = Scale.of(np.array([-2.0, 1.0]))
    for value, strong, weak in ((2.0, 0, 2), (-2.0, 2, 0)):
        colour = scale.colour(value)
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert channels[strong] > channels[weak] + 0.4
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert (luminance + 0.05) / 0.05 > 4.5  # WCAG's contrast for black text


def test_the_chosen_atom_is_ringed():
    drawing = draw_influence(PARACETAMOL, np.arange(11.0), atom=8)
    ring, sample = elements(drawing, "circle", "ring")
    assert np.allclose((float(ring.get("cx")), float(ring.get("cy"))), places(PARACETAMOL)[8], atol=0.1)
    assert texts(drawing)[-1] == "atom O8"
    assert not elements(draw_influence(PARACETAMOL, np.arange(11.0)), "circle", "ring")
    assert sample.get("stroke") == ring.get("stroke")


def test_bonds_are_painted_with_their_own_values_given_once_or_in_two_columns():
    mol = Chem.MolFromSmiles(PARACETAMOL)
    of_bonds = np.linspace(-1, 3, mol.GetNumBonds())
    columns = np.stack([of_bonds - 0.25, np.full_like(of_bonds, 0.25)], 1).ravel()
    once, twice = (draw_contributions(mol, torch.zeros(11), bonds) for bonds in (of_bonds, columns))
    assert once.svg == twice.svg
    where, scale = places(PARACETAMOL), Scale.of(of_bonds)
    bands = elements(once, "line", "bond")
    for band, bond, value in zip(bands, mol.GetBonds(), of_bonds, strict=True):
        ends = [float(band.get(key)) for key in ("x1", "y1", "x2", "y2")]
        atoms = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
        assert np.allclose(ends, where[atoms].ravel(), atol=0.1)
        assert band.get("stroke") == scale.colour(value)
    assert {disc.get("fill") for disc in elements(once, "circle", "atom")} == {"#ffffff"}
    assert len({band.get("stroke") for band in bands}) == 11


def test_rows_of_the_heat_map_are_receivers_and_columns_senders():
    matrix = np.zeros((11, 11))
    matrix[8, 3] = -0.5
    drawing = draw_gating(PARACETAMOL, matrix)
    [cell] = [rect for rect in elements(drawing, "rect") if len(rect)]
    assert cell[0].text == "O8 receives from N3: −0.5"
    left, top, side = (float(cell.get(key)) for key in ("x", "y", "width"))
    labels = {(t.text, bool(t.get("transform"))): t for t in elements(drawing, "text")}
    row, column = labels["O8", False], labels["N3", True]
    assert top < float(row.get("y")) < top + side
    assert float(row.get("x")) < left
    assert left < float(column.get("x")) < left + side
    assert float(column.get("y")) < top
    assert {"sender", "receiver"} <= set(texts(drawing))
    assert texts(drawing)[-5:] == ["−0.5", "−0.25", "0", "0.25", "0.5"]


@pytest.mark.parametrize("smiles", ["[H][H]", "[H]", "[2H][2H]"])
def test_hydrogen_alone_is_drawn(smiles):
    assert np.isfinite(places(smiles)).all()
    root = ElementTree.fromstring(draw_orientation(smiles).svg)
    assert all(10 < float(root.attrib[side]) < 1000 for side in ("width", "height"))


def test_a_layout_of_ones_own_is_kept_and_the_molecule_untouched():
    mol = Chem.MolFromSmiles(PARACETAMOL)
    before = Chem.MolToMolBlock(mol)
    draw_orientation(mol)
    assert Chem.MolToMolBlock(mol) == before
    rdDepictor.Compute2DCoords(mol, canonOrient=True)
    conformer = mol.GetConformer()
    turned = conformer.GetPositions()[:, [1, 0, 2]] * 0.3  # mirrored, and much too small
    for atom, place in enumerate(turned):
        conformer.SetAtomPosition(atom, place.tolist())
    drawn = places(mol) * [1, -1]  # pixels count downwards
    wanted = turned[:, :2]
    drawn, wanted = (a - a.mean(0) for a in (drawn, wanted))
    assert np.allclose(drawn / np.abs(drawn).max(), wanted / np.abs(wanted).max(), atol=0.01)


def test_atoms_in_one_place_are_laid_out_anew():
    mol = Chem.MolFromSmiles("CCO")
    mol.AddConformer(Chem.Conformer(3))  # all at the origin
    mol.GetConformer().Set3D(False)
    assert draw_orientation(mol).svg == draw_orientation("CCO").svg


@pytest.mark.parametrize(
    ("draw", "part"),
    [
        (lambda: draw_orientation("c1ccc"), "'c1ccc'"),
        (lambda: draw_orientation(""), "''"),
        (lambda: draw_orientation(None), "NoneType"),
        (lambda: draw_orientation(Chem.Mol()), "no atoms"),
        (lambda: draw_orientation("CCO", "centre"), "'centre'"),
        (lambda: draw_orientation("CCO", mode="X"), "'X'"),
        (lambda: draw_orientation("CCO", torch.arange(2)), "rank"),
        (lambda: draw_influence("CCO", [1.0, 2.0]), "values needs the shape [3] for this molecule, not [2]"),
        (lambda: draw_influence("CCO", [1.0, 2.0, 3.0], atom=3), "atom 3"),
        (lambda: draw_influence("CCO", [1.0, 2.0, 3.0], atom=-1), "0 to 2"),
        (lambda: draw_influence("CCO", [1.0, float("nan"), 3.0]), "values[1] is not finite"),
        (lambda: draw_influence("CCO", ["a", "b", "c"]), "values must hold numbers"),
        (lambda: draw_contributions("CCO", [1, 2, 3], [1, 2, 3]), "bonds needs the shape [2]"),
        (lambda: draw_contributions("CCO", torch.zeros(3, 1), torch.zeros(2)), "atoms needs the shape [3]"),
        (lambda: draw_gating("CCO", np.zeros((3, 2))), "matrix needs the shape [3, 3]"),
        (lambda: draw_gating("CCO", np.full((3, 3), np.inf)), "matrix[0, 0]"),
        (lambda: draw_orientation("CCO").save("picture.png"), ".svg"),
        (lambda: draw_orientation("CCO").save("/dev/null/picture.svg"), "cannot be written"),
    ],
)
def test_wrong_input_gets_one_sentence(draw, part):
    with pytest.raises(InputError) as caught:
        draw()
    message = str(caught.value)
    assert part in message
    assert message.endswith(".")
    assert "\n" not in message


def test_save_makes_the_folder(tmp_path):
    drawing = draw_gating("CCO", np.eye(3))
    drawing.save(tmp_path / "new" / "picture.svg")
    assert (tmp_path / "new" / "picture.svg").read_text(encoding="utf-8") == drawing.svg


def test_neither_matplotlib_nor_notebooks_are_needed():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'PIL', 'IPython'))); "
        "from plstm_graph.drawing import draw_gating; print(len(draw_gating('C', [[1.0]]).svg))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 500
