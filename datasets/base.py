"""Base classes of the data modules: cache, split, loaders."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torch_geometric.data import Batch

from plstm_graph.datasets.cache import fingerprint, load_graphs, save_graphs, save_unreadable
from plstm_graph.datasets.descriptors import rdkit_names
from plstm_graph.datasets.featurise import featurise
from plstm_graph.datasets.graphs import PackedGraphs, keep_batch
from plstm_graph.datasets.seeds import seed_of
from plstm_graph.datasets.splits import Split, random_split, scaffold_split
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError
from plstm_graph.metrics import SELECTING
from plstm_graph.ranges import MANY, WIDE, check_range
from plstm_graph.task import Task

#: Training graphs that are cut at once where no loader does it.
_SLAB = 1024


def _digest(tensors: Iterable[Tensor]) -> str:
    """Hash of shapes, types and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class Shuffled(DistributedSampler):
    """Orders that follow from the run's seed and the epoch, so that a resumed run goes on as it would have.

    All processes shuffle alike, and each takes its share.
    """

    def set_epoch(self, epoch: int) -> None:
        """Take an epoch's order."""
        # torch's own adds the epoch to the seed, so that runs of neighbouring seeds would share orders.
        self.seed = seed_of("order", epoch)


class GraphDataModule(LightningDataModule, ABC):
    """Graphs, prepared once and split into training, validation and test.

    Nothing is read, written or fetched before ``prepare_data``.

    Args:
        cache: Folder of the prepared graphs; made when it is missing.
        batch_size: Graphs per batch.
        num_workers: Loader processes; 0 cuts batches in the training process.
        orientation: Ranking that orients the bonds of the line-graph DAGs, which are then part of
            the prepared graphs; ``None`` leaves the DAGs out.
        walk_length: Number of random-walk encodings that the prepared graphs have; 0 for none.

    Raises:
        InputError: A number that is out of its range.
    """

    task: Task = "regression"
    unit: str = ""
    in_channels: int | None = None  #: columns of the node features; None for OGB's atom and bond features
    may_lack_test: bool = False  #: whether a split may have no test rows: one that somebody has chosen
    edge_dim: int | None = None  #: columns of the edge features; None for none, or for OGB's

    def __init__(
        self,
        cache: Path = Path("data/cache"),
        batch_size: int = 32,
        num_workers: int = 0,
        orientation: str | None = "center",
        walk_length: int = 0,
    ) -> None:
        super().__init__()
        check_range(1, WIDE, batch_size=batch_size)
        check_range(0, MANY, num_workers=num_workers, walk_length=walk_length)
        self.cache = Path(cache)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.orientation = orientation
        self.walk_length = walk_length

    @property
    @abstractmethod
    def target_names(self) -> list[str]:
        """Names of the targets, or of the classes of the one target."""

    @property
    def class_names(self) -> list[list[str]] | None:
        """Names of the two classes of each target of a classification, if they have some."""
        return None

    @property
    def metric(self) -> str:
        """Score that selects checkpoints."""
        return SELECTING[self.task]

    @property
    def num_tasks(self) -> int:
        """Number of values to predict for every graph: one a target or class."""
        return len(self.target_names)

    @property
    def descriptor_names(self) -> list[str]:
        """Names of what a network reads beside every graph."""
        return []

    @property
    def name(self) -> str:
        """Start of the prepared file's name."""
        return type(self).__name__.lower()

    def describe(self) -> list[str]:
        """Sentences on what the data were understood to be; after :meth:`setup`."""
        return []

    @property
    def subsets(self) -> dict[str, Tensor]:
        """Graphs that are scored on their own too: for every name a mask of ``dataset``, bool [graphs].

        After :meth:`setup`; ``subsets[name][rows.test]`` masks the test rows.
        """
        return {}

    @property
    def train_targets(self) -> Tensor:
        """Targets of the training rows, float32 [rows, tasks]."""
        return self.dataset.tensors["y"][self.rows.train]

    @property
    def train_graphs(self) -> Iterator[Batch]:
        """The training graphs in the order of their rows, some at a time."""
        return map(self.dataset.__getitems__, self.rows.train.split(_SLAB))

    @property
    def train_descriptors(self) -> Tensor | None:
        """Descriptors of the training graphs, float32 [rows, descriptors], if they have some."""
        values = self.dataset.tensors.get("descriptors")
        return None if values is None else values[self.rows.train]

    @property
    def train_rows(self) -> Tensor | None:
        """Where the training graphs stand in their table, int64 [rows], if there is one."""
        rows = self.dataset.tensors.get("row")
        return None if rows is None else rows[self.rows.train]

    @property
    def val_targets(self) -> Tensor:
        """Targets of the validation rows, float32 [rows, tasks]."""
        return self.dataset.tensors["y"][self.rows.val]

    @property
    def test_targets(self) -> Tensor:
        """Targets of the test rows, float32 [rows, tasks]."""
        return self.dataset.tensors["y"][self.rows.test]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hashes of the graphs, their targets and their split, by which a resumed run knows its data.

        They depend neither on where the data lie nor on what is prepared of the graphs.
        """
        tensors = self.dataset.tensors
        graphs = [self.dataset.counts["nodes"], self.dataset.counts["columns"]]
        graphs += [tensors[key] for key in ("x", "edge_index", "edge_attr") if key in tensors]
        parts = {"graphs": graphs, "targets": [tensors["y"]], "rows of the split": list(self.rows)}
        if "descriptors" in tensors:
            parts["descriptors"] = [tensors["descriptors"]]
        return {name: _digest(part) for name, part in parts.items()}

    @abstractmethod
    def contents(self) -> Iterable[bytes]:
        """Everything that is read from disk, for the prepared file's name."""

    @abstractmethod
    def make_graphs(self) -> PackedGraphs:
        """Make the graphs, without DAGs and random-walk encodings."""

    @abstractmethod
    def split_rows(self) -> Split:
        """Split the graphs of ``dataset``."""

    @cached_property
    def prepared_file(self) -> Path:
        """File of the graphs, whose name changes with everything that shapes them."""
        recipe: dict[str, Any] = {
            "class": type(self).__qualname__,
            "orientation": self.orientation,
            "walk_length": self.walk_length,
        }
        return self.cache / f"{self.name}-{fingerprint(recipe, self.contents())}.pt"

    def prepare_data(self) -> None:
        """Make the graphs and write them to the cache, once."""
        if self.prepared_file.is_file():
            return
        graphs = self.make_graphs().prepared(self.orientation, self.walk_length)
        save_graphs(graphs, self.prepared_file)

    def setup(self, stage: str | None = None) -> None:
        """Load the graphs and split them; without test rows for ``"fit"`` and ``"validate"`` at most."""
        if not hasattr(self, "dataset"):
            self.dataset = load_graphs(self.prepared_file)
            self.rows = self.split_rows()
        spared = "test" if self.may_lack_test and stage in ("fit", "validate") else ""
        for part, rows in self.rows._asdict().items():
            if not len(rows) and part != spared:
                why = self._why_empty()
                raise InputError(
                    f"The {part} part of the split of {len(self.dataset)} graphs is empty{why}; use more "
                    "graphs or another split, such as random."
                )

    def _why_empty(self) -> str:
        """Why the split may lack a part, as the rest of a sentence."""
        return ""

    def _loader(self, rows: Tensor, shuffle: bool = False) -> DataLoader:
        graphs = Subset(self.dataset, rows.tolist())
        # With numbers of its own, an iterator's start takes nothing from torch's.
        generator = torch.Generator().manual_seed(seed_of("loaders", self._epoch, self._share[1]))
        return DataLoader(
            graphs,
            batch_size=self.batch_size,
            sampler=self._shuffled(graphs) if shuffle else self._in_order(graphs),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=keep_batch,
            generator=generator,
        )

    @property
    def _share(self) -> tuple[int, int]:
        """Number of processes that share the graphs, and the number of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    @property
    def _epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch

    def _in_order(self, graphs: Subset) -> DistributedSampler | None:
        """Each process its share, every graph once; torch's own sampler repeats some to even shares out."""
        replicas, rank = self._share
        return UnrepeatedDistributedSampler(graphs, replicas, rank, shuffle=False) if replicas > 1 else None

    def _shuffled(self, graphs: Subset) -> Shuffled:
        """The order of this epoch; a trainer sets those that follow."""
        replicas, rank = self._share
        sampler = Shuffled(graphs, replicas, rank)
        sampler.set_epoch(self._epoch)
        return sampler

    def train_dataloader(self) -> DataLoader:
        """Training rows, shuffled in every epoch."""
        return self._loader(self.rows.train, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation rows."""
        return self._loader(self.rows.val)

    def test_dataloader(self) -> DataLoader:
        """Test rows."""
        return self._loader(self.rows.test)

    def predict_dataloader(self) -> DataLoader:
        """All rows, in their order."""
        return self._loader(torch.arange(len(self.dataset)))


class MoleculeDataModule(GraphDataModule):
    """A table of SMILES strings and targets.

    Args:
        split: ``"scaffold"`` (Bemis-Murcko, 80/10/10, no scaffold on both sides) or ``"random"``.
        split_seed: Seed of the random split.
        unreadable: Treatment of SMILES that RDKit cannot read: ``"refuse"`` stops and names all of
            them, ``"skip"`` leaves them out and lists them in a file beside the prepared graphs.
        descriptors: ``"rdkit"`` has networks read RDKit's 2D descriptors of every molecule too.
        **kwargs: Arguments of :class:`GraphDataModule`.
    """

    def __init__(
        self,
        split: str = "scaffold",
        split_seed: int = 0,
        unreadable: Literal["refuse", "skip"] = "refuse",
        descriptors: Literal["rdkit"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.descriptors = descriptors
        self.split = split
        self.split_seed = split_seed
        self.unreadable = unreadable

    @property
    def descriptor_names(self) -> list[str]:
        """RDKit's descriptors, if they are wanted."""
        return rdkit_names(self.descriptors)

    @abstractmethod
    def read_table(self) -> Table:
        """Read the molecules and targets from disk.

        Raises:
            InputError: A file or column is missing or unreadable.
        """

    @cached_property
    def table(self) -> Table:
        """The molecules and targets, read once."""
        return self.read_table()

    @property
    def _by_scaffold(self) -> bool:
        return self.split == "scaffold"

    def contents(self) -> Iterable[bytes]:
        """The table, what was to become of rows that cannot be read, and whether scaffolds split."""
        return [
            self.unreadable.encode(),
            b"scaffolds" * self._by_scaffold,
            *(repr(smiles).encode() for smiles in self.table.smiles),
            self.table.targets.tobytes(),
            *(name.encode() for name in self.descriptor_names),
            self.table.columns.tobytes(),
        ]

    def make_graphs(self) -> PackedGraphs:
        """Featurise the table.

        Raises:
            InputError: Some or all SMILES cannot be read.
        """
        graphs, unreadable = featurise(self.table, self.name, self._by_scaffold, self.descriptor_names)
        if not unreadable:
            return graphs
        counted = f"{len(unreadable)} of {len(self.table.smiles)} SMILES cannot be read"
        if self.unreadable == "refuse":
            rows = " ".join(f"Row {row.row}: {row.reason}" for row in unreadable)
            raise InputError(f"{counted}, correct or remove them (rows count from 0). {rows}")
        listed = self.prepared_file.with_suffix(".unreadable.csv")
        save_unreadable(unreadable, listed)
        print(f"{counted} and are left out; {listed} has their rows and reasons.")
        return graphs

    def _why_empty(self) -> str:
        """Of how many scaffolds the molecules are."""
        if not self._by_scaffold:
            return ""
        return f" (number of scaffolds: {len(set(self.dataset.scaffolds or []))})"

    def split_rows(self) -> Split:
        """Split by scaffold or at random."""
        if self._by_scaffold:
            return scaffold_split(self.dataset.scaffolds or [])
        if self.split == "random":
            return random_split(len(self.dataset), self.split_seed)
        raise InputError(f"split must be 'scaffold' or 'random', not {self.split!r}.")
