"""From a table of SMILES to packed graphs, in parallel worker processes where there are many."""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from datasets.graphs import PackedGraphs, concatenate, pack
from datasets.splits import murcko_scaffold
from datasets.table import Table
from plstm_graph.chem import mol_to_data, read_smiles
from plstm_graph.errors import InputError

#: Molecules that a worker takes at once, and how many are worth the seconds in which workers start.
_CHUNK, _MANY = 512, 8192


@dataclass(frozen=True)
class Unreadable:
    """A row that gives no graph, and why."""

    row: int
    smiles: Any
    reason: str


def featurise(table: Table, name: str) -> tuple[PackedGraphs, list[Unreadable]]:
    """Make a graph of every row that RDKit can read, with its scaffold.

    Args:
        table: Molecules and targets.
        name: For the progress bar.

    Raises:
        InputError: RDKit can read none.
    """
    starts = range(0, len(table.smiles), _CHUNK)
    chunks = []
    for start in starts:
        rows = slice(start, start + _CHUNK)
        chunks.append((start, table.smiles[rows], table.targets[rows]))
    done: dict[int, _Chunk] = {}
    with Progress() as progress:
        bar = progress.add_task(f"Featurising {name}", total=len(table.smiles))
        if len(table.smiles) < _MANY:
            for chunk in chunks:
                done[chunk[0]] = _featurise_chunk(*chunk)
                progress.advance(bar, len(chunk[1]))
        else:
            # Workers start afresh: a fork of a process with threads may hang.
            with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
                waiting = {pool.submit(_featurise_chunk, *chunk): chunk for chunk in chunks}
                for future in as_completed(waiting):
                    start, smiles, _ = waiting[future]
                    done[start] = future.result()
                    progress.advance(bar, len(smiles))
    parts = [done[start] for start in starts]
    if not any(part.smiles for part in parts):
        raise InputError(f"None of the {len(table.smiles)} SMILES of {name} can be read.")
    graphs = concatenate([part.graphs() for part in parts if part.smiles])
    graphs.smiles = [smiles for part in parts for smiles in part.smiles]
    graphs.scaffolds = [scaffold for part in parts for scaffold in part.scaffolds]
    return graphs, [row for part in parts for row in part.unreadable]


@dataclass(frozen=True)
class _Chunk:
    """What a worker sends back: arrays, since tensors would each hold a file descriptor."""

    tensors: dict[str, NDArray]
    counts: dict[str, NDArray]
    smiles: list[str]
    scaffolds: list[str]
    unreadable: list[Unreadable]

    def graphs(self) -> PackedGraphs:
        tensors, counts = (
            {key: torch.from_numpy(array) for key, array in arrays.items()}
            for arrays in (self.tensors, self.counts)
        )
        return PackedGraphs(tensors, counts)


def _featurise_chunk(start: int, smiles: list[str], targets: NDArray[np.float32]) -> _Chunk:
    graphs, kept, scaffolds, unreadable = [], [], [], []
    for i, text in enumerate(smiles):
        try:
            mol = read_smiles(text)
        except InputError as error:
            unreadable.append(Unreadable(start + i, text, str(error)))
            continue
        graph = mol_to_data(mol)
        graph.row = torch.tensor([start + i])
        graph.y = torch.from_numpy(targets[i : i + 1])
        graphs.append(graph)
        kept.append(text)
        scaffolds.append(murcko_scaffold(mol))
    packed = pack(graphs) if graphs else PackedGraphs({}, {"graphs": torch.zeros(0)})
    arrays = ({key: x.numpy() for key, x in d.items()} for d in (packed.tensors, packed.counts))
    return _Chunk(*arrays, kept, scaffolds, unreadable)
