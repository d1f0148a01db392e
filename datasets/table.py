"""The table a data set starts from: SMILES and targets, row by row."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plstm_graph.datasets.targets import columns_of, read_targets
from plstm_graph.errors import InputError, listed


@dataclass(frozen=True)
class Table:
    """Molecules with their targets; row i of the one belongs to row i of the other.

    Args:
        smiles: One SMILES string per row.
        targets: float32 [rows, tasks]; NaN where a value is missing.
        columns: Of descriptors, float32 [rows, columns], likewise; by default there are none.
    """

    smiles: list[str]
    targets: NDArray[np.float32]
    columns: NDArray[np.float32] = None  # type: ignore[assignment]  # never after what follows

    def __post_init__(self) -> None:
        if self.columns is None:
            object.__setattr__(self, "columns", np.empty((len(self.smiles), 0), np.float32))

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, smiles: str, targets: list[str], name: str) -> "Table":
        """Take the SMILES column and the target columns of a data frame.

        Args:
            frame: The table.
            smiles: Name of the column.
            targets: Names of the columns.
            name: Of the table, for messages.

        Raises:
            InputError: A column is missing, or a target is neither a finite number nor empty.
        """
        check_there([smiles, *targets], list(frame.columns), name)
        columns = columns_of({target: frame[target].tolist() for target in targets}, decimal_commas=False)
        return cls(frame[smiles].tolist(), read_targets(columns, "regression", name).values)


def check_there(wanted: list[str], columns: list[str], name: object) -> None:
    """Refuse a table that lacks columns.

    Raises:
        InputError: It names those that are missing, and those that are there.
    """
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise InputError(f"{name} has no column {listed(missing)}; it has {listed(columns, 40)}.")
