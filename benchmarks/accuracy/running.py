"""Runs: how they are made side by side, go on after a kill, and are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import subprocess
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rdkit import rdBase
from rich.progress import track

from benchmarks.accuracy.chemprop import fit_chemprop
from benchmarks.accuracy.forest import fit_boosting, fit_forest
from benchmarks.accuracy.outcome import (
    Predictions,
    mean_of,
    network_predictions,
    outcome,
    scores_of_parts,
)
from benchmarks.accuracy.suites import BOOSTING, FOREST, RECIPE, Run, data_module, label_of, place
from benchmarks.measure import ROOT, environment
from plstm_graph.commands.pool import fitted, side_by_side
from plstm_graph.commands.report import Result
from plstm_graph.commands.train import BY_ROWS, suit_rows
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.files import whole_file
from plstm_graph.errors import InputError
from plstm_graph.models import GaussianProcess

PREDICTIONS = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, and what decides on it beside the run itself.

    Args:
        run: The run.
        root: Folder of the data sets.
        cache: Folder of prepared graphs.
        folder: Of the run's checkpoints, log and predictions.
        changes: Arguments of the data in place of the preset's.
        options: Further options of ``fit``.
        chemprop: That program.
    """

    run: Run
    root: Path
    cache: Path
    folder: Path
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: list[str] = dataclasses.field(default_factory=list)
    chemprop: Path = Path("chemprop")

    @property
    def settings(self) -> dict[str, Any]:
        """See :meth:`Run.settings`."""
        return self.run.settings(self.changes, self.options)

    @property
    def alone(self) -> bool:
        """Whether only the network's Gaussian process predicts."""
        return self.run.network is not None and self.run.network.process

    def data(self) -> GraphDataModule:
        """The data, split as the run has them."""
        return data_module(self.run.preset(self.changes), self.root, cache=self.cache, **self.run.part)

    def prepared(self) -> GraphDataModule:
        """Likewise, set up without a word: runs are made side by side."""
        module = self.data()
        with contextlib.redirect_stdout(io.StringIO()):
            module.prepare_data()
        module.setup("fit")
        return module

    def command(self, suited: bool = True) -> list[str]:
        """Arguments of ``plstm-graph fit``, most of them in a file.

        Args:
            suited: Whether they suit the number of training rows, for which the data are prepared.
        """
        settings = self.settings
        config, data = settings["preset"], settings["preset"]["data"]
        if suited and self.run.recipe == RECIPE:  # as the verb train trains
            config["trainer"]["max_epochs"] = BY_ROWS
            suit_rows(config, len(self.prepared().rows.train))
        places = place(data["class_path"], self.root) | {"cache": self.cache}
        data["init_args"] |= self.run.part | {name: str(path) for name, path in places.items()}
        # One folder for all of a run, however often it is killed.
        logger = {"save_dir": str(self.folder), "name": "", "version": ""}
        config["trainer"] |= {
            "default_root_dir": str(self.folder),
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
        }
        file = self.folder / "preset.yaml"
        with whole_file(file) as opened:
            yaml.safe_dump(config, opened, sort_keys=False)
        return ["--config", str(file), "--seed_everything", str(self.run.seed), *settings["options"]]

    def fit(self) -> tuple[Result, dict[str, dict[str, float]]]:
        """Make the run, from its last checkpoint if there is one, and keep its predictions.

        Returns:
            Its outcome, and all metrics of the validation rows, the test rows and subsets of these.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.run.network:
            result, module, predictions = self._train()
        else:
            module = self.prepared()
            with rdBase.BlockLogs():  # RDKit says of every molecule what it said when it was featurised
                if self.run.model == FOREST:
                    result, predictions = fit_forest(module, self.run.seed)
                elif self.run.model == BOOSTING:
                    result, predictions = fit_boosting(module, self.run.seed)
                else:
                    result, predictions = fit_chemprop(module, self.run.seed, self.chemprop, self.folder)
        with whole_file(self.folder / PREDICTIONS, "wb") as file:
            np.savez(file, **{part: values.float().numpy() for part, values in predictions.items()})
        return result, scores_of_parts(module, predictions)

    def _train(self) -> tuple[Result, GraphDataModule, Predictions]:
        last = self.folder / "checkpoints" / "last.ckpt"
        log = self.folder / "metrics.csv"
        if last.is_file() and log.is_file():  # which a resumed run would write anew
            log.rename(self.folder / f"metrics_{len(list(self.folder.glob('metrics_*.csv')))}.csv")
        resume = ["--ckpt_path", str(last)] if last.is_file() else []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
            made = fitted([*self.command(), *resume])
        task, module, result = made.model.eval(), made.datamodule, made.result
        if self.alone:
            branches = task.network.branches
            task.network.shares = [float(isinstance(branch, GaussianProcess)) for branch in branches]
        loaders = {"validation": module.val_dataloader(), "test": module.test_dataloader()}
        predictions = {part: network_predictions(task, loader) for part, loader in loaders.items()}
        if self.alone:
            result = outcome(module, result.network, predictions, 0, result.seconds)
        return result, module, predictions

    def join(self, files: list[Path], seconds: float) -> tuple[Result, dict[str, dict[str, float]]]:
        """Score the mean of what other runs predict.

        Args:
            files: Their predictions.
            seconds: What they took together.
        """
        module = self.prepared()
        parts = [
            {name: torch.from_numpy(values).double() for name, values in np.load(f).items()} for f in files
        ]
        predictions = mean_of(parts)
        label = label_of(self.run.suite, self.run.model)
        return outcome(module, label, predictions, 0, seconds), scores_of_parts(module, predictions)


def commit() -> str:
    """The commit that is checked out, with a plus sign if files were changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")


def setting_of(jobs: int) -> dict[str, Any]:
    """What single-threaded runs, so many at a time, are made with and on."""
    return {"commit": commit(), **environment(), "threads": 1, "runs side by side": jobs}


def known(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a run's outcome was written down before.

    Raises:
        InputError: It was made with other settings.
    """
    if not path.is_file():
        return False
    if json.loads(path.read_text())["settings"] != settings:
        raise InputError(
            f"{path} was made with other settings; delete it, or choose another folder with --out."
        )
    return True


def keep(
    path: Path, setting: dict[str, Any], run: Any, settings: dict[str, Any], result: Any, **further: Any
) -> None:
    """Write a run's outcome down, for :func:`known` to find.

    Args:
        setting: what the run was made with and on, which does not decide on its outcome as settings do.
        run: a dataclass.
        **further: what else is kept.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"made": made, "environment": setting, "run": dataclasses.asdict(run)}
    record |= {"settings": settings, "result": result} | further
    with whole_file(path) as file:
        file.write(json.dumps(record, indent=1) + "\n")


def keep_all(
    calls: Mapping[Any, Callable[[], Any]], files: Mapping[Any, Path], settings: dict[str, Any], jobs: int
) -> None:
    """Make runs side by side in single-threaded processes, and write each outcome down as it comes.

    Args:
        calls: what makes a run, by the run.
        files: its file, likewise.
        settings: settings of all.
        jobs: number of runs at a time.
    """
    runs = list(calls)
    setting = setting_of(jobs)
    for number, result in track(side_by_side(list(calls.values()), jobs), "Runs", total=len(calls)):
        keep(files[runs[number]], setting, runs[number], settings, result)
