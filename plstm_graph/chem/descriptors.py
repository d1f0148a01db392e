"""RDKit's 2D descriptors by name."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Descriptors, Mol

from plstm_graph.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)


def descriptor_names() -> list[str]:
    """Names of the descriptors that the installed RDKit has, some 200."""
    return [name for name, _ in Descriptors.descList]


def rdkit_descriptors(mols: Sequence[Mol], names: Sequence[str]) -> NDArray[np.float32]:
    """Descriptors of molecules, [molecules, names]; NaN where RDKit has none.

    Args:
        mols: The molecules.
        names: Names among :func:`descriptor_names`.

    Raises:
        InputError: The installed RDKit does not have one of the names.

    Complexity: some 5 ms a molecule.
    """
    missing = set(names) - set(descriptor_names())
    if missing:
        raise InputError(
            f"The installed RDKit has no descriptor {min(missing)!r}; install that of the training."
        )
    found = [Descriptors.CalcMolDescriptors(mol, missingVal=math.nan, silent=True) for mol in mols]
    values = np.array([[row[name] for name in names] for row in found], np.float64)
    return values.reshape(len(mols), len(names)).clip(-_LARGEST, _LARGEST).astype(np.float32)
