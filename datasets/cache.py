"""Prepared graphs in files, whose names are hashes of what they were made from."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import rdkit
import torch

import plstm_graph
from plstm_graph.datasets.featurise import Unreadable
from plstm_graph.datasets.files import whole_file, write_rows
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.errors import InputError

# Files whose code decides what a cached graph looks like.
_SHAPING_SOURCES = ("chem/*.py", "dag/*.py")

# What zipfile, torch and the making of graphs raise for damaged or other files.
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnpicklingError, TypeError)

#: Columns of the files that list rows without a graph.
UNREADABLE_COLUMNS = ("row", "smiles", "reason")


def fingerprint(recipe: dict[str, Any], contents: Iterable[bytes]) -> str:
    """Hash everything that shapes the graphs: settings, data, featurising code and versions.

    Args:
        recipe: Settings, as JSON can hold them.
        contents: The data.

    Returns:
        Sixteen hexadecimal digits.
    """
    package = Path(plstm_graph.__file__).parent
    sources = [path for pattern in _SHAPING_SOURCES for path in sorted(package.glob(pattern))]
    sources += sorted(Path(__file__).parent.glob("*.py"))
    header = {"recipe": recipe, "rdkit": rdkit.__version__}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for content in (*(source.read_bytes() for source in sources), *contents):
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:16]


def save_graphs(graphs: PackedGraphs, path: Path) -> None:
    """Write graphs to a file, which appears whole or not at all."""
    content = {
        "tensors": graphs.tensors,
        "counts": graphs.counts,
        "smiles": graphs.smiles,
        "scaffolds": graphs.scaffolds,
    }
    with whole_file(path, "wb") as file:
        torch.save(content, file)


def load_graphs(path: Path) -> PackedGraphs:
    """Map the file that :func:`save_graphs` has written into memory.

    Raises:
        InputError: The file is damaged; torch compares no checksums of what it maps, so that is done before.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return PackedGraphs(**torch.load(path, weights_only=True, mmap=True))
    except _DAMAGES as error:
        damaged, *_ = str(error).splitlines()
    raise InputError(
        f"The prepared graphs in {path} are damaged ({damaged}); delete the file and start again."
    )


def save_unreadable(rows: Sequence[Unreadable], path: Path) -> None:
    """List rows that gave no graph in a CSV file."""
    with whole_file(path, newline="", encoding="utf-8") as file:
        write_rows(file, [UNREADABLE_COLUMNS, *((row.row, row.smiles, row.reason) for row in rows)])
