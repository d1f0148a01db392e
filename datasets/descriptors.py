"""Descriptors of molecules: numbers in columns of their table, and RDKit's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rdkit.Chem import Mol

from plstm_graph.chem.descriptors import RDKIT, descriptor_names, rdkit_descriptors
from plstm_graph.datasets.targets import Column

_LARGEST = float(np.finfo(np.float32).max)


def rdkit_names(wanted: str | None) -> list[str]:
    """Names of RDKit's descriptors if they are wanted, which ``"rdkit"`` says."""
    return [f"{RDKIT}{name}" for name in descriptor_names()] if wanted else []


def table_columns(names: Sequence[str]) -> list[str]:
    """The descriptors that are columns of the table."""
    return [name for name in names if not name.startswith(RDKIT)]


def columns_of(batch: pa.RecordBatch, names: Sequence[str]) -> dict[str, list[Any]]:
    """Cells of these columns of a table."""
    return {name: batch[name].to_pylist() for name in names}


def read_columns(cells: Mapping[str, Sequence[Any]], rows: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Numbers of columns [rows, columns], NaN where missing, and why rows have a cell that is none.

    Args:
        cells: Cells by column.
        rows: Number of rows.
    """
    values, reasons = np.empty((rows, len(cells)), np.float32), {}
    for number, (name, column) in enumerate(cells.items()):
        read = Column(name, column)
        good = ~read.known | (np.abs(read.numbers) <= _LARGEST)  # NaN is no number, and compares so
        for row in np.flatnonzero(~good).tolist():
            reasons.setdefault(row, f"column {name!r} is {read.text[row]!r}, not a number of float32")
        values[:, number] = np.where(good, read.numbers, np.nan)
    return values, reasons


def with_rdkit(values: NDArray[np.float32], mols: Sequence[Mol], names: Sequence[str]) -> NDArray[np.float32]:
    """Numbers of columns [molecules, columns] and behind them RDKit's descriptors among the names."""
    wanted = [name.removeprefix(RDKIT) for name in names if name.startswith(RDKIT)]
    return np.concatenate([values, rdkit_descriptors(mols, wanted)], 1) if wanted else values
