"""Molecules from CSV files: MoleculeNet's and your own."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch_geometric.datasets import MoleculeNet as PyGMoleculeNet

from plstm_graph.datasets.base import MoleculeDataModule
from plstm_graph.datasets.files import fetch, whole_file
from plstm_graph.datasets.splits import Split
from plstm_graph.datasets.table import Table, read_csv
from plstm_graph.errors import InputError

_REGRESSION = ("esol", "freesolv", "lipo")
_PARTS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


class MoleculeNet(MoleculeDataModule):
    """One of MoleculeNet's tables with OGB's features, split by scaffold.

    Args:
        dataset_name: PyG's name, such as ``"esol"``, ``"tox21"`` or ``"hiv"``.
        root: Folder that holds ``esol/raw/delaney-processed.csv`` and so on, as PyG lays them out.
        download: SHA-256 of the table as it is served, to fetch it if it is missing.
        unreadable: See :class:`MoleculeDataModule`; recent RDKit cannot read some SMILES of HIV and Tox21.
        **kwargs: Arguments of :class:`MoleculeDataModule`.

    Source: Wu et al., Chem. Sci. 9 (2018) 513.
    """

    def __init__(
        self,
        dataset_name: str = "esol",
        root: Path = Path("data/moleculenet"),
        download: str | None = None,
        unreadable: Literal["refuse", "skip"] = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable=unreadable, **kwargs)
        self.dataset_name = dataset_name.lower()
        if self.dataset_name not in PyGMoleculeNet.names:
            names = ", ".join(PyGMoleculeNet.names)
            raise InputError(f"{dataset_name!r} is none of MoleculeNet's tables: {names}.")
        _, url, stem, self._smiles_at, self._targets_at = PyGMoleculeNet.names[self.dataset_name]
        self.url = PyGMoleculeNet.url.format(url)
        self.path = Path(root) / self.dataset_name / "raw" / f"{stem}.csv"
        self.download = download
        self.task = "regression" if self.dataset_name in _REGRESSION else "classification"

    @property
    def name(self) -> str:
        """The table's name."""
        return self.dataset_name

    @property
    def metric(self) -> str:
        """MoleculeNet's: average precision for MUV and PCBA, whose hits are rare."""
        return "average_precision" if self.dataset_name in ("muv", "pcba") else super().metric

    @cached_property
    def target_names(self) -> list[str]:
        """Columns of the table."""
        columns = list(self._frame(nrows=0).columns)
        chosen = columns[self._targets_at]
        return [chosen] if isinstance(chosen, str) else chosen

    def read_table(self) -> Table:
        """Read the CSV file."""
        frame = self._frame()
        return Table.from_frame(frame, frame.columns[self._smiles_at], self.target_names)

    def _frame(self, nrows: int | None = None) -> pd.DataFrame:
        if self.download is not None and not self.path.is_file():
            with tempfile.TemporaryDirectory() as unfinished:
                table = pd.read_csv(fetch(self.url, self.download, Path(unfinished)))  # some are compressed
            with whole_file(self.path, newline="") as file:
                table.to_csv(file, index=False)
        where = (
            f"put {self.url} there, pass --data.root, or have it fetched with --data.download and its SHA-256"
        )
        return read_csv(self.path, where, nrows=nrows)


class CSV(MoleculeDataModule):
    """Molecules of your own.

    Args:
        path: CSV file with a header, compressed or not.
        smiles_column: Column of the SMILES.
        target_columns: Columns of the targets; empty cells are missing values.
        task: ``"classification"`` expects 0 and 1.
        split: ``"scaffold"``, ``"random"``, or the name of a column with ``train``, ``val`` and ``test``.
        unit: Unit of the targets, for tables and axes.
        unreadable: See :class:`MoleculeDataModule`.
        **kwargs: Arguments of :class:`MoleculeDataModule`.
    """

    def __init__(
        self,
        path: Path,
        target_columns: list[str],
        smiles_column: str = "smiles",
        task: Literal["regression", "classification"] = "regression",
        unit: str = "",
        unreadable: Literal["refuse", "skip"] = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable=unreadable, **kwargs)
        if not target_columns:
            raise InputError("target_columns is empty; name at least one column.")
        self.path = Path(path)
        self.target_columns = target_columns
        self.smiles_column = smiles_column
        self.task = task
        self.unit = unit

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name.partition(".")[0]

    @property
    def target_names(self) -> list[str]:
        """The columns that were named."""
        return self.target_columns

    def read_table(self) -> Table:
        """Read the CSV file."""
        table = Table.from_frame(self._frame, self.smiles_column, self.target_columns)
        if self.task == "classification":
            _check_classes(table, self.target_columns)
        return table

    def split_rows(self) -> Split:
        """Split by scaffold, at random, or as a column says."""
        frame = self._frame
        if self.split not in frame.columns:
            if self.split in ("scaffold", "random"):
                return super().split_rows()
            raise InputError(
                f"split must be 'scaffold', 'random' or a column of {self.path}, not {self.split!r}."
            )
        words = frame[self.split].astype(str).str.strip().str.lower()
        unknown = words[~words.isin(_PARTS)]
        if len(unknown):
            row = unknown.index[0]
            raise InputError(f"Row {row} of column {self.split!r} is {words[row]!r}, not train, val or test.")
        part = torch.tensor(words.map(_PARTS).to_numpy())[self.dataset.tensors["row"]]
        return Split(*((part == i).nonzero().squeeze(1) for i in range(3)))

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return read_csv(self.path, "pass the path of your table with --data.path")


def _check_classes(table: Table, columns: list[str]) -> None:
    for i, column in enumerate(columns):
        values = table.targets[:, i]
        wrong = [row for row, value in enumerate(values) if value == value and value not in (0, 1)]
        if wrong:
            raise InputError(
                f"Row {wrong[0]} of column {column!r} is {values[wrong[0]]:g}; classes are 0 and 1. For "
                "continuous values pass --data.task regression."
            )
