"""The verb train: several networks on a table of one's own, and one folder with them and their report."""

import argparse
import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console, RenderableType
from rich.progress import Progress

from plstm_graph.checkpoint import NETWORKS
from plstm_graph.commands.assessment import assess
from plstm_graph.commands.options import PROGRAM
from plstm_graph.commands.pool import check, fit, read_options, side_by_side, unchanged
from plstm_graph.commands.presets import read_preset
from plstm_graph.datasets import CSV
from plstm_graph.datasets.seeds import check_seed
from plstm_graph.errors import InputError, counted
from plstm_graph.models import PLSTM, GaussianProcess

#: Graphs that a network sees in training, as far as these are no fewer or more epochs than that.
_SEEN, _FEWEST, _MOST = 20_000, 15, 100

#: Training graphs of which a Gaussian process takes more than half a minute.
_PATIENT = 8_000

#: Number of epochs that stands for one by the number of rows.
BY_ROWS = -1

_CONFIGURATION, CHECKPOINT = "config.yaml", "model_{}.ckpt"

#: What the trainer's options are where a run keeps its log and its checkpoints.
_KEEPING = {"logger": True, "enable_checkpointing": True, "barebones": False, "fast_dev_run": False}

#: Files of which a folder of networks has one.
_DESCRIPTIONS = (_CONFIGURATION, "estimator.json")


def train(options: argparse.Namespace, further: Sequence[str] = ()) -> None:
    """Run the verb ``train``.

    Args:
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.
        further: Options of ``fit``.

    Raises:
        InputError: A table that cannot be trained on, an option that ``fit`` does not have, or a folder that
            is there already.
    """
    number = options.ensemble_size
    with new_folder(options.output, options.overwrite) as folder:
        given = {
            "path": str(options.data_path),
            "smiles_column": options.smiles_column,
            "target_columns": options.target_columns,
            "task": options.task,
            "split": "scaffold" if options.split == "scaffold_balanced" else options.split,
            "separator": options.separator,
            "encoding": options.encoding,
        }
        config = configure(folder, given, options.seed, options.epochs, further)
        module = read_table(folder, config)
        print(*module.describe(), sep="\n")
        settings = config["data"]["init_args"]
        settings |= {"path": str(options.data_path.resolve()), "task": module.task}
        if module.task != "multiclass":  # whose names are those of the classes
            settings["target_columns"] = module.target_names
        logs = train_networks(folder, config, module, number, os.cpu_count() or 1)
        assess(module, [folder / CHECKPOINT.format(place) for place in range(number)], logs, folder)
        for listed in (folder / "cache").glob("*.unreadable.csv"):
            listed.rename(folder / "unreadable.csv")
        for part in ("cache", "runs"):
            shutil.rmtree(folder / part)
    print(f"{options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")
    model = shlex.quote(str(options.output))
    print(f"To predict: {PROGRAM} predict -i new.csv --model-paths {model} -o predictions.csv")


@contextmanager
def new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Make a folder, which gets its name when the block ends without an error, or raise InputError."""
    path = path.resolve()
    if path.is_file():
        raise InputError(f"{path} is a file; name a folder that is not there yet.")
    if path.is_dir() and any(path.iterdir()):
        described = any((path / name).is_file() for name in _DESCRIPTIONS)
        if not described or not (path / CHECKPOINT.format(0)).is_file():
            raise InputError(f"{path} holds other files; name a folder that is empty or not there yet.")
        if not overwrite:
            raise InputError(
                f"{path} holds networks already; pass --overwrite (in Python overwrite=True) to replace them."
            )
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{unfinished} cannot be made: {error.strerror}.") from error
    try:
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def configure(
    folder: Path, settings: dict[str, Any], seed: int, epochs: int | None, options: Sequence[str]
) -> dict[str, Any]:
    """The preset ``table`` with settings of the data, and with options of ``fit``, which win.

    Raises:
        InputError: ``fit`` has no such option, or it takes no such value.
    """
    config = read_preset("table") | {"seed_everything": seed}
    config["trainer"] |= {"max_epochs": epochs or BY_ROWS, "devices": 1}
    config["data"]["init_args"] |= {name: value for name, value in settings.items() if value is not None}
    return read_options(["--config", _write(config, folder), *options]) if options else config


def _write(config: dict[str, Any], folder: Path) -> str:
    (folder / _CONFIGURATION).write_text(yaml.safe_dump(config, sort_keys=False))
    return str(folder / _CONFIGURATION)


def read_table(folder: Path, config: dict[str, Any], stage: str | None = None) -> CSV:
    """Prepare and split the table of a configuration; the stage ``"fit"`` takes one without test rows too.

    Raises:
        InputError: The table cannot be trained on.
    """
    network, settings = config["model"]["network"], dict(config["data"]["init_args"])
    kind = NETWORKS.get(network["class_path"].rpartition(".")[2], PLSTM)
    settings |= kind.preparation(network.get("init_args", {}))._asdict() | {"cache": folder / "cache"}
    module = CSV(**settings)
    with redirect_stdout(io.StringIO()):  # it names a file that is about to move
        module.prepare_data()
    module.setup(stage)
    return module


class _Epochs(Progress):
    """Counts the epochs of runs when it is drawn: the lengths of files, which processes need no other for."""

    folder: Path

    def get_renderable(self) -> RenderableType:
        for task in self.task_ids:
            self.update(task, completed=sum(file.stat().st_size for file in self.folder.glob("*/epochs")))
        return super().get_renderable()


def _count(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b".")


def suit_rows(config: dict[str, Any], rows: int) -> None:
    """Give a configuration whose epochs are :data:`BY_ROWS` those for a number of training rows."""
    if config["trainer"].get("max_epochs") == BY_ROWS:
        config["trainer"]["max_epochs"] = min(_MOST, max(_FEWEST, _SEEN // rows))


def _check_kept(config: dict[str, Any], epochs: int) -> None:
    """Refuse what would leave trained networks without the checkpoint or the log that is kept of each."""
    trainer = config["trainer"]
    for name, kept in _KEEPING.items():
        if trainer.get(name) not in (None, kept):
            raise InputError(f"--trainer.{name} is for fit: networks have a log and a checkpoint here.")
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if callback["class_path"].endswith("ModelCheckpoint"):
            raise InputError("A ModelCheckpoint is for fit: of each network one checkpoint is kept here.")
    if trainer.get("limit_val_batches") == 0 and config.get("test_epoch") != "last":
        raise InputError("Without validation no epoch is the best: pass --test_epoch last, too.")
    every = trainer.get("check_val_every_n_epoch") or 1
    if every > epochs:
        raise InputError(
            f"--trainer.check_val_every_n_epoch must be at most {epochs}, the epochs, not {every}."
        )


def train_networks(
    folder: Path, config: dict[str, Any], module: CSV, number: int, jobs: int, quiet: bool = False
) -> list[pd.DataFrame]:
    """Train networks, put their checkpoints and their configuration into a folder and return their logs.

    Args:
        folder: Where :func:`read_table` has prepared the table.
        config: The configuration.
        module: The table.
        number: Number of networks.
        jobs: How many run at a time, in processes of their own; 1 trains in this one.
        quiet: Whether to show nothing.

    Raises:
        InputError: A setting would leave no checkpoint or log of a network, or training it failed.
    """
    trainer, seed = config["trainer"], config.get("seed_everything", 0)  # what is left out is a default
    check_seed(seed + number - 1, "The seed of the last network")
    suit_rows(config, len(module.rows.train))
    epochs = trainer.get("max_epochs", 100)
    _check_kept(config, epochs)
    calls, runs = [], [folder / "runs" / str(seed + place) for place in range(number)]
    for run in runs:
        run.mkdir(parents=True)
        places = {"--data.cache": folder / "cache", "--trainer.default_root_dir": run}
        options = {"--config": _write(config, folder), "--seed_everything": run.name} | places
        arguments = [str(part) for option in options.items() for part in option]
        calls.append(partial(fit, arguments, partial(_count, run / "epochs")))
    console = Console(file=sys.stdout, quiet=quiet)  # this one, though a run in this process has another
    console.print(f"Training: {counted(number, 'network')} of {counted(epochs, 'epoch')}.")
    branches = config["model"]["network"].get("init_args", {}).get("branches") or []
    closed_form = any(branch["class_path"].endswith(GaussianProcess.__name__) for branch in branches)
    if closed_form and len(module.rows.train) > _PATIENT:
        console.print(
            "Its Gaussian process is fitted before the first epoch, which takes minutes for so many rows."
        )
    jobs = min(jobs, number)
    if config.get("init_from"):
        with unchanged():
            console.print(*check(["--config", _write(config, folder)]).take_weights(), sep="\n")
    with unchanged(), _Epochs(console=console, disable=quiet) as progress:
        progress.folder = folder / "runs"
        progress.add_task("Training", total=number * epochs)
        here = ((place, call()) for place, call in enumerate(calls))
        for place, result in here if jobs == 1 else side_by_side(calls, jobs):
            console.print(f"Network {place + 1} of {number}: validation {result.metric} {result.val:.3f}")
    tested = "last.ckpt" if config.get("test_epoch") == "last" else "best-*.ckpt"
    logs = []
    for place, run in enumerate(runs):
        [chosen], [log] = run.rglob(tested), run.rglob("metrics.csv")
        chosen.rename(folder / CHECKPOINT.format(place))
        logs.append(pd.read_csv(log))
    return logs
