"""The molecules of the Open Graph Benchmark, from OGB's own raw and split files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ogb.graphproppred
import pandas as pd
import torch
from torch import Tensor

from plstm_graph.chem import read_smiles
from plstm_graph.chem.features import CHIRAL_TAG
from plstm_graph.dag import rank_nodes
from plstm_graph.datasets.base import GraphDataModule
from plstm_graph.datasets.descriptors import rdkit_names
from plstm_graph.datasets.featurise import featurise
from plstm_graph.datasets.files import fetch_folder
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.datasets.splits import SCAFFOLD_FOLDS, Split, check_fold, murcko_scaffold, scaffold_fold
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError

_RAW = ("num-node-list", "num-edge-list", "edge", "node-feat", "edge-feat", "graph-label")
_PARTS = ("train", "valid", "test")
_METRICS = {"rocauc": "roc_auc", "ap": "average_precision", "rmse": "rmse"}


class OGB(GraphDataModule):
    """One of the ``ogbg-mol*`` sets with OGB's features, split and metric.

    Args:
        dataset_name: Such as ``"ogbg-molhiv"``.
        root: Folder that holds ``ogbg_molhiv/`` with OGB's ``raw``, ``split`` and ``mapping``.
        download: SHA-256 of OGB's archive, to fetch it if the files are missing.
        fold: Cross-validation: test on this fifth, 0 to 4, of the set's training molecules, and train on the
            others. No scaffold is in two fifths, and the set's test molecules are left out.
        descriptors: ``"rdkit"`` has networks read RDKit's 2D descriptors of every molecule too, as missing
            values where RDKit cannot read its SMILES.
        **kwargs: Arguments of :class:`GraphDataModule`.

    Source: Hu et al., arXiv 2005.00687.
    """

    def __init__(
        self,
        dataset_name: str = "ogbg-molhiv",
        root: Path = Path("data/ogb"),
        download: str | None = None,
        fold: int | None = None,
        descriptors: Literal["rdkit"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        registry = pd.read_csv(Path(ogb.graphproppred.__file__).parent / "master.csv", index_col=0, dtype=str)
        registry = registry.loc[:, registry.loc["data type"] == "mol"]
        if dataset_name not in registry:
            raise InputError(f"{dataset_name!r} is none of OGB's molecule sets: {', '.join(registry)}.")
        if fold is not None:
            check_fold(fold, SCAFFOLD_FOLDS)
        self.dataset_name = dataset_name
        self.fold = fold
        self.descriptors = descriptors
        self.folder = Path(root) / dataset_name.replace("-", "_")
        self.download = download
        self._entry = registry[dataset_name]
        self.task = "regression" if self._entry["task type"] == "regression" else "classification"

    @property
    def name(self) -> str:
        """OGB's name of the set."""
        return self.dataset_name

    @property
    def metric(self) -> str:
        """OGB's metric for the set."""
        return _METRICS[self._entry["eval metric"]]

    @property
    def target_names(self) -> list[str]:
        """OGB numbers the tasks of most sets."""
        return [f"task {i}" for i in range(int(self._entry["num tasks"]))]

    @property
    def descriptor_names(self) -> list[str]:
        """RDKit's descriptors, if they are wanted."""
        return rdkit_names(self.descriptors)

    def prepare_data(self) -> None:
        """Fetch the files if that was asked for, and prepare the graphs once."""
        if self.download is not None and not self.folder.exists():
            fetch_folder(self._entry["url"], self.download, self._entry["download_name"], self.folder)
        super().prepare_data()

    def contents(self) -> Iterable[bytes]:
        """The raw files, the SMILES, and the descriptors' names."""
        files = (*(f"raw/{name}" for name in _RAW), "mapping/mol")
        yield from (self._file(path).read_bytes() for path in files)
        yield from (name.encode() for name in self.descriptor_names)

    def make_graphs(self) -> PackedGraphs:
        """Read the raw files; every bond of theirs gives two columns, there and back.

        Atoms get RDKit's ranks, which the files lack.
        """
        node_counts, edge_counts = (self._integers(f"raw/{name}").flatten() for name in _RAW[:2])
        bonds = self._integers("raw/edge")
        smiles = pd.read_csv(self._file("mapping/mol"))["smiles"].tolist()
        labels = pd.read_csv(self._file("raw/graph-label"), header=None).to_numpy(np.float32, copy=True)
        rows = torch.arange(len(node_counts))
        tensors = {
            "x": self._integers("raw/node-feat"),
            "edge_index": torch.stack([bonds, bonds.flip(1)], dim=1).reshape(-1, 2).T.contiguous(),
            "edge_attr": self._integers("raw/edge-feat").repeat_interleave(2, dim=0),
            "y": torch.from_numpy(labels),
            "row": rows,
        }
        counts = {"graphs": torch.ones_like(rows), "nodes": node_counts, "columns": 2 * edge_counts}
        graphs = PackedGraphs(tensors, counts, smiles)
        tensors |= _read_smiles(graphs, self.name, self.descriptor_names)
        return graphs

    def split_rows(self) -> Split:
        """OGB's scaffold split, or a fifth of its training molecules for the test."""
        folder = f"split/{self._entry['split']}"
        split = Split(*(self._integers(f"{folder}/{part}").flatten() for part in _PARTS))
        if self.fold is None:
            return split
        return scaffold_fold(split, [self._scaffold(row) for row in split.train.tolist()], self.fold)

    def _scaffold(self, row: int) -> str:
        """A molecule's scaffold; of one whose SMILES RDKit cannot read, its SMILES."""
        smiles = (self.dataset.smiles or [])[row]
        try:
            return murcko_scaffold(read_smiles(smiles))
        except InputError:
            return smiles

    def _integers(self, path: str) -> Tensor:
        return torch.from_numpy(pd.read_csv(self._file(path), header=None).to_numpy(np.int64, copy=True))

    def _file(self, path: str) -> Path:
        file = self.folder / f"{path}.csv.gz"
        if not file.is_file():
            raise InputError(f"{file} is missing; {self._where()}.")
        return file

    def _where(self) -> str:
        return (
            f"unpack {self._entry['url']} and call its folder {self.folder}, name another place by "
            "--data.root, or pass the archive's SHA-256 by --data.download, which fetches it"
        )


def _read_smiles(graphs: PackedGraphs, name: str, descriptors: Sequence[str]) -> dict[str, Tensor]:
    """Features and ranks of the atoms [N], by which a graph of OGB's is the same molecule's from its SMILES.

    The files' chiral tags are of neighbours in the order of the SMILES. Where RDKit reads another graph in
    the SMILES than the files hold, or none, features are those of the files and colour refinement ranks.
    Descriptors [graphs, names] too, if some are named.
    """
    smiles = graphs.smiles or []
    table = Table(smiles, np.empty((len(smiles), 0), np.float32))
    read, _ = featurise(table, name, scaffolds=False, descriptors=descriptors)
    positions = torch.full((len(smiles),), -1)
    positions[read.tensors["row"]] = torch.arange(len(read))
    ranks, features = [], []
    for row, position in enumerate(positions.tolist()):
        if position >= 0 and _alike(graphs, row, read, position):
            features.append(read.attribute("x", position))
            ranks.append(read.attribute("canonical_rank", position))
        else:
            features.append(graphs.attribute("x", row))
            ranks.append(rank_nodes(graphs[row], "canonical"))
    found = {"x": torch.cat(features), "canonical_rank": torch.cat(ranks)}
    if descriptors:
        values = torch.full((len(smiles), len(descriptors)), torch.nan)
        values[read.tensors["row"]] = read.tensors["descriptors"]
        found["descriptors"] = values
    return found


def _alike(graphs: PackedGraphs, row: int, others: PackedGraphs, position: int) -> bool:
    """Return if two graphs have the same bonds and atoms, but for chiral tags."""
    one, other = graphs.attribute("x", row), others.attribute("x", position)
    bonds = (part.attribute("edge_index", place) for part, place in ((graphs, row), (others, position)))
    same = one.shape == other.shape and torch.equal(*bonds)
    return same and not (one != other)[:, torch.arange(one.size(1)) != CHIRAL_TAG].any()
