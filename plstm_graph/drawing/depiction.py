"""The structure of a molecule as RDKit draws it, in black, with the positions of its atoms."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from plstm_graph.drawing.svg import PAPER, Panel

#: Room around the molecule in pixels, for what is painted around its outermost atoms.
MARGIN = 18.0
_PIXELS = 28  # an Ångström of the depiction, in which a bond is 1.5 Å long


@dataclass(frozen=True)
class Depiction:
    """A molecule as RDKit draws it.

    Args:
        width, height: size in pixels, with room for what is painted around the atoms.
        bonds, letters: SVG elements; letters are of labels and notes.
        atoms: [N, 2] positions in pixels.
        labelled: [N] whether an atom has letters.
    """

    width: float
    height: float
    bonds: str
    letters: str
    atoms: NDArray[np.float64]
    labelled: NDArray[np.bool_]

    def panel(self, under: str = "", over: str = "") -> Panel:
        """The molecule with something under it, or over its bonds, from which letters then stand off."""
        moved = f"transform='translate({MARGIN:g},{MARGIN:g})'"
        halo = f"<g {moved} stroke='{PAPER}' stroke-width='3'>{self.letters}</g>\n" if over else ""
        return Panel(
            self.width,
            self.height,
            f"{under}\n<g class='bonds' {moved}>{self.bonds}</g>\n{over}\n{halo}"
            f"<g class='letters' {moved}>{self.letters}</g>",
        )


def depict(mol: Chem.Mol, indices: bool) -> Depiction:
    """Let RDKit draw a molecule, in black: colours are for what is shown on it."""
    mol = Chem.Mol(mol)
    if _has_layout(mol):
        rdDepictor.NormalizeDepiction(mol, canonicalize=0)  # the user's own, with bonds of 1.5 Å
    else:
        heavy = mol.GetNumHeavyAtoms() > 0  # hydrogen alone is NaN to CoordGen, and has no scale
        with rdDepictor.UsingCoordGen(heavy and rdDepictor.IsCoordGenSupportAvailable()):
            rdDepictor.Compute2DCoords(mol)
        if heavy:
            rdDepictor.NormalizeDepiction(mol)
            rdDepictor.StraightenDepiction(mol)
    mol = rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
    drawer = rdMolDraw2D.MolDraw2DSVG(-1, -1)  # as large as the molecule needs
    options: Any = drawer.drawOptions()
    options.useBWAtomPalette()
    options.clearBackground = False
    options.prepareMolsBeforeDrawing = False
    options.scalingFactor = _PIXELS
    options.addAtomIndices = indices
    options.annotationFontScale = 0.6
    options.setAnnotationColour((0.35, 0.38, 0.42))
    options.padding = 0.0
    drawer.DrawMolecule(mol)
    positions = [drawer.GetDrawCoords(i) for i in range(mol.GetNumAtoms())]
    drawer.FinishDrawing()
    body = drawer.GetDrawingText().partition("<!-- END OF HEADER -->")[2].removesuffix("</svg>\n")
    letters = re.findall(r"<path class='(?:atom-\d+|note)' d='[^']*' fill='#[0-9A-Fa-f]{6}'/>\n", body)
    for letter in letters:
        body = body.replace(letter, "", 1)
    labelled = np.zeros(len(positions), np.bool_)
    labelled[[int(atom) for letter in letters for atom in re.findall(r"class='atom-(\d+)'", letter)]] = True
    return Depiction(
        drawer.Width() + 2 * MARGIN,
        drawer.Height() + 2 * MARGIN,
        body,
        "".join(letters),
        np.array([(position.x, position.y) for position in positions]) + MARGIN,
        labelled,
    )


def _has_layout(mol: Chem.Mol) -> bool:
    """Return if the molecule has coordinates in a plane, no two atoms in one position."""
    if not mol.GetNumConformers() or mol.GetConformer().Is3D():
        return False
    return len(np.unique(mol.GetConformer().GetPositions(), axis=0)) == mol.GetNumAtoms()
