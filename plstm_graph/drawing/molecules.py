"""The pictures: a molecule's DAG, its gating matrix, one atom's influence, contributions to a prediction."""

from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem
from torch import Tensor

from plstm_graph.chem import mol_to_data, read_smiles
from plstm_graph.dag import LineGraphDAG, Orientation, build_dag
from plstm_graph.drawing.depiction import Depiction, depict
from plstm_graph.drawing.svg import (
    FAINT,
    FONT,
    INK,
    PAPER,
    Drawing,
    Panel,
    Scale,
    card,
    keys,
    level_colour,
    level_legend,
    line,
    number,
    rectangle,
    text,
    text_width,
)
from plstm_graph.errors import InputError

_DISC = 14.0  # radius of what is painted behind an atom
_PRUNED = "#c2410c"


def draw_orientation(
    mol: Chem.Mol | str, orientation: Orientation = "center", mode: str = "P", indices: bool = False
) -> Drawing:
    """Draw the DAG of a molecule: an arrow for every bond, coloured by level.

    In D-mode arcs at the atoms show which edge goes on to which along the multitree, and dashed ones the
    line edges that are pruned.

    Args:
        mol: molecule or SMILES.
        orientation: ranking of the atoms, see :func:`plstm_graph.dag.rank_nodes`.
        mode: ``"P"`` or ``"D"``.
        indices: write RDKit's numbers to the atoms.

    Raises:
        InputError: an unreadable or empty molecule, an unknown orientation or mode.
    """
    if mode not in ("P", "D"):
        raise InputError(f"mode must be 'P' or 'D', not {mode!r}.")
    mol = _molecule(mol)
    dag = build_dag(mol_to_data(mol), orientation)
    picture = depict(mol, indices)
    panels = [
        picture.panel(under=_arrows(mol, dag, picture), over=_arcs(dag, picture) if mode == "D" else ""),
        level_legend(dag.num_levels),
    ]
    if mode == "D":
        kept = int(dag.multitree.sum())
        meanings = {True: f"line edges of the multitree: {kept}", False: f"pruned: {dag.num_lines - kept}"}
        panels.append(
            keys([(line(2, 8, 26, 8, *_arc_style(keep)), words) for keep, words in meanings.items()])
        )
    return card(panels, f"Orientation of {Chem.MolToSmiles(mol)}, {mode}-mode")


def draw_gating(mol: Chem.Mol | str, matrix: ArrayLike | Tensor, label: str = "gating") -> Drawing:
    """Draw a gating matrix as a heat map, below the molecule with its atoms' numbers.

    Args:
        mol: molecule or SMILES with N atoms.
        matrix: [N, N], rows for receivers and columns for senders; one head and direction of
            :meth:`plstm_graph.conv.GatingMatrix.dense`, or a sum of them.
        label: name of the numbers, for the colour bar.

    Raises:
        InputError: an unreadable or empty molecule, or a matrix that does not fit it or is not finite.
    """
    mol = _molecule(mol)
    count = mol.GetNumAtoms()
    values = _array(matrix, (count, count), "matrix")
    scale = Scale.of(values)
    panels = [depict(mol, indices=True).panel(), _heat_map(_names(mol), values, scale), scale.legend(label)]
    return card(panels, f"Gating matrix of {Chem.MolToSmiles(mol)}")


def draw_influence(
    mol: Chem.Mol | str,
    values: ArrayLike | Tensor,
    atom: int | None = None,
    label: str = "influence",
    indices: bool = False,
) -> Drawing:
    """Paint a value for every atom on the structure, such as a row or a column of the gating matrix.

    Args:
        mol: molecule or SMILES with N atoms.
        values: [N].
        atom: the one whose influence it is, which gets a ring.
        label: name of the numbers, for the colour bar.
        indices: write RDKit's numbers to the atoms.

    Raises:
        InputError: an unreadable or empty molecule, an atom that it does not have, or values that do not
            fit it or are not finite.
    """
    mol = _molecule(mol)
    count = mol.GetNumAtoms()
    painted = _array(values, (count,), "values")
    if atom is not None and not 0 <= atom < count:
        raise InputError(f"atom {atom} is not there: the molecule's atoms are numbered 0 to {count - 1}.")
    scale = Scale.of(painted)
    picture = depict(mol, indices)
    names = _names(mol)
    under = _discs(names, picture, painted, scale)
    panels = [scale.legend(label)]
    if atom is not None:
        x, y = picture.atoms[atom]
        under += _ring(x, y, _DISC + 2)
        panels.append(keys([(_ring(14, 8, 7), f"atom {names[atom]}")]))
    return card([picture.panel(under), *panels], f"{label} on {Chem.MolToSmiles(mol)}")


def draw_contributions(
    mol: Chem.Mol | str,
    atoms: ArrayLike | Tensor,
    bonds: ArrayLike | Tensor,
    label: str = "contribution",
    indices: bool = False,
) -> Drawing:
    """Paint what atoms and bonds contribute to a prediction: red raises it, blue lowers it, white is zero.

    Args:
        mol: molecule or SMILES with N atoms and E bonds.
        atoms: [N], a column of what :func:`plstm_graph.explain.contributions` returns.
        bonds: [E] in RDKit's order, or [2E] for the columns of ``edge_index``, of which every bond has two,
            one after the other; these are added.
        label: name of the numbers, for the colour bar.
        indices: write RDKit's numbers to the atoms.

    Raises:
        InputError: an unreadable or empty molecule, or numbers that do not fit it or are not finite.
    """
    mol = _molecule(mol)
    of_atoms = _array(atoms, (mol.GetNumAtoms(),), "atoms")
    of_bonds = _bond_values(mol, bonds)
    scale = Scale.of(of_atoms, of_bonds)
    picture = depict(mol, indices)
    names = _names(mol)
    under = _bands(mol, names, picture, of_bonds, scale) + _discs(names, picture, of_atoms, scale)
    return card([picture.panel(under), scale.legend(label)], f"{label} of {Chem.MolToSmiles(mol)}")


def _molecule(mol: Chem.Mol | str) -> Chem.Mol:
    if isinstance(mol, str):
        mol = read_smiles(mol)
    if not isinstance(mol, Chem.Mol):
        raise InputError(f"A molecule or a SMILES string was expected, not {type(mol).__name__}.")
    if mol.GetNumAtoms() == 0:
        raise InputError("The molecule has no atoms to draw.")
    return mol


def _array(values: ArrayLike | Tensor, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    """Values as an array of the shape that is due."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers in the shape {list(shape)}.") from error
    if array.shape != shape:
        raise InputError(f"{name} needs the shape {list(shape)} for this molecule, not {list(array.shape)}.")
    if not np.isfinite(array).all():
        index = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise InputError(f"{name}[{index}] is not finite.")
    return array


def _bond_values(mol: Chem.Mol, bonds: ArrayLike | Tensor) -> NDArray[np.float64]:
    """One value for every bond, from one or two for each."""
    count = mol.GetNumBonds()
    if np.shape(bonds) == (2 * count,):
        return _array(bonds, (2 * count,), "bonds").reshape(-1, 2).sum(1)
    return _array(bonds, (count,), "bonds")


def _names(mol: Chem.Mol) -> list[str]:
    return [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in mol.GetAtoms()]


def _arrows(mol: Chem.Mol, dag: LineGraphDAG, picture: Depiction) -> str:
    """An arrow for every edge, from its source to its destination."""
    names, levels = _names(mol), dag.num_levels
    parts = []
    for src, dst, level in zip(dag.src.tolist(), dag.dst.tolist(), dag.level.tolist(), strict=True):
        outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in _arrow(picture, src, dst))
        title = escape(f"{names[src]} → {names[dst]}, level {level}")
        parts.append(
            f"<polygon class='edge' points='{outline}' fill='{level_colour(level, levels)}'>"
            f"<title>{title}</title></polygon>"
        )
    return "".join(parts)


def _arrow(picture: Depiction, src: int, dst: int) -> NDArray[np.float64]:
    """Outline [7, 2] of an arrow between two atoms, its tip in the fourth row."""
    start, end = picture.atoms[src], picture.atoms[dst]
    length = np.linalg.norm(end - start)
    along = (end - start) / length
    across = np.array([-along[1], along[0]])
    tail = 10.0 if picture.labelled[src] else 5.0
    tip = length - (10.0 if picture.labelled[dst] else 4.0)
    neck = max(tip - 13.0, tail)
    outline = [(tail, 3.5), (neck, 3.5), (neck, 9.0), (tip, 0.0), (neck, -9.0), (neck, -3.5), (tail, -3.5)]
    return np.array([start + a * along + b * across for a, b in outline])


def _arcs(dag: LineGraphDAG, picture: Depiction) -> str:
    """An arc around an atom for every line edge, from the edge that comes in to one that goes out."""
    parts = []
    for before, after, kept in zip(dag.pred.tolist(), dag.succ.tolist(), dag.multitree.tolist(), strict=True):
        source, atom, target = int(dag.src[before]), int(dag.dst[before]), int(dag.dst[after])
        colour, more = _arc_style(kept)
        name = "kept" if kept else "pruned"
        parts.append(
            f"<path class='line {name}' d='{_arc(dag, picture, source, atom, target, kept)}' fill='none' "
            f"stroke='{colour}' {more}/>"
        )
    return "".join(parts)


def _arc(dag: LineGraphDAG, picture: Depiction, source: int, atom: int, target: int, kept: bool) -> str:
    """The shorter way around an atom, further out if it crosses bonds or, being pruned, should show."""
    centre = picture.atoms[atom]

    def angle(node: int) -> float:
        x, y = picture.atoms[node] - centre
        return float(np.arctan2(y, x))

    begin = angle(source)
    sweep = (angle(target) - begin + np.pi) % (2 * np.pi) - np.pi
    neighbours = [*dag.src[dag.dst == atom].tolist(), *dag.dst[dag.src == atom].tolist()]
    turns = [((angle(node) - begin) * np.sign(sweep)) % (2 * np.pi) for node in neighbours]
    crossed = sum(1e-3 < turn < abs(sweep) - 1e-3 for turn in turns)
    radius = (15.0 if picture.labelled[atom] else 12.0) + 4.0 * crossed + (0.0 if kept else 7.0)
    ends = [centre + radius * np.array([np.cos(a), np.sin(a)]) for a in (begin, begin + sweep)]
    (x1, y1), (x2, y2) = ends
    return f"M {x1:.1f} {y1:.1f} A {radius:g} {radius:g} 0 0 {int(sweep > 0)} {x2:.1f} {y2:.1f}"


def _arc_style(kept: bool) -> tuple[str, str]:
    """Colour and further attributes of a line edge."""
    if kept:
        return INK, "stroke-width='1.6'"
    return _PRUNED, "stroke-width='2.2' stroke-dasharray='4 3'"


def _discs(names: list[str], picture: Depiction, values: NDArray[np.float64], scale: Scale) -> str:
    return "".join(
        f"<circle class='atom' cx='{x:.1f}' cy='{y:.1f}' r='{_DISC:g}' fill='{scale.colour(value)}'>"
        f"<title>{escape(f'{name}: {number(value)}')}</title></circle>"
        for name, (x, y), value in zip(names, picture.atoms, values, strict=True)
    )


def _bands(
    mol: Chem.Mol, names: list[str], picture: Depiction, values: NDArray[np.float64], scale: Scale
) -> str:
    parts = []
    for bond, value in zip(mol.GetBonds(), values, strict=True):
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        (x1, y1), (x2, y2) = picture.atoms[begin], picture.atoms[end]
        parts.append(
            f"<line class='bond' x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke-width='14' "
            f"stroke='{scale.colour(value)}'>"
            f"<title>{escape(f'{names[begin]}–{names[end]}: {number(value)}')}</title></line>"
        )
    return "".join(parts)


def _ring(x: float, y: float, radius: float) -> str:
    return (
        f"<circle class='ring' cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='none' stroke='{INK}' "
        "stroke-width='2.5'/>"
    )


def _heat_map(names: list[str], values: NDArray[np.float64], scale: Scale) -> Panel:
    """A square for every pair that has a value, receivers from top to bottom, senders from left to right."""
    count = len(names)
    cell = min(max(560 // count, 10), 26)
    size = min(cell - 1.0, FONT - 1.0)
    margin = max(text_width(name, size) for name in names) + 6
    side = cell * count
    left = top = 1.6 * FONT + margin
    width = max(left + side, 2 * text_width("receiver", FONT))
    parts = [
        text(left + side / 2, FONT, "sender", bold=True),
        text(FONT, top + side / 2, "receiver", bold=True, upright=True),
        rectangle(left, top, side, side, PAPER),
    ]
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell + 0.35 * size
        parts.append(text(left - 5, top + middle, name, size=size, anchor="end"))
        parts.append(text(left + middle, top - 5, name, size=size, anchor="start", upright=True))
    for i in range(1, count):
        parts.append(line(left + i * cell, top, left + i * cell, top + side, FAINT, "stroke-width='0.5'"))
        parts.append(line(left, top + i * cell, left + side, top + i * cell, FAINT, "stroke-width='0.5'"))
    for row, column in np.argwhere(values):
        value = values[row, column]
        title = f"{names[row]} receives from {names[column]}: {number(value)}"
        parts.append(
            rectangle(left + column * cell, top + row * cell, cell, cell, scale.colour(value), title=title)
        )
    parts.append(rectangle(left, top, side, side, "none", INK))
    return Panel(width, max(top + side, top + text_width("receiver", FONT)), "".join(parts))
