"""Molecules as graphs; drawings of them are in :mod:`plstm_graph.drawing`."""

from plstm_graph.chem.features import (
    ATOM_FEATURE_DIMS,
    BOND_FEATURE_DIMS,
    mol_to_data,
    mols_to_arrays,
    read_each,
    read_smiles,
    smiles_to_data,
)

__all__ = [
    "ATOM_FEATURE_DIMS",
    "BOND_FEATURE_DIMS",
    "mol_to_data",
    "mols_to_arrays",
    "read_each",
    "read_smiles",
    "smiles_to_data",
]
