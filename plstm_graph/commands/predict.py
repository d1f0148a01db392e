"""Predictions and fingerprints of a table of SMILES: the verbs ``predict`` and ``fingerprint``."""

import argparse
import ctypes
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from plstm_graph.commands.launch import launched_from_outside, own_environment
from plstm_graph.commands.options import ENDINGS
from plstm_graph.commands.sinks import (
    CSVFileSink,
    CSVSink,
    ParquetSink,
    Sink,
    check_folder,
    check_report,
    join,
    record_of,
    write_npz,
)
from plstm_graph.datasets.stream import STANDARD, CSVTable, ParquetTable, open_source
from plstm_graph.datasets.workers import Workers
from plstm_graph.errors import InputError

# Torch, PyG and Lightning take seconds to load. Where functions below import them, workers have been started,
# which load their own meanwhile.
if TYPE_CHECKING:
    from plstm_graph.commands.results import Results

_CHUNK = 512  # rows that are read, featurised and written at once, if a batch is no larger
_MANY = 8192  # rows that are worth the seconds in which workers start
_TRIM = 4  # chunks after which freed memory goes back to the system
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def predict(verb: str, options: argparse.Namespace) -> None:
    """Run ``predict`` or ``fingerprint``.

    Args:
        verb: One of the two.
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.

    Raises:
        InputError: Anything in the options or files is not as it should be.
    """
    if verb == "predict" and options.ray is not None:
        from plstm_graph.commands.cluster import predict_on_ray

        _check_ray(options)
        predict_on_ray(options)
        return
    with closing(Job(verb, options)) as job:
        try:
            job.load()
            job.run()
        except BrokenPipeError:  # whoever read standard output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_ray(options: argparse.Namespace) -> None:
    """Refuse what Ray sees to itself."""
    given = {
        "--data.num_workers": options.num_workers is not None,
        "--data.separator": options.separator is not None,
        "--data.encoding": options.encoding is not None,
        "--resume": options.resume,
        "--keep_formulas": options.keep_formulas,
        "--overwrite": options.overwrite,
        "--report": options.report is not None,
        "--trainer.devices": options.devices != 1,
        "--trainer.num_nodes": options.num_nodes != 1,
    }
    for name, present in given.items():
        if present:
            raise InputError(f"{name} has no meaning with --ray; leave it out.")


@dataclass
class Job:
    """One run of a verb, or the share of one process in it.

    Args:
        verb: ``"predict"`` or ``"fingerprint"``.
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.
    """

    verb: str
    options: argparse.Namespace
    rank: int = 0  #: this process, of
    world: int = 1  #: number of processes; chunk i belongs to process i mod world
    broken: int = 0  #: rows without a result, so far
    done: int = 0  #: rows in this run, so far
    started: float = field(default_factory=time.monotonic)
    workers: Workers | None = None  #: once their number is known

    def __post_init__(self) -> None:
        options = self.options
        self.output = Path(options.output)
        self.ending = ".csv" if options.output == STANDARD else self.output.suffix.lower()
        self.rows = max(_CHUNK, options.batch_size)
        self._check_output()
        self.source = open_source(
            options.data_path, options.smiles_column, options.separator, options.encoding
        )
        if self.source.total is not None:
            self._start_workers(self.source.total // (options.devices * options.num_nodes))

    def _start_workers(self, rows: int) -> Workers:
        """Start as many as pay for at least this number of rows."""
        number = self.options.num_workers
        if number is None:
            number = max(1, self._cores // 2) if rows >= _MANY else 0
        self.workers = Workers(number, "plstm_graph.datasets.featurise")
        return self.workers

    @property
    def _cores(self) -> int:
        """Cores for this process and its workers."""
        return max(1, (os.cpu_count() or 1) // self.options.devices)

    def load(self) -> None:
        """Load the networks."""
        from plstm_graph.commands.results import Fingerprints, Predictions
        from plstm_graph.datasets.table import check_there
        from plstm_graph.ensemble import Ensemble

        self.ensemble = Ensemble(self.options.ckpt_path)
        check_there(self.ensemble.columns, self.source.schema.names, self.options.data_path)
        settings = self.ensemble, self.options.smiles_column, self.options.batch_size
        self.results: Results
        if self.verb == "fingerprint":
            self.results = Fingerprints(*settings)
        else:
            self.results = Predictions(self.source.schema, *settings, self.options.interval)

    def close(self) -> None:
        """Have workers end."""
        if self.workers is not None:
            self.workers.close()

    def _check_output(self) -> None:
        options, output = self.options, self.output
        standard = options.output == STANDARD
        if self.ending not in ENDINGS[self.verb] or (standard and self.verb == "fingerprint"):
            raise InputError(
                f"--output of {self.verb} must end with {' or '.join(ENDINGS[self.verb])}, not be "
                f"{options.output!r}."
            )
        if options.resume and (self.ending != ".csv" or STANDARD in (options.data_path, options.output)):
            raise InputError("--resume is for CSV files, from a file to a file; run this again without it.")
        if self.verb == "predict" and options.keep_formulas and self.ending != ".csv":
            raise InputError("--keep_formulas is for CSV; Parquet keeps text as it is, so leave it out.")
        if options.devices * options.num_nodes > 1 and STANDARD in (options.data_path, options.output):
            raise InputError("Several processes need files, not standard input or output.")
        if options.report is not None:
            check_report(options)
            if options.devices * options.num_nodes > 1 or launched_from_outside():
                raise InputError("--report is written by one process; leave it out where there are several.")
        if standard:
            return
        check_folder(output)
        if output.exists() and Path(options.data_path).exists() and output.samefile(options.data_path):
            raise InputError(f"{output} is the input; give the output another name.")
        if output.exists() and not options.overwrite:
            raise InputError(f"{output} is there already; pass --overwrite to replace it, or another name.")

    def _check_unfinished(self) -> None:
        if self.options.resume or self.options.output == STANDARD:
            return
        for rank in range(self.world):
            part = self._part(rank)
            if part.exists():
                resume = "pass --resume to go on with it, or " if self.ending == ".csv" else ""
                raise InputError(f"{part} is left of a run that did not end; {resume}delete it.")

    def _part(self, rank: int) -> Path:
        return self.output.with_name(f"{self.output.name}.unfinished{f'.{rank}' if rank else ''}")

    def run(self) -> None:
        """Write the output, alone or with other processes."""
        options = self.options
        if "LOCAL_RANK" not in os.environ:  # else another process may have begun to write
            self._check_unfinished()
        if options.devices * options.num_nodes == 1 and not launched_from_outside():
            self._write_part()
            self._finish()
            if options.report is not None:
                from plstm_graph.commands.html_report import write_report

                write_report(options.report, self.source, self.results, max_atoms=options.max_atoms)
        else:
            self._run_with_others()

    def _run_with_others(self) -> None:
        """Write the output, each process its share."""
        import torch
        from lightning.fabric import Fabric
        from lightning.fabric.strategies.ddp import DDPStrategy

        options = self.options
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=7))
        fabric = Fabric(
            accelerator="cpu",
            strategy=strategy,
            devices=options.devices,
            num_nodes=options.num_nodes,
            plugins=own_environment(),
        )
        try:
            fabric.launch()
        except ValueError as error:  # devices and nodes are not those of the launch
            raise InputError(" ".join(str(error).split())) from error
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self._check_unfinished()
        fabric.barrier()
        self._write_part()
        for name in ("done", "broken"):
            total = fabric.all_reduce(torch.tensor(getattr(self, name)), reduce_op="sum")
            setattr(self, name, int(total))  # type: ignore[arg-type]
        if self.rank == 0:
            self._finish()
        fabric.barrier()

    def _write_part(self) -> None:
        """Write this process's chunks."""
        import torch

        from plstm_graph.datasets.featurise import featurise_smiles

        options = self.options
        sink = self._sink(self._part(self.rank), self._settings(), options.resume)
        threads = torch.get_num_threads()
        _keep_memory()
        try:
            calls = self._remaining(sink.chunks)
            workers = self.workers
            if workers is None:  # nobody knows how many rows there are
                first = list(islice(calls, -(-_MANY // self.rows)))
                workers = self._start_workers(len(first) * self.rows)
                calls = chain(first, calls)
            if workers.number:
                torch.set_num_threads(max(1, self._cores - workers.number))
            featurised = workers.in_order(featurise_smiles, calls)
            with self._progress() as progress, closing(featurised):
                bar = progress.add_task("Molecules", total=self.source.total)
                for turn, ((start, batch), part) in enumerate(featurised, 1):
                    sink.write(self.results.rows(start, batch, part))
                    if turn % _TRIM == 0:
                        _release_memory()
                    self.done += len(batch)
                    self.broken += len(part.unreadable)
                    progress.update(bar, completed=start + len(batch))
            sink.close()
        except BaseException:
            sink.abandon()
            raise
        finally:
            torch.set_num_threads(threads)

    def _remaining(self, done: int) -> Iterator[tuple[tuple[int, pa.RecordBatch], tuple[Any, ...]]]:
        """This process's chunks but the first ones, each with its first row and what a worker needs of it."""
        from plstm_graph.datasets.descriptors import columns_of

        ensemble = self.ensemble
        settings = set(ensemble.preparations), self.options.max_atoms, self.results.fingerprints
        for number, batch in enumerate(self.source.chunks(self.rows)):
            turn, rank = divmod(number, self.world)
            if rank == self.rank and turn >= done:
                start = number * self.rows
                smiles = self.source.smiles_of(batch[self.options.smiles_column])
                cells = columns_of(batch, ensemble.columns)
                yield (start, batch), (start, smiles, *settings, ensemble.descriptor_names, cells)

    def _sink(self, path: Path, settings: dict[str, Any] | None = None, resume: bool = False) -> Sink:
        if self.ending != ".csv":
            return ParquetSink(path, self.results.schema)
        if self.options.output == STANDARD:
            return CSVSink(sys.stdout.buffer, self.results.schema.names, self.options.keep_formulas)
        return CSVFileSink(path, self.results.schema.names, settings, resume, self.options.keep_formulas)

    def _settings(self) -> dict[str, Any] | None:
        """Settings that decide on a CSV file; a run that resumes another must have the same."""
        options = self.options
        if self.ending != ".csv" or STANDARD in (options.data_path, options.output):
            return None
        return {
            "verb": self.verb,
            "--data.path": _identity(options.data_path),
            "--ckpt_path": [_identity(path) for path in options.ckpt_path],
            "--data.smiles_column": options.smiles_column,
            "--data.separator": options.separator,
            "--data.encoding": options.encoding,
            "--data.batch_size": options.batch_size,
            "--max_atoms": options.max_atoms,
            "--keep_formulas": options.keep_formulas,
            "--interval": options.interval,
            "number of processes": self.world,
        }

    def _finish(self) -> None:
        """Give the output its name, put together from all parts."""
        if self.options.output != STANDARD:
            parts = [self._part(rank) for rank in range(self.world)]
            whole = parts[0]
            if self.world > 1:
                whole = self.output.with_name(f"{self.output.name}.unfinished.joined")
                table = CSVTable if self.ending == ".csv" else ParquetTable
                join([table(part) for part in parts], self.rows, self._sink(whole))
            if self.ending == ".npz":
                joined, whole = whole, self.output.with_name(f"{self.output.name}.unfinished.npz")
                write_npz(ParquetTable(joined), {"smiles": 0} | self.results.widths, whole)
                parts.append(joined)
            os.replace(whole, self.output)
            for part in parts:
                part.unlink(missing_ok=True)
                record_of(part).unlink(missing_ok=True)
        for remark in self.results.remarks:
            print(remark, file=sys.stderr)
        speed = self.done / (time.monotonic() - self.started)
        print(
            f"{self.done:,} rows at {speed:,.0f} molecules/s, {self.broken:,} of them with an error: "
            f"{self.options.output}",
            file=sys.stderr,
        )

    def _progress(self) -> Progress:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = self.rank > 0 or not console.is_terminal
        return Progress(*columns, console=console, disable=hidden, transient=True)


def _keep_memory() -> None:
    """Have glibc keep what is freed for the next tensors: new pages take as long as what fills them."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)


def _release_memory() -> None:
    """Have glibc give back what is free: tensors of ever other sizes leave gaps in its heap, which grows."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _identity(path: str) -> list[Any]:
    """Return numbers that change when a file does."""
    about = os.stat(path)
    return [os.path.abspath(path), about.st_size, about.st_mtime_ns]
