"""Featurising makes packed graphs of SMILES, in worker processes where there are many."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import Mol
from rich.progress import Progress
from torch import Tensor

from plstm_graph.chem import mols_to_arrays, read_smiles
from plstm_graph.chem.features import may_have_stereo
from plstm_graph.dag import Preparation
from plstm_graph.datasets.descriptors import read_columns, with_rdkit
from plstm_graph.datasets.graphs import PackedGraphs, concatenate
from plstm_graph.datasets.splits import murcko_scaffold
from plstm_graph.datasets.table import Table
from plstm_graph.datasets.workers import Workers
from plstm_graph.errors import InputError
from plstm_graph.similarity import morgan_bits

#: Molecules that a worker takes at once, and how many are worth the seconds in which workers start.
_CHUNK, _MANY = 512, 8192

#: Longest SMILES per atom: RDKit's parser is quadratic in it and takes a minute for 10⁶ characters.
_CHARACTERS_AN_ATOM = 20


@dataclass(frozen=True)
class Unreadable:
    """A row that gives no graph, and why."""

    row: int
    smiles: Any
    reason: str


@dataclass(frozen=True)
class Featurised:
    """Graphs of some rows, as arrays: tensors would each hold a file descriptor between processes.

    Args:
        tensors, counts: Those of :class:`PackedGraphs`, for the rows that could be read.
        unreadable: The other rows.
        prepared: What the graphs carry for networks, beyond these, as tensors and counts too.
    """

    tensors: dict[str, NDArray]
    counts: dict[str, NDArray]
    unreadable: list[Unreadable]
    prepared: dict[Preparation, tuple[dict[str, NDArray], dict[str, NDArray]]] = field(default_factory=dict)

    def graphs(self, preparation: Preparation | None = None) -> PackedGraphs:
        """The graphs, alone or with what was prepared."""
        tensors, counts = self.prepared[preparation] if preparation is not None else ({}, {})
        return PackedGraphs(*map(_as_tensors, (self.tensors | tensors, self.counts | counts)))


def _as_tensors(arrays: dict[str, NDArray]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def _beyond(tensors: dict[str, Tensor], known: dict[str, NDArray]) -> dict[str, NDArray]:
    return {key: tensor.numpy() for key, tensor in tensors.items() if key not in known}


def featurise_smiles(
    start: int,
    smiles: Sequence[Any],
    preparations: Collection[Preparation] = (),
    max_atoms: int | None = None,
    fingerprints: bool = False,
    descriptors: Sequence[str] = (),
    cells: Mapping[str, Sequence[Any]] | None = None,
) -> Featurised:
    """Make graphs of the SMILES that RDKit can read, and prepare them for networks.

    Args:
        start: Row of the first.
        smiles: SMILES strings, or what stands in their place.
        preparations: What networks want graphs to carry.
        max_atoms: Molecules with more count as unreadable, and so do SMILES too long for that number.
        fingerprints: Whether to add the tensor ``fingerprint``, :func:`~plstm_graph.similarity.morgan_bits`.
        descriptors: Names of descriptors, for the tensor ``descriptors``.
        cells: Cells of those that are columns, by name; a row with one that is no number is unreadable too.
    """
    oriented = any(wanted.orientation is not None for wanted in preparations)
    columns, reasons = read_columns(cells or {}, len(smiles))
    part, mols = _featurise(start, smiles, oriented, max_atoms, reasons)
    if descriptors:
        part.tensors["descriptors"] = with_rdkit(columns[part.tensors["row"] - start], mols, descriptors)
    if fingerprints:
        part.tensors["fingerprint"] = morgan_bits(mols)
    graphs = part.graphs()
    for wanted in preparations if mols else ():
        made = graphs.prepared(*wanted)
        part.prepared[wanted] = _beyond(made.tensors, part.tensors), _beyond(made.counts, part.counts)
    return part


def featurise(
    table: Table, name: str, scaffolds: bool, descriptors: Sequence[str] = ()
) -> tuple[PackedGraphs, list[Unreadable]]:
    """Make a graph of every row that RDKit can read.

    Args:
        table: Molecules and targets.
        name: Name for the progress bar.
        scaffolds: Whether to find them too, which takes RDKit longer than all else if molecules are large.
        descriptors: Names of descriptors: of the table's columns, and of RDKit's.

    Raises:
        InputError: RDKit can read none.
    """
    calls = []
    for start in range(0, len(table.smiles), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part_of_table = Table(table.smiles[rows], table.targets[rows], table.columns[rows])
        calls.append((start, (start, part_of_table, scaffolds, descriptors)))
    parts: list[tuple[Featurised, list[str], list[str] | None]] = []
    workers = Workers(0 if len(table.smiles) < _MANY else os.cpu_count() or 1, __name__)
    with closing(workers), Progress() as progress:
        bar = progress.add_task(f"Featurising {name}", total=len(table.smiles))
        for start, part in workers.in_order(_featurise_for_training, calls):
            parts.append(part)
            progress.update(bar, completed=min(start + _CHUNK, len(table.smiles)))
    featurised, smiles, found = zip(*parts, strict=True)
    if not any(smiles):
        first = [f"row {row.row}: {row.reason}" for part in featurised for row in part.unreadable][:3]
        raise InputError(f"None of the {len(table.smiles)} SMILES of {name} can be read; {' '.join(first)}")
    graphs = concatenate([part.graphs() for part in featurised])
    graphs.smiles = [text for part in smiles for text in part]
    if scaffolds:
        graphs.scaffolds = [scaffold for part in found for scaffold in part]
    return graphs, [row for part in featurised for row in part.unreadable]


def _featurise_for_training(
    start: int, table: Table, scaffolds: bool, descriptors: Sequence[str]
) -> tuple[Featurised, list[str], list[str] | None]:
    """Graphs with their targets and descriptors, their SMILES and, if wanted, their scaffolds."""
    part, mols = _featurise(start, table.smiles)
    kept = part.tensors["row"] - start
    part.tensors["y"] = table.targets[kept]
    if descriptors:
        part.tensors["descriptors"] = with_rdkit(table.columns[kept], mols, descriptors)
    return (
        part,
        [table.smiles[i] for i in kept],
        [murcko_scaffold(mol) for mol in mols] if scaffolds else None,
    )


def _featurise(
    start: int,
    smiles: Sequence[Any],
    ranks: bool = True,
    max_atoms: int | None = None,
    reasons: Mapping[int, str] = MappingProxyType({}),
) -> tuple[Featurised, list[Mol]]:
    mols, stereo, rows, unreadable = [], [], [], []
    for row, text in enumerate(smiles, start):
        try:
            if row - start in reasons:
                raise InputError(reasons[row - start])
            if max_atoms is not None and len(str(text)) > _CHARACTERS_AN_ATOM * max_atoms:
                raise InputError(
                    f"The SMILES has {len(str(text)):,} characters, too many for {max_atoms} atoms."
                )
            mol = read_smiles(text)
            if max_atoms is not None and mol.GetNumAtoms() > max_atoms:
                raise InputError(f"The molecule has {mol.GetNumAtoms()} atoms, more than {max_atoms}.")
        except InputError as error:
            unreadable.append(Unreadable(row, text, str(error)))
            continue
        mols.append(mol)
        stereo.append(may_have_stereo(text))
        rows.append(row)
    tensors = mols_to_arrays(mols, ranks, stereo)
    counts = {what: tensors.pop(what) for what in ("nodes", "columns")}
    counts["graphs"] = np.ones(len(mols), np.int64)
    tensors["row"] = np.array(rows, np.int64)
    return Featurised(tensors, counts, unreadable), mols
