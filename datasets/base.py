"""What all data modules share: table, featurisation, cache, split, loaders."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from rdkit.Chem import Mol
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from datasets.cache import GraphCache, GraphDataset
from datasets.splits import Split, random_split, scaffold_split
from datasets.table import Table
from plstm_graph.chem import mol_to_data
from plstm_graph.dag import LineGraphData, ToLineGraphDAG
from plstm_graph.errors import InputError


class MoleculeDataModule(LightningDataModule):
    """A table of molecules, featurised once and split into training, validation and test.

    A data set is a subclass that sets the class attributes and says how to read its table.
    Nothing is read, written or fetched before ``prepare_data``.

    Args:
        root: Folder of the featurised graphs; made when it is missing.
        split: ``"scaffold"`` (Bemis-Murcko, 80/10/10, no scaffold on both sides) or ``"random"``.
        split_seed: Seed of the random split.
        batch_size: Graphs per batch.
        num_workers: Loader processes; 0 loads in the training process.
        orientation: Ranking that orients the bonds of the line-graph DAGs, which are then part of
            the featurised graphs; ``None`` leaves the DAGs out.
    """

    task: Literal["regression", "classification"] = "regression"
    unit: str = ""

    def __init__(
        self,
        root: Path = Path("data"),
        split: Literal["scaffold", "random"] = "scaffold",
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        orientation: str | None = "center",
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.split = split
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.orientation = orientation

    @property
    @abstractmethod
    def target_names(self) -> list[str]:
        """Names of the targets; known before any file is read."""

    @abstractmethod
    def read_table(self) -> Table:
        """Read the molecules and targets from disk.

        Raises:
            InputError: A file or column is missing or unreadable.
        """

    def featurise(self, mol: Mol) -> Data:
        """Turn one molecule into a graph."""
        return mol_to_data(mol)

    @property
    def num_tasks(self) -> int:
        """Number of targets."""
        return len(self.target_names)

    @property
    def train_targets(self) -> Tensor:
        """Targets of the training rows, float32 [rows, tasks]."""
        return self.dataset.y[self.rows.train]

    @property
    def test_targets(self) -> Tensor:
        """Targets of the test rows, float32 [rows, tasks]."""
        return self.dataset.y[self.rows.test]

    @cached_property
    def _cache(self) -> GraphCache:
        recipe: dict[str, Any] = {"class": type(self).__qualname__, "orientation": self.orientation}
        transforms = [self.featurise]
        if self.orientation is not None:
            transforms.append(ToLineGraphDAG(orientation=self.orientation))
        return GraphCache(self.read_table(), transforms, recipe, self.root, type(self).__name__.lower())

    def prepare_data(self) -> None:
        """Featurise the table into the cache, once."""
        self._cache.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load the featurised graphs and split them."""
        if hasattr(self, "dataset"):
            return
        data_class = Data if self.orientation is None else LineGraphData
        self.dataset: GraphDataset = self._cache.load(data_class)
        self.rows = self._split()
        for part, rows in self.rows._asdict().items():
            if not len(rows):
                raise InputError(
                    f"The {part} part of the {self.split} split of {len(self.dataset)} molecules "
                    "is empty; use more molecules or split='random'."
                )

    def _split(self) -> Split:
        if self.split == "scaffold":
            return scaffold_split(self.dataset.scaffolds)
        return random_split(len(self.dataset), self.split_seed)

    def _loader(self, rows: Tensor | slice, shuffle: bool = False) -> DataLoader:
        return DataLoader(
            self.dataset[rows],
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        """Training rows, shuffled."""
        return self._loader(self.rows.train, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation rows."""
        return self._loader(self.rows.val)

    def test_dataloader(self) -> DataLoader:
        """Test rows."""
        return self._loader(self.rows.test)

    def predict_dataloader(self) -> DataLoader:
        """All rows, in the table's order."""
        return self._loader(torch.arange(len(self.dataset)))
