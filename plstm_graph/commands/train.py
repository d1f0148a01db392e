"""The verb train: several networks on a table of one's own, and one folder with them and their report."""

import argparse
import io
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pandas as pd
import yaml
from rich.progress import Progress, TaskID

from plstm_graph.commands.assessment import assess
from plstm_graph.commands.options import PROGRAM
from plstm_graph.commands.pool import fit, side_by_side
from plstm_graph.commands.presets import read_preset
from plstm_graph.datasets import CSV
from plstm_graph.datasets.seeds import check_seed
from plstm_graph.errors import InputError
from plstm_graph.models import PLSTM

#: Graphs that a network sees in training, as far as these are no fewer or more epochs than that.
_SEEN, _FEWEST, _MOST = 20_000, 15, 100

_CONFIGURATION, _CHECKPOINT = "config.yaml", "model_{}.ckpt"


def train(options: argparse.Namespace) -> None:
    """Run the verb ``train``.

    Args:
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.

    Raises:
        InputError: A table that cannot be trained on, or a folder that is there already.
    """
    seeds = range(options.seed, options.seed + options.ensemble_size)
    check_seed(seeds[-1], "The seed of the last network")
    with _new_folder(options.output, options.overwrite) as folder:
        config = _configuration(options)
        module = _read(config["data"]["init_args"], config["model"]["network"]["init_args"], folder)
        epochs = options.epochs or min(_MOST, max(_FEWEST, _SEEN // len(module.rows.train)))
        config["trainer"]["max_epochs"] = epochs
        (folder / _CONFIGURATION).write_text(yaml.safe_dump(config, sort_keys=False))
        print(f"Training: {len(seeds)} networks of {epochs} epochs.")
        logs = _train_networks(folder, seeds, epochs)
        assess(module, [folder / _CHECKPOINT.format(number) for number in range(len(seeds))], logs, folder)
        for listed in (folder / "cache").glob("*.unreadable.csv"):
            listed.rename(folder / "unreadable.csv")
        for part in ("cache", "runs"):
            shutil.rmtree(folder / part)
    print(f"{options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")
    model = shlex.quote(str(options.output))
    print(f"To predict: {PROGRAM} predict -i new.csv --model-paths {model} -o predictions.csv")


@contextmanager
def _new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Make a folder, which gets its name when the block ends without an error."""
    path = path.resolve()
    if path.is_file():
        raise InputError(f"{path} is a file; name a folder that is not there yet.")
    if path.is_dir() and any(path.iterdir()):
        if not all((path / name).is_file() for name in (_CONFIGURATION, _CHECKPOINT.format(0))):
            raise InputError(f"{path} holds other files; name a folder that is empty or not there yet.")
        if not overwrite:
            raise InputError(f"{path} holds networks already; pass --overwrite to replace them.")
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


def _configuration(options: argparse.Namespace) -> dict[str, Any]:
    """The preset ``table`` with what the command line says."""
    config = read_preset("table")
    config["seed_everything"] = options.seed
    given = {
        "path": str(options.data_path),
        "smiles_column": options.smiles_column,
        "target_columns": options.target_columns,
        "task": options.task,
        "split": options.split.removesuffix("_balanced"),
        "separator": options.separator,
        "encoding": options.encoding,
    }
    config["data"]["init_args"] |= {name: value for name, value in given.items() if value is not None}
    return config


def _read(settings: dict[str, Any], network: dict[str, Any], folder: Path) -> CSV:
    """Prepare the table and say what was understood, which the settings then say too."""
    module = CSV(**settings, cache=folder / "cache", **PLSTM.preparation(network)._asdict())
    with redirect_stdout(io.StringIO()):  # it names a file that is about to move
        module.prepare_data()
    module.setup()
    print(*module.describe(), sep="\n")
    settings |= {"path": str(Path(settings["path"]).resolve()), "task": module.task}
    if module.task != "multiclass":  # whose names are those of the classes
        settings["target_columns"] = module.target_names
    return module


def _advance(progress: Progress, bar: TaskID, ended: Queue[int | None]) -> None:
    """Count epochs until the last."""
    for _ in iter(ended.get, None):
        progress.advance(bar)


def _train_networks(folder: Path, seeds: Sequence[int], epochs: int) -> list[pd.DataFrame]:
    """Train side by side, put the best checkpoints into the folder and return the logs."""
    runs = [folder / "runs" / str(seed) for seed in seeds]
    with get_context("spawn").Manager() as manager, Progress() as progress:
        bar = progress.add_task("Training", total=len(seeds) * epochs)
        ended = manager.Queue()
        calls = []
        for seed, run in zip(seeds, runs, strict=True):
            arguments = ["--config", folder / _CONFIGURATION, "--seed_everything", seed]
            arguments += ["--data.cache", folder / "cache", "--trainer.default_root_dir", run]
            calls.append(partial(fit, list(map(str, arguments)), partial(ended.put, seed)))
        listener = Thread(target=_advance, args=(progress, bar, ended))
        listener.start()
        try:
            for number, result in side_by_side(calls, os.cpu_count() or 1):
                progress.console.print(
                    f"Network {number + 1} of {len(seeds)}: validation {result.metric} {result.val:.3f}"
                )
        finally:
            ended.put(None)
            listener.join()
    logs = []
    for number, run in enumerate(runs):
        [best], [log] = run.rglob("best-*.ckpt"), run.rglob("metrics.csv")
        best.rename(folder / _CHECKPOINT.format(number))
        logs.append(pd.read_csv(log))
    return logs
