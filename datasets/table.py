"""The table a data set starts from: SMILES and targets, row by row."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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


def read_csv(path: Path, where: str, nrows: int | None = None) -> pd.DataFrame:
    """Read a CSV file, compressed or not.

    Args:
        path: The file.
        where: Remedy if it is missing, a sentence without its full stop.
        nrows: Rows to read; by default all.

    Raises:
        InputError: The file is missing or no table.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {where}.")
    try:
        return pd.read_csv(path, nrows=nrows)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as a CSV table: {error}.") from error
