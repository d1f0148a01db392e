"""MoleculeNet's tables."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from torch_geometric.datasets import MoleculeNet as PyGMoleculeNet

from plstm_graph.datasets.base import MoleculeDataModule
from plstm_graph.datasets.files import fetch, whole_file
from plstm_graph.datasets.stream import CSVTable
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError

_REGRESSION = ("esol", "freesolv", "lipo")


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
        chosen = self._source.schema.names[self._targets_at]
        return [chosen] if isinstance(chosen, str) else chosen

    def read_table(self) -> Table:
        """Read the CSV file."""
        source = self._source
        frame = pa.Table.from_batches(source.chunks(2**16), source.schema).to_pandas()
        return Table.from_frame(frame, frame.columns[self._smiles_at], self.target_names, self.path.name)

    @cached_property
    def _source(self) -> CSVTable:
        if self.download is not None and not self.path.is_file():
            with tempfile.TemporaryDirectory() as unfinished:
                table = pd.read_csv(fetch(self.url, self.download, Path(unfinished)))  # some are compressed
            with whole_file(self.path, newline="") as file:
                table.to_csv(file, index=False)
        if not self.path.is_file():
            raise InputError(
                f"{self.path} is missing; put {self.url} there, name another place by "
                "--data.root, or pass its SHA-256 by --data.download, which fetches it."
            )
        return CSVTable(self.path)
