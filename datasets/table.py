"""The table a data set starts from: SMILES and targets, row by row."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rdkit import Chem

from plstm_graph.chem import read_smiles
from plstm_graph.errors import InputError


@dataclass(frozen=True)
class Table:
    """Molecules with their targets; row i of the one belongs to row i of the other.

    Args:
        smiles: One SMILES string per row.
        targets: float32 [rows, tasks]; NaN where a value is missing.
    """

    smiles: list[str]
    targets: NDArray[np.float32]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, smiles: str, targets: list[str]) -> "Table":
        """Take the SMILES column and the target columns of a data frame.

        Raises:
            InputError: A column is missing, or a target is neither a number nor empty.
        """
        missing = [column for column in (smiles, *targets) if column not in frame.columns]
        if missing:
            raise InputError(
                f"The table has no column {', '.join(map(repr, missing))}; "
                f"it has {', '.join(map(repr, frame.columns))}."
            )
        try:
            values = frame[targets].to_numpy(dtype=np.float32, copy=True)
        except ValueError as error:
            raise InputError(f"A target is not a number: {error}.") from error
        return cls(frame[smiles].tolist(), values)

    def molecules(self) -> list[Chem.Mol]:
        """Parse all rows.

        Raises:
            InputError: Some rows cannot be read; the message lists every one of them.
        """
        mols = []
        unreadable = []
        for row, smiles in enumerate(self.smiles):
            try:
                mols.append(read_smiles(smiles))
            except InputError:
                unreadable.append(f"row {row}: {smiles!r}")
        if unreadable:
            raise InputError(
                f"{len(unreadable)} of {len(self.smiles)} SMILES cannot be read, correct or remove "
                f"them (rows count from 0): {'; '.join(unreadable)}."
            )
        return mols
