"""From SMILES to packed graphs, in worker processes where there are many."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import Mol
from rich.progress import Progress

from datasets.graphs import PackedGraphs, concatenate
from datasets.splits import murcko_scaffold
from datasets.table import Table
from plstm_graph.chem import mols_to_arrays, read_smiles
from plstm_graph.errors import InputError

#: Molecules that a worker takes at once, and how many are worth the seconds in which workers start.
_CHUNK, _MANY = 512, 8192
#: Calls that wait for a worker, beyond those that are being worked on.
_AHEAD = 2

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Unreadable:
    """A row that gives no graph, and why."""

    row: int
    smiles: Any
    reason: str


@dataclass(frozen=True)
class Featurised:
    """What becomes of some rows: arrays, since tensors would each hold a file descriptor on their way.

    Args:
        tensors, counts: As :class:`PackedGraphs` has them, of the rows that could be read.
        unreadable: The other rows.
    """

    tensors: dict[str, NDArray]
    counts: dict[str, NDArray]
    unreadable: list[Unreadable]

    def graphs(self) -> PackedGraphs:
        """The graphs, without DAGs."""
        tensors, counts = (
            {key: torch.from_numpy(array) for key, array in arrays.items()}
            for arrays in (self.tensors, self.counts)
        )
        return PackedGraphs(tensors, counts)


def featurise_smiles(
    start: int, smiles: Sequence[Any], ranks: bool = True, max_atoms: int | None = None
) -> Featurised:
    """Make graphs of the SMILES that RDKit can read.

    Args:
        start: Row of the first.
        smiles: SMILES strings, or what stands in their place.
        ranks: Whether to rank the atoms, which only DAGs need.
        max_atoms: Molecules with more count as unreadable.
    """
    return _featurise(start, smiles, ranks, max_atoms)[0]


def featurise(table: Table, name: str) -> tuple[PackedGraphs, list[Unreadable]]:
    """Make a graph of every row that RDKit can read, with its scaffold.

    Args:
        table: Molecules and targets.
        name: For the progress bar.

    Raises:
        InputError: RDKit can read none.
    """
    calls = []
    for start in range(0, len(table.smiles), _CHUNK):
        rows = slice(start, start + _CHUNK)
        calls.append((start, (start, table.smiles[rows], table.targets[rows])))
    parts: list[tuple[Featurised, list[str], list[str]]] = []
    workers = 0 if len(table.smiles) < _MANY else os.cpu_count() or 1
    with Progress() as progress:
        bar = progress.add_task(f"Featurising {name}", total=len(table.smiles))
        for start, part in in_order(_featurise_for_training, calls, workers):
            parts.append(part)
            progress.update(bar, completed=min(start + _CHUNK, len(table.smiles)))
    featurised, smiles, scaffolds = zip(*parts, strict=True)
    if not any(smiles):
        raise InputError(f"None of the {len(table.smiles)} SMILES of {name} can be read.")
    graphs = concatenate([part.graphs() for part in featurised])
    graphs.smiles = [text for part in smiles for text in part]
    graphs.scaffolds = [scaffold for part in scaffolds for scaffold in part]
    return graphs, [row for part in featurised for row in part.unreadable]


def _featurise_for_training(
    start: int, smiles: list[str], targets: NDArray[np.float32]
) -> tuple[Featurised, list[str], list[str]]:
    """Graphs with their targets, their SMILES and their scaffolds."""
    part, mols = _featurise(start, smiles)
    kept = part.tensors["row"] - start
    part.tensors["y"] = targets[kept]
    return part, [smiles[i] for i in kept], [murcko_scaffold(mol) for mol in mols]


def _featurise(
    start: int, smiles: Sequence[Any], ranks: bool = True, max_atoms: int | None = None
) -> tuple[Featurised, list[Mol]]:
    mols, rows, unreadable = [], [], []
    for row, text in enumerate(smiles, start):
        try:
            mol = read_smiles(text)
            if max_atoms is not None and mol.GetNumAtoms() > max_atoms:
                raise InputError(f"The molecule has {mol.GetNumAtoms()} atoms, more than {max_atoms}.")
        except InputError as error:
            unreadable.append(Unreadable(row, text, str(error)))
            continue
        mols.append(mol)
        rows.append(row)
    tensors = mols_to_arrays(mols, ranks)
    counts = {what: tensors.pop(what) for what in ("nodes", "columns")}
    counts["graphs"] = np.ones(len(mols), np.int64)
    tensors["row"] = np.array(rows, np.int64)
    return Featurised(tensors, counts, unreadable), mols


def in_order(
    function: Callable[..., Result], calls: Iterable[tuple[Key, tuple]], workers: int
) -> Generator[tuple[Key, Result], None, None]:
    """Make calls in worker processes and yield their results in order, looking ahead by a few calls only.

    Args:
        function: A function of a module, which processes can find by its name.
        calls: For every call a key, which comes back with the result, and the arguments.
        workers: Processes; 0 makes the calls here.

    Raises:
        InputError: a worker was ended from outside.
    """
    if not workers:
        yield from ((key, function(*arguments)) for key, arguments in calls)
        return
    # Workers start afresh: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    waiting: deque[tuple[Key, Future[Result]]] = deque()
    try:
        ready = pool.submit(os.getpid)
        for key, arguments in calls:
            if not waiting and not ready.done():
                yield key, function(*arguments)  # no worker has started, which takes seconds
                continue
            waiting.append((key, pool.submit(function, *arguments)))
            if len(waiting) == workers + _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process was ended from outside, most likely for want of memory; use fewer workers."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Take one thread, and end with the parent, even if that is killed and cannot say so."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
