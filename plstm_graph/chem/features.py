"""Molecules as graphs: OGB's atom and bond features, and RDKit's canonical atom ranks.

A chiral tag says which way an atom's neighbours turn in some order. For RDKit and OGB that is the order of
the SMILES, so that one tag stands for either hand. Here it is the order of canonical ranks.
"""

import re
import textwrap
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import combinations, repeat
from reprlib import Repr
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem.rdchem import BondStereo, BondType, ChiralType, HybridizationType
from torch_geometric.data import Data

from plstm_graph.chem.descriptors import named_descriptors
from plstm_graph.errors import InputError

# Number of categories per feature column, in OGB's order. The last category of most columns
# means "anything else"; the tables below hold the named categories only.
ATOM_FEATURE_DIMS = (119, 5, 12, 12, 10, 6, 6, 2, 2)
BOND_FEATURE_DIMS = (5, 6, 2)

#: Strings in messages; the middle of a long one is left out.
_SHORT = Repr()
_SHORT.maxstring = 150

#: What may stand behind a SMILES and a blank; RDKit takes anything else for a name.
_EXTENSION = re.compile(r"\|[^|]*\|")

#: What is often taken for a SMILES: how to tell it, what it is, and what to do.
_NO_SMILES = (
    (r"^InChI=", "an InChI", "convert it with Chem.MolFromInchi and Chem.MolToSmiles"),
    (r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$", "an InChIKey", "look its SMILES up, no structure follows from it"),
    (r"^(PEPTIDE|RNA|CHEM|BLOB)\d+\{", "HELM", "convert it with Chem.MolFromHELM and Chem.MolToSmiles"),
    (r"V[23]000|M  END", "a mol block", "convert it with Chem.MolFromMolBlock and Chem.MolToSmiles"),
    (r"^\S*(?<!-)>|>>", "a reaction", "give one of its molecules"),  # -> is a dative bond
)

_SYNTAX = re.compile(r"SMILES Parse Error: (.+?)(?: while parsing| for input|$)", re.MULTILINE)
_POSITION = re.compile(r"check for mistakes around position \d+")

#: Numbers of elements that have a hybridisation in every sanitised molecule, as some metals have not.
_HYBRIDIZED = frozenset((6, 7, 8, 9, 15, 16, 17, 35, 53))

_Column = NDArray[np.int64]


def _categories(named: dict[Any, int], other: int) -> NDArray[np.int64]:
    """A table from the values of one of RDKit's enumerations to categories."""
    table = np.full(max(type(next(iter(named))).values) + 1, other)
    table[[int(value) for value in named]] = list(named.values())
    return table


_CHIRALITY = _categories(
    {
        ChiralType.CHI_UNSPECIFIED: 0,
        ChiralType.CHI_TETRAHEDRAL_CW: 1,
        ChiralType.CHI_TETRAHEDRAL_CCW: 2,
        ChiralType.CHI_OTHER: 3,
    },
    other=4,
)
_HYBRIDIZATION = _categories(
    {
        HybridizationType.SP: 0,
        HybridizationType.SP2: 1,
        HybridizationType.SP3: 2,
        HybridizationType.SP3D: 3,
        HybridizationType.SP3D2: 4,
    },
    other=5,
)
_BOND_TYPE = _categories(
    {BondType.SINGLE: 0, BondType.DOUBLE: 1, BondType.TRIPLE: 2, BondType.AROMATIC: 3}, other=4
)
_BOND_STEREO = _categories(
    {
        BondStereo.STEREONONE: 0,
        BondStereo.STEREOZ: 1,
        BondStereo.STEREOE: 2,
        BondStereo.STEREOCIS: 3,
        BondStereo.STEREOTRANS: 4,
        BondStereo.STEREOANY: 5,
    },
    # An atropisomer's axis is the one stereo bond OGB has no category for; without the annotation
    # the same bond is STEREONONE.
    other=0,
)


_ATOM_VALUES: tuple[Callable[[Any], int], ...] = (
    Chem.Atom.GetAtomicNum,
    Chem.Atom.GetChiralTag,
    Chem.Atom.GetTotalDegree,
    Chem.Atom.GetFormalCharge,
    Chem.Atom.GetTotalNumHs,
    Chem.Atom.GetNumRadicalElectrons,
    Chem.Atom.GetHybridization,
    Chem.Atom.GetIsAromatic,
    Chem.Atom.IsInRing,
)
_BOND_VALUES: tuple[Callable[[Any], int], ...] = (
    Chem.Bond.GetBeginAtomIdx,
    Chem.Bond.GetEndAtomIdx,
    Chem.Bond.GetBondType,
    Chem.Bond.GetStereo,
    Chem.Bond.GetIsConjugated,
)

#: The column of the chiral tags, and the opposite of those tags that depend on an order.
CHIRAL_TAG = _ATOM_VALUES.index(Chem.Atom.GetChiralTag)
_HANDS = {
    int(ChiralType.CHI_TETRAHEDRAL_CW): int(ChiralType.CHI_TETRAHEDRAL_CCW),
    int(ChiralType.CHI_TETRAHEDRAL_CCW): int(ChiralType.CHI_TETRAHEDRAL_CW),
}

#: Those that are 0 where there is no stereochemistry.
_STEREO_VALUES = (Chem.Atom.GetChiralTag, Chem.Bond.GetStereo)

#: What a SMILES with stereochemistry has one of; the last begins an extension, which can tell of some too.
_STEREO_MARKS = frozenset("@/\\|")


def may_have_stereo(smiles: str) -> bool:
    """Return whether a SMILES may be of a molecule with stereochemistry."""
    return not _STEREO_MARKS.isdisjoint(smiles)


def mols_to_arrays(
    mols: Sequence[Chem.Mol], ranks: bool = True, stereo: Sequence[bool] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Featurise molecules at once, which is quicker than one by one.

    Args:
        mols: Sanitised molecules, N atoms and E bonds in all.
        ranks: Whether to rank the atoms, which takes a quarter as long as reading the SMILES.
        stereo: For every molecule whether it may have stereochemistry, to look for which takes as long; by
            default all may.

    Returns:
        The arrays that :func:`mol_to_data` describes, the molecules one after the other and each numbered
        from 0: ``x`` [N, 9], ``edge_index`` [2, 2E], ``edge_attr`` [2E, 3] and, with ``ranks``,
        ``canonical_rank`` [N]; and for every molecule ``nodes`` and ``columns``, how many it has of each.
    """
    of_atoms = [array("q") for _ in _ATOM_VALUES]
    of_bonds = [array("q") for _ in _BOND_VALUES]
    ranked = array("q")
    # One by one: many of RDKit's objects at a time keep the garbage collector busy.
    for mol, may in zip(mols, repeat(True) if stereo is None else stereo, strict=stereo is not None):
        # RDKit's own iterators ask for the molecule's size at every step.
        atoms = [mol.GetAtomWithIdx(number) for number in range(mol.GetNumAtoms())]
        bonds = [mol.GetBondWithIdx(number) for number in range(mol.GetNumBonds())]
        for columns, values, parts in ((of_atoms, _ATOM_VALUES, atoms), (of_bonds, _BOND_VALUES, bonds)):
            for column, value in zip(columns, values, strict=True):
                known = value in _STEREO_VALUES and not may
                column.extend(bytes(len(parts)) if known else map(value, parts))
        tags = of_atoms[CHIRAL_TAG]
        places = enumerate(atoms, len(tags) - len(atoms)) if may else ()
        chiral = [(place, atom) for place, atom in places if tags[place] in _HANDS]
        if ranks or chiral:
            order = Chem.CanonicalRankAtoms(mol, breakTies=True)
        for place, atom in chiral:
            if _turns(atom, order):
                tags[place] = _HANDS[tags[place]]
        if ranks:
            ranked.extend(order)
    begin, end, *bond_values = (np.array(column) for column in of_bonds)
    arrays = {
        "nodes": np.array([mol.GetNumAtoms() for mol in mols], np.int64),
        "columns": np.array([2 * mol.GetNumBonds() for mol in mols], np.int64),
        "x": _atom_features(*(np.array(column) for column in of_atoms)),
        # Two columns for every bond: (begin, end), (end, begin).
        "edge_index": np.stack([begin, end, end, begin], axis=1).reshape(-1, 2).T.copy(),
        "edge_attr": _bond_features(*bond_values).repeat(2, axis=0),
    }
    return arrays | ({"canonical_rank": np.array(ranked)} if ranks else {})


def _turns(atom: Chem.Atom, order: Sequence[int]) -> bool:
    """Return if neighbours in the order of ranks turn the other way than in the order of the atom's bonds."""
    ranks = [order[bond.GetOtherAtomIdx(atom.GetIdx())] for bond in atom.GetBonds()]
    return sum(one > other for one, other in combinations(ranks, 2)) % 2 == 1


def _atom_features(
    number: _Column,
    chirality: _Column,
    degree: _Column,
    charge: _Column,
    hydrogens: _Column,
    radicals: _Column,
    hybridization: _Column,
    aromatic: _Column,
    in_ring: _Column,
) -> NDArray[np.int64]:
    columns = (
        np.where((number >= 1) & (number <= 118), number - 1, 118),
        _CHIRALITY[chirality],
        np.minimum(degree, 11),
        np.where(abs(charge) <= 5, charge + 5, 11),
        np.minimum(hydrogens, 9),
        np.minimum(radicals, 5),
        _HYBRIDIZATION[hybridization],
        aromatic,
        in_ring,
    )
    return np.stack(columns, axis=1)


def _bond_features(kind: _Column, stereo: _Column, conjugated: _Column) -> NDArray[np.int64]:
    return np.stack([_BOND_TYPE[kind], _BOND_STEREO[stereo], conjugated], axis=1)


def mol_to_data(mol: Chem.Mol) -> Data:
    """Turn an RDKit molecule into a graph with OGB's features.

    Every bond gives two columns of ``edge_index``, (begin, end) and (end, begin), in RDKit's bond
    order; numbers and order equal those of ``ogb.utils.smiles2graph``, but for chiral tags: they are of the
    neighbours in the order of ``canonical_rank``, not of the SMILES, and tell enantiomers apart.

    Args:
        mol: Sanitised molecule with N atoms and E bonds; may be empty.

    Returns:
        ``Data`` with ``x`` int64 [N, 9], ``edge_index`` int64 [2, 2E], ``edge_attr`` int64 [2E, 3],
        ``canonical_rank`` int64 [N] (a permutation of 0..N-1 that depends on the molecule only, up
        to automorphism, not on the order of its atoms) and ``smiles``, the canonical SMILES.

    Raises:
        InputError: ``mol`` is ``None``, which is how RDKit reports unreadable input, or not sanitised.

    Source: Hu et al., Open Graph Benchmark, arXiv 2005.00687 (features).
    """
    if mol is None:
        raise InputError("mol is None: RDKit could not read this molecule.")
    if not any(map(_lacks_hybridization, mol.GetAtoms())):
        # RDKit raises it where hydrogens have not been counted or rings not found.
        with rdBase.BlockLogs(), suppress(RuntimeError):
            return _to_data(mol, Chem.MolToSmiles(mol))
    raise InputError("The molecule is not sanitised; call Chem.SanitizeMol on it first.")


def _lacks_hybridization(atom: Chem.Atom) -> bool:
    return atom.GetHybridization() == HybridizationType.UNSPECIFIED and atom.GetAtomicNum() in _HYBRIDIZED


def _to_data(mol: Chem.Mol, smiles: str) -> Data:
    arrays = mols_to_arrays([mol])
    keys = ("x", "edge_index", "edge_attr", "canonical_rank")
    return Data(**{key: torch.from_numpy(arrays[key]) for key in keys}, smiles=smiles)


def read_smiles(smiles: object) -> Chem.Mol:
    """Parse one SMILES string.

    Args:
        smiles: SMILES of a molecule with at least one atom, alone or with a CXSMILES extension, between
            blanks or not.

    Returns:
        The sanitised molecule.

    Raises:
        InputError: RDKit cannot read the string, or it is empty, holds more than a SMILES or is no string at
            all.
    """
    # RDKit drops what stands behind a blank, and characters that are not printable ASCII at either end.
    if not isinstance(smiles, str) or not (parts := smiles.split(maxsplit=1)):
        raise InputError(f"A SMILES string was expected, but got {_SHORT.repr(smiles)}.")
    text, behind = parts[0], "".join(parts[1:]).rstrip()
    if text.isascii() and text.isprintable() and (not behind or _EXTENSION.fullmatch(behind)):
        with rdBase.BlockLogs():  # the error below says it in one sentence
            mol = Chem.MolFromSmiles(f"{text} {behind}" if behind else text)
        if mol is not None and mol.GetNumAtoms():
            return mol
    raise InputError(_complaint(smiles, text, behind))


def read_each(smiles: Iterable[object]) -> dict[int, Chem.Mol]:
    """Molecules by the places of their SMILES, without those that :func:`read_smiles` refuses."""
    mols = {}
    for place, text in enumerate(smiles):
        with suppress(InputError):
            mols[place] = read_smiles(text)
    return mols


def _complaint(smiles: str, text: str, behind: str) -> str:
    """A sentence on what is wrong with a string that begins with one text and has another behind it."""
    shown = _SHORT.repr(smiles)
    for pattern, kind, remedy in _NO_SMILES:
        if re.search(pattern, smiles.strip()):
            return f"{shown} looks like {kind}, not a SMILES; {remedy}."
    foreign = next((mark for mark in text if not mark.isascii() or not mark.isprintable()), None)
    if foreign is not None:
        name = unicodedata.name(foreign, "not printable")
        reason = f"it holds {foreign!r} ({name})"
    elif behind and not _EXTENSION.fullmatch(behind):
        return f"The SMILES in {shown} has {_SHORT.repr(behind)} behind it; give the SMILES alone."
    else:
        reason = _reason(text) or ("check its extension" if behind else "check its syntax and valences")
    return f"RDKit cannot read the SMILES {shown}: {reason}."


def _reason(text: str) -> str:
    """What RDKit says of a SMILES that it cannot read, in one line; nothing if it says nothing."""
    capture = getattr(rdBase, "CaptureErrorLog", rdBase.BlockLogs)  # which RDKit before 2026.03 lacks
    with rdBase.BlockLogs(), capture() as log:
        mol = Chem.MolFromSmiles(text, sanitize=False)
        problems = () if mol is None else Chem.DetectChemistryProblems(mol)
        words = [problem.Message() for problem in problems[:1]]
    if mol is None:
        said = getattr(log, "messages", "")
        words = _SYNTAX.findall(said)[:1] + _POSITION.findall(said)[:1]
    return textwrap.shorten("; ".join(words).replace("# ", ""), 120, placeholder=" ...")


def smiles_to_data(smiles: str, descriptors: Sequence[str] | None = None) -> Data:
    """Turn a SMILES string into a graph with OGB's features.

    Args:
        smiles: SMILES of a molecule with at least one atom.
        descriptors: ``descriptor_names`` of a :class:`~plstm_graph.predictor.Predictor` that is to read it.

    Returns:
        The graph that :func:`mol_to_data` describes, with ``smiles`` as it was given, and ``descriptors``
        float32 [1, D] if names were given.

    Raises:
        InputError: RDKit cannot read the string, or descriptors are not RDKit's.
    """
    mol = read_smiles(smiles)
    data = _to_data(mol, smiles)
    if descriptors:
        data.descriptors = torch.from_numpy(named_descriptors(mol, descriptors))
    return data
