"""Graph classification sets of TU Dortmund, in ten folds."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import TUDataset
from torch_geometric.io import read_tu_data

from plstm_graph.datasets.base import GraphDataModule
from plstm_graph.datasets.files import fetch_folder
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.datasets.splits import Split, check_fold
from plstm_graph.errors import InputError

#: Parts of every set, each of them the test set once.
FOLDS = 10
_SEED = 42


class TU(GraphDataModule):
    """One of the TU sets, such as ``"MUTAG"``, ``"NCI1"`` or ``"PROTEINS"``.

    Graphs are stratified by class into ten folds: one is the test set; a part of the others, stratified too,
    is for validation.

    Args:
        dataset_name: TU Dortmund's name of the set.
        fold: Fold of the test set, 0 to 9.
        folds: ``"paper"`` takes a ninth of the others for validation, as arXiv 2506.11997 does, ``"fair"`` a
            tenth, as Errica et al. do, whose very folds these are not. In nothing else do the two differ.
        use_node_attr: Take continuous node attributes, beside node labels.
        use_edge_attr: Likewise of edges.
        root: Folder that holds ``MUTAG/raw/MUTAG_A.txt`` and so on, as PyG lays them out.
        download: SHA-256 of the set's archive, to fetch it if the files are missing.
        **kwargs: Arguments of :class:`GraphDataModule`.

    Source: Morris et al., arXiv 2007.08663; Errica et al., arXiv 1912.09893.
    """

    task = "multiclass"

    def __init__(
        self,
        dataset_name: str = "MUTAG",
        fold: int = 0,
        folds: Literal["paper", "fair"] = "paper",
        use_node_attr: bool = False,
        use_edge_attr: bool = False,
        root: Path = Path("data/tu"),
        download: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fold(fold, FOLDS)
        self.dataset_name = dataset_name
        self.fold = fold
        self.folds = folds
        self.use_node_attr = use_node_attr
        self.use_edge_attr = use_edge_attr
        self.folder = Path(root) / dataset_name / "raw"
        self.download = download

    @property
    def name(self) -> str:
        """TU Dortmund's name."""
        return self.dataset_name

    @property
    def target_names(self) -> list[str]:
        """The classes, numbered in the order of their labels."""
        return [f"class {number}" for number in range(int(self._graphs[0].y.max()) + 1)]

    @property
    def in_channels(self) -> int:
        """Columns of the node features."""
        return self._features("x").size(1)

    @property
    def edge_dim(self) -> int | None:
        """Columns of the edge features, if there are any."""
        return self._features("edge_attr").size(1) or None

    def contents(self) -> Iterable[bytes]:
        """The text files, and which features are taken."""
        flags = bytes([self.use_node_attr, self.use_edge_attr])
        return (flags, *(path.read_bytes() for path in self._files))

    def make_graphs(self) -> PackedGraphs:
        """Read the text files."""
        data, slices, _ = self._graphs
        nodes, columns = self._node_counts, slices["edge_index"].diff()
        rows = torch.arange(len(nodes))
        tensors = {
            "x": self._features("x"),
            "edge_index": data.edge_index,
            "y": data.y.float().view(-1, 1),
            "row": rows,
        }
        if self.edge_dim is not None:
            tensors["edge_attr"] = self._features("edge_attr")
        counts = {"graphs": torch.ones_like(rows), "nodes": nodes, "columns": columns}
        return PackedGraphs(tensors, counts)

    def split_rows(self) -> Split:
        """Take one of the ten folds."""
        classes = self.dataset.tensors["y"].flatten().numpy()
        if len(classes) < FOLDS:
            raise InputError(f"{len(classes)} graphs cannot be split into {FOLDS} folds.")
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=_SEED).split(classes, classes)
        rest, test = list(folds)[self.fold]
        share = 1 / (FOLDS - 1 if self.folds == "paper" else FOLDS)
        train, val = train_test_split(rest, test_size=share, stratify=classes[rest], random_state=_SEED)
        return Split(*(torch.from_numpy(rows).sort().values for rows in (train, val, test)))

    def _features(self, key: str) -> Tensor:
        """Labels, one-hot, after attributes if these are wanted; nodes without features have ones."""
        data, _, sizes = self._graphs
        what, attributes = ("node", self.use_node_attr) if key == "x" else ("edge", self.use_edge_attr)
        values = data.get(key)
        if values is None:
            values = torch.zeros(data.num_nodes if key == "x" else data.num_edges, 0)
        values = values if attributes else values[:, sizes[f"num_{what}_attributes"] :]
        return torch.ones(len(values), 1) if key == "x" and values.size(1) == 0 else values.contiguous()

    @property
    def _node_counts(self) -> Tensor:
        data, slices, _ = self._graphs
        return slices["x"].diff() if "x" in slices else torch.tensor(data._num_nodes)

    @cached_property
    def _graphs(self) -> tuple[Data, dict[str, Tensor], dict[str, int]]:
        """All graphs in one, the slices and the numbers of feature columns, as PyG reads them."""
        if not any(path.name == f"{self.dataset_name}_graph_labels.txt" for path in self._files):
            raise InputError(
                f"{self.folder} has no {self.dataset_name}_graph_labels.txt; TU sets with classes are read."
            )
        return read_tu_data(str(self.folder), self.dataset_name)

    @cached_property
    def _files(self) -> list[Path]:
        url = f"{TUDataset.url}/{self.dataset_name}.zip"
        if self.download is not None and not self.folder.exists():
            fetch_folder(url, self.download, self.dataset_name, self.folder)
        files = sorted(self.folder.glob(f"{self.dataset_name}_*.txt"))
        if not files:
            raise InputError(
                f"{self.folder}/{self.dataset_name}_A.txt is missing; unpack {url} and call its folder "
                f"{self.folder}, name another place by --data.root, or pass the archive's SHA-256 by "
                "--data.download, which fetches it."
            )
        return files
