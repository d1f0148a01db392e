"""RDKit's 2D descriptors by name."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import rdBase
from rdkit.Chem import Descriptors, Mol, MolFromSmiles, MolToSmiles

from plstm_graph.errors import InputError, listed

#: Before the names of RDKit's descriptors, where a network's others are columns of a table.
RDKIT = "rdkit."

_LARGEST = float(np.finfo(np.float32).max)

#: What takes half a second for a peptide of 150 heavy atoms, and a few milliseconds up to so many.
_SLOW, _ATOMS = ("Ipc", "AvgIpc"), 100


def descriptor_names() -> list[str]:
    """Names of the descriptors that the installed RDKit has, some 200."""
    return [name for name, _ in Descriptors.descList]


def named_descriptors(mol: Mol, names: Sequence[str]) -> NDArray[np.float32]:
    """What a network of these ``descriptor_names`` reads beside a molecule, [1, names].

    Raises:
        InputError: Some are columns of a table, or the installed RDKit does not have one.
    """
    columns = [name for name in names if not name.startswith(RDKIT)]
    if columns:
        raise InputError(
            f"The descriptors {listed(columns)} are columns of a table, which a SMILES does not say; set "
            "data.descriptors to all of them, [1, D] in their order."
        )
    return rdkit_descriptors([mol], [name.removeprefix(RDKIT) for name in names])


def rdkit_descriptors(mols: Sequence[Mol], names: Sequence[str]) -> NDArray[np.float32]:
    """Descriptors of molecules, [molecules, names]; NaN where RDKit has none.

    They are of the molecule as its canonical SMILES reads: some, such as partial charges, depend on the order
    of atoms. ``Ipc`` and ``AvgIpc`` of molecules with more than 100 heavy atoms are NaN too: they would take
    longer than all others.

    Args:
        mols: The molecules.
        names: Names among :func:`descriptor_names`.

    Raises:
        InputError: The installed RDKit does not have one of the names.

    Complexity: some 6 ms a molecule of 25 heavy atoms, 60 ms of 150.
    """
    missing = set(names) - set(descriptor_names())
    if missing:
        raise InputError(
            f"The installed RDKit has no descriptor {min(missing)!r}; install that of the training."
        )
    functions = dict(Descriptors.descList)
    with rdBase.BlockLogs():  # they would say several times that a hydrogen is alone
        rows = [[_value(functions[name], name, mol) for name in names] for mol in map(_canonical, mols)]
    values = np.array(rows, np.float64)
    return values.reshape(len(mols), len(names)).clip(-_LARGEST, _LARGEST).astype(np.float32)


def _canonical(mol: Mol) -> Mol:
    return MolFromSmiles(MolToSmiles(mol)) or mol


def _value(function: Callable[[Mol], float], name: str, mol: Mol) -> float:
    if name in _SLOW and mol.GetNumHeavyAtoms() > _ATOMS:
        return math.nan
    try:
        return function(mol)
    except (ArithmeticError, ValueError, RuntimeError):  # atoms or charges that it does not know
        return math.nan
