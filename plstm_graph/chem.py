"""Molecules as graphs: OGB's atom and bond features, and RDKit's canonical atom ranks."""

import torch
from rdkit import Chem, rdBase
from rdkit.Chem.rdchem import BondStereo, BondType, ChiralType, HybridizationType
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.errors import InputError

# Number of categories per feature column, in OGB's order. The last category of most columns
# means "anything else"; the tables below hold the named categories only.
ATOM_FEATURE_DIMS = (119, 5, 12, 12, 10, 6, 6, 2, 2)
BOND_FEATURE_DIMS = (5, 6, 2)

_CHIRALITY = {
    ChiralType.CHI_UNSPECIFIED: 0,
    ChiralType.CHI_TETRAHEDRAL_CW: 1,
    ChiralType.CHI_TETRAHEDRAL_CCW: 2,
    ChiralType.CHI_OTHER: 3,
}
_HYBRIDIZATION = {
    HybridizationType.SP: 0,
    HybridizationType.SP2: 1,
    HybridizationType.SP3: 2,
    HybridizationType.SP3D: 3,
    HybridizationType.SP3D2: 4,
}
_BOND_TYPE = {
    BondType.SINGLE: 0,
    BondType.DOUBLE: 1,
    BondType.TRIPLE: 2,
    BondType.AROMATIC: 3,
}
_BOND_STEREO = {
    BondStereo.STEREONONE: 0,
    BondStereo.STEREOZ: 1,
    BondStereo.STEREOE: 2,
    BondStereo.STEREOCIS: 3,
    BondStereo.STEREOTRANS: 4,
    BondStereo.STEREOANY: 5,
}


def _atom_features(atom: Chem.Atom) -> tuple[int, ...]:
    number = atom.GetAtomicNum()
    degree = atom.GetTotalDegree()
    charge = atom.GetFormalCharge()
    hydrogens = atom.GetTotalNumHs()
    radicals = atom.GetNumRadicalElectrons()
    return (
        number - 1 if 1 <= number <= 118 else 118,
        _CHIRALITY.get(atom.GetChiralTag(), 4),
        min(degree, 11),
        charge + 5 if -5 <= charge <= 5 else 11,
        min(hydrogens, 9),
        min(radicals, 5),
        _HYBRIDIZATION.get(atom.GetHybridization(), 5),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    )


def _bond_features(bond: Chem.Bond) -> tuple[int, int, int]:
    return (
        _BOND_TYPE.get(bond.GetBondType(), 4),
        # An atropisomer's axis is the one stereo bond OGB has no category for; without the
        # annotation the same bond is STEREONONE.
        _BOND_STEREO.get(bond.GetStereo(), 0),
        int(bond.GetIsConjugated()),
    )


def _as_tensor(rows: list, width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).view(-1, width)


def mol_to_data(mol: Chem.Mol) -> Data:
    """Turn an RDKit molecule into a graph with OGB's features.

    Every bond gives two columns of ``edge_index``, (begin, end) and (end, begin), in RDKit's bond
    order; numbers and order equal those of ``ogb.utils.smiles2graph``.

    Args:
        mol: Sanitised molecule with N atoms and E bonds; may be empty.

    Returns:
        ``Data`` with ``x`` int64 [N, 9], ``edge_index`` int64 [2, 2E], ``edge_attr`` int64 [2E, 3],
        ``canonical_rank`` int64 [N] (a permutation of 0..N-1 that depends on the molecule only, up
        to automorphism, not on the order of its atoms) and ``smiles``, the canonical SMILES.

    Raises:
        InputError: ``mol`` is ``None``, which is how RDKit reports unreadable input.

    Source: Hu et al., Open Graph Benchmark, arXiv 2005.00687 (features).
    """
    if mol is None:
        raise InputError("mol is None: RDKit could not read this molecule.")
    ends: list[tuple[int, int]] = []
    features: list[tuple[int, int, int]] = []
    for bond in mol.GetBonds():
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += [(begin, end), (end, begin)]
        features += [_bond_features(bond)] * 2
    return Data(
        x=_as_tensor([_atom_features(atom) for atom in mol.GetAtoms()], len(ATOM_FEATURE_DIMS)),
        edge_index=_as_tensor(ends, 2).t().contiguous(),
        edge_attr=_as_tensor(features, len(BOND_FEATURE_DIMS)),
        canonical_rank=torch.tensor(list(Chem.CanonicalRankAtoms(mol, breakTies=True)), dtype=torch.long),
        smiles=Chem.MolToSmiles(mol),
    )


def read_smiles(smiles: str) -> Chem.Mol:
    """Parse one SMILES string.

    Args:
        smiles: SMILES of a molecule with at least one atom.

    Returns:
        The sanitised molecule.

    Raises:
        InputError: RDKit cannot read the string, or it is empty or no string at all.
    """
    if not isinstance(smiles, str) or not smiles.strip():
        raise InputError(f"A SMILES string was expected, but got {smiles!r}.")
    with rdBase.BlockLogs():  # the error below says it in one sentence
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise InputError(f"RDKit cannot read the SMILES {smiles!r}; check its syntax and valences.")
    return mol


def smiles_to_data(smiles: str) -> Data:
    """Turn a SMILES string into a graph with OGB's features.

    Args:
        smiles: SMILES of a molecule with at least one atom.

    Returns:
        The graph that :func:`mol_to_data` describes, with ``smiles`` as it was given.

    Raises:
        InputError: RDKit cannot read the string.
    """
    data = mol_to_data(read_smiles(smiles))
    data.smiles = smiles
    return data
