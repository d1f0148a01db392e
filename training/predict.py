"""Predictions and fingerprints of a table of SMILES: the verbs ``predict`` and ``fingerprint``."""

import argparse
import ctypes
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datasets.featurise import featurise_smiles
from datasets.workers import in_order
from plstm_graph.errors import InputError
from training.arguments import ArgumentParser
from training.cluster import predict_on_ray
from training.ensemble import Ensemble
from training.results import Fingerprints, Predictions, Results
from training.sinks import CSVFileSink, CSVSink, ParquetSink, Sink, check_folder, join, record_of, write_npz
from training.stream import STANDARD, CSVTable, ParquetTable, open_source

_CHUNK = 512  # rows that are read, featurised and written at once, if a batch is no larger
_MANY = 8192  # rows that are worth the seconds in which workers start
_TRIM = 4  # chunks after which freed memory goes back to the system
_ENDINGS = {"predict": (".csv", ".parquet"), "fingerprint": (".parquet", ".npz")}
_ABOUT = {
    "predict": "Predict for every row of a table of SMILES: all its columns, predicted_<target>, with "
    "several checkpoints their mean and std_<target>, and error, the reason why a row has no prediction.",
    "fingerprint": "Embed every row of a table of SMILES: the vector from which the network's head predicts, "
    "one for every checkpoint.",
}


def _number(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text!r}")
    return int(text)


def _parser(verb: str) -> ArgumentParser:
    parser = ArgumentParser(f"train.py {verb}", description=_ABOUT[verb])
    add = parser.add_argument
    add(
        "-i",
        "--test-path",
        required=True,
        metavar="FILE",
        help=".csv (also compressed), .parquet, or one SMILES a line: .smi, .txt, - for standard input",
    )
    add("--model-paths", "--model-path", nargs="+", required=True, metavar="CHECKPOINT")
    add(
        "-o",
        "--preds-path",
        "--output",
        required=True,
        metavar="FILE",
        help=" or ".join(_ENDINGS[verb]) + (", or - for CSV on standard output" if verb == "predict" else ""),
    )
    add("-s", "--smiles-column", "--smiles-columns", default="smiles", metavar="NAME")
    add("-b", "--batch-size", type=_number, default=256)
    add(
        "-n",
        "--num-workers",
        type=partial(_number, least=0),
        help="processes that read SMILES; 0 for none; by default half the cores, none for few rows",
    )
    add("--max-atoms", type=_number, default=5000, help="larger molecules get an error (default 5000)")
    add("--resume", action="store_true", help="go on with the unfinished CSV file of a run that was killed")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    add("--devices", type=_number, default=1, help="processes on this machine, or on each (default 1)")
    add("--num-nodes", type=_number, default=1, help="machines of a torchrun or SLURM launch (default 1)")
    if verb == "predict":
        add(
            "--ray",
            metavar="ADDRESS",
            help="share a folder of Parquet files out on this Ray cluster, local: this machine; the output "
            "is a folder too",
        )
    return parser


def main(verb: str, argv: Sequence[str]) -> None:
    """Run ``predict`` or ``fingerprint``.

    Args:
        verb: One of the two.
        argv: Arguments after the verb.

    Raises:
        InputError: Anything in the arguments or files is not as it should be.
    """
    options = _parser(verb).parse_args(argv)
    if verb == "predict" and options.ray is not None:
        _check_ray(options)
        predict_on_ray(options)
        return
    job = Job(verb, options)
    try:
        job.run()
    except BrokenPipeError:  # whoever read standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_ray(options: argparse.Namespace) -> None:
    """Refuse what Ray sees to itself."""
    for name, unset in (
        ("num_workers", None), ("resume", False), ("overwrite", False), ("devices", 1), ("num_nodes", 1)
    ):  # fmt: skip
        if getattr(options, name) != unset:
            raise InputError(f"--{name.replace('_', '-')} has no meaning with --ray; leave it out.")


@dataclass
class Job:
    """One run of a verb, or the share of one process in it.

    Args:
        verb: ``"predict"`` or ``"fingerprint"``.
        options: As :func:`_parser` reads them.
    """

    verb: str
    options: argparse.Namespace
    rank: int = 0  #: this process, of
    world: int = 1  #: so many; chunk i belongs to process i mod world
    broken: int = 0  #: rows without a result, so far
    done: int = 0  #: rows in this run, so far
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        options = self.options
        self.output = Path(options.preds_path)
        self.ending = ".csv" if options.preds_path == STANDARD else self.output.suffix.lower()
        self.rows = max(_CHUNK, options.batch_size)
        self._check_output()
        self.source = open_source(options.test_path, options.smiles_column)
        self.ensemble = Ensemble(options.model_paths)
        settings = self.ensemble, options.smiles_column, options.batch_size
        self.results: Results
        if self.verb == "fingerprint":
            self.results = Fingerprints(*settings)
        else:
            self.results = Predictions(self.source.schema, *settings)

    def _check_output(self) -> None:
        options, output = self.options, self.output
        standard = options.preds_path == STANDARD
        if self.ending not in _ENDINGS[self.verb] or (standard and self.verb == "fingerprint"):
            raise InputError(
                f"--preds-path of {self.verb} must end with {' or '.join(_ENDINGS[self.verb])}, not be "
                f"{options.preds_path!r}."
            )
        if options.resume and (self.ending != ".csv" or STANDARD in (options.test_path, options.preds_path)):
            raise InputError("--resume is for CSV files, from a file to a file; run this anew without it.")
        if options.devices * options.num_nodes > 1 and STANDARD in (options.test_path, options.preds_path):
            raise InputError("Several processes need files, not standard input or output.")
        if standard:
            return
        check_folder(output)
        if output.exists() and not options.overwrite:
            raise InputError(f"{output} is there already; pass --overwrite to replace it, or another name.")

    def _check_unfinished(self) -> None:
        if self.options.resume or self.options.preds_path == STANDARD:
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
        outside = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
        if "LOCAL_RANK" not in os.environ:  # else another process may have begun to write
            self._check_unfinished()
        if options.devices * options.num_nodes == 1 and not outside:
            self._write_part()
            self._finish()
            return
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=7))
        fabric = Fabric(
            accelerator="cpu", strategy=strategy, devices=options.devices, num_nodes=options.num_nodes
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
        options = self.options
        sink = self._sink(self._part(self.rank), self._settings(), options.resume)
        threads = torch.get_num_threads()
        try:
            calls = self._remaining(sink.chunks)
            first = list(islice(calls, -(-_MANY // self.rows)))
            cores = max(1, (os.cpu_count() or 1) // options.devices)
            workers = options.num_workers
            if workers is None:
                workers = max(1, cores // 2) if len(first) * self.rows >= _MANY else 0
            if workers:
                torch.set_num_threads(max(1, cores - workers))
            featurised = in_order(featurise_smiles, chain(first, calls), workers)
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
        for number, batch in enumerate(self.source.chunks(self.rows)):
            turn, rank = divmod(number, self.world)
            if rank == self.rank and turn >= done:
                start = number * self.rows
                smiles = batch[self.options.smiles_column].to_pylist()
                yield (start, batch), (start, smiles, self.ensemble.ranked, self.options.max_atoms)

    def _sink(self, path: Path, settings: dict[str, Any] | None = None, resume: bool = False) -> Sink:
        if self.ending != ".csv":
            return ParquetSink(path, self.results.schema)
        if self.options.preds_path == STANDARD:
            return CSVSink(sys.stdout.buffer, self.results.schema.names)
        return CSVFileSink(path, self.results.schema.names, settings, resume)

    def _settings(self) -> dict[str, Any] | None:
        """What the output follows from; a run that resumes another must have the same."""
        options = self.options
        if STANDARD in (options.test_path, options.preds_path):
            return None
        return {
            "verb": self.verb,
            "test-path": _identity(options.test_path),
            "model-paths": [_identity(path) for path in options.model_paths],
            "smiles-column": options.smiles_column,
            "batch-size": options.batch_size,
            "max-atoms": options.max_atoms,
            "number of processes": self.world,
        }

    def _finish(self) -> None:
        """Give the output its name, put together from all parts."""
        if self.options.preds_path != STANDARD:
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
        speed = self.done / (time.monotonic() - self.started)
        print(
            f"{self.done:,} rows at {speed:,.0f} molecules/s, {self.broken:,} of them with an error: "
            f"{self.options.preds_path}",
            file=sys.stderr,
        )

    def _progress(self) -> Progress:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = self.rank > 0 or not console.is_terminal
        return Progress(*columns, console=console, disable=hidden, transient=True)


def _release_memory() -> None:
    """Have glibc give back what is free: tensors of ever other sizes leave gaps in its heap, which grows."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _identity(path: str) -> list[Any]:
    """What changes when a file does."""
    about = os.stat(path)
    return [os.path.abspath(path), about.st_size, about.st_mtime_ns]
