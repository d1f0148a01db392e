"""Featurise a table once and keep the result on disk."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rdkit
import torch
import torch_geometric
from rich.progress import track
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.data.collate import collate

import plstm_graph
from datasets.splits import murcko_scaffold
from datasets.table import Table
from plstm_graph.errors import InputError

# Files whose code decides what a cached graph looks like.
_SHAPING_SOURCES = ("chem.py", "dag/*.py")


class GraphDataset(InMemoryDataset):
    """Graphs in memory, one per row of a table, together with their scaffolds.

    Args:
        data: All graphs, collated.
        slices: Where each graph starts and ends, by attribute.
        scaffolds: Bemis-Murcko scaffold SMILES of every row.
    """

    def __init__(self, data: Data, slices: dict[str, Any], scaffolds: list[str]) -> None:
        super().__init__()
        self._data = data
        self.slices = slices
        self.scaffolds = scaffolds


def fingerprint(table: Table, recipe: dict[str, Any]) -> str:
    """Hash everything that shapes the graphs: data, recipe, featurising code and versions.

    Args:
        table: The molecules and their targets.
        recipe: Settings of the featurisation, as JSON can hold them.

    Returns:
        Sixteen hexadecimal digits.
    """
    package = Path(plstm_graph.__file__).parent
    sources = [path for pattern in _SHAPING_SOURCES for path in sorted(package.glob(pattern))]
    sources.append(Path(__file__))
    header = {
        "recipe": recipe,
        "rdkit": rdkit.__version__,
        "torch_geometric": torch_geometric.__version__,
        "shape": table.targets.shape,
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for source in sources:
        digest.update(source.read_bytes())
    digest.update(json.dumps(table.smiles).encode())
    digest.update(table.targets.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class GraphCache:
    """Graphs of one table, made on demand and kept in one file.

    Args:
        table: The molecules and their targets.
        transforms: Applied to every molecule in turn; the first takes an RDKit molecule, the others
            a ``Data``.
        recipe: Settings of the transforms, as JSON can hold them; part of the file's name.
        folder: Where the file lies.
        name: Start of the file's name.
    """

    table: Table
    transforms: list[Callable]
    recipe: dict[str, Any]
    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The file, whose name changes with everything that shapes its content."""
        return self.folder / f"{self.name}-{fingerprint(self.table, self.recipe)}.pt"

    def prepare(self) -> None:
        """Write the file unless it is there.

        The file appears whole or not at all, so that processes may start at the same time: each
        writes its own temporary file, and the last rename wins with the same content.

        Raises:
            InputError: Some SMILES cannot be read.
        """
        path = self.path
        if path.is_file():
            return
        mols = self.table.molecules()
        graphs = []
        for row, mol in track(enumerate(mols), f"Featurising {self.name}", total=len(mols)):
            graph = mol
            try:
                for transform in self.transforms:
                    graph = transform(graph)
            except InputError as error:
                raise InputError(f"Row {row}, {self.table.smiles[row]!r}: {error}") from error
            graph.smiles = self.table.smiles[row]
            graph.row = torch.tensor([row])
            graph.y = torch.tensor(self.table.targets[row : row + 1])
            graphs.append(graph)
        data, slices, _ = collate(graphs[0].__class__, graphs, increment=False, add_batch=False)
        content = (data.to_dict(), dict(slices), [murcko_scaffold(mol) for mol in mols])
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
        try:
            torch.save(content, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, data_class: type[Data]) -> GraphDataset:
        """Read the file that :meth:`prepare` has written.

        Args:
            data_class: Class of a single graph.
        """
        content, slices, scaffolds = torch.load(self.path, weights_only=True)
        return GraphDataset(data_class.from_dict(content), slices, scaffolds)
