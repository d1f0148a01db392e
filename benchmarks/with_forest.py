"""Trained networks beside a random forest on Morgan fingerprints, and the mean of what both predict.

    python -m benchmarks.with_forest --preset molhiv --root path/to/data CHECKPOINT [CHECKPOINT ...]

The first checkpoint stands beside the forest of seed 0, the second beside that of seed 1, ... Both saw the
training rows of the preset's data alone, and have the same weight in the mean, which nothing is fitted for.
Results go to benchmarks/results/with_forest/PRESET/, a file for each kind of network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.forest import features_of, forest_predictions
from benchmarks.measure import environment, write_results
from benchmarks.outcome import score
from benchmarks.table import MODELS, data_module, preset_file
from datasets import GraphDataModule
from plstm_graph.errors import InputError
from plstm_graph.task import GraphTask
from training.cli import ROOT
from training.report import print_table, spread

RESULTS = ROOT / "benchmarks" / "results" / "with_forest"


@torch.inference_mode()
def network_predictions(task: GraphTask, loader: DataLoader) -> Tensor:
    """Values or probabilities [molecules, T] float64 of a loader's molecules."""
    return torch.cat([task(batch) for batch in track(loader, "Predicting", transient=True)]).double()


def model_of(task: GraphTask) -> str:
    """Which of the table's models a network is.

    Raises:
        InputError: None of them.
    """
    model = type(task.network).__name__.lower() + ("-fingerprint" if task.network.fingerprint_size else "")
    if model not in MODELS:
        raise InputError(f"A {type(task.network).__name__} is no network of benchmarks.table.")
    return model


def measure(
    task: GraphTask, module: GraphDataModule, features: NDArray[np.generic], seed: int
) -> list[dict[str, Any]]:
    """Scores of a network, of a forest, and of the mean of both."""
    label = MODELS[model_of(task)].label
    forest, targets = forest_predictions(module, features, seed), module.dataset.tensors["y"].double()
    scores: dict[str, dict[str, float]] = {label: {}, "forest": {}, f"{label} and forest": {}}
    for part, rows, loader in (
        ("validation", module.rows.val, module.val_dataloader()),
        ("test", module.rows.test, module.test_dataloader()),
    ):
        network = network_predictions(task, loader)
        both = (network + forest[rows]) / 2
        for parts, predictions in zip(scores.values(), (network, forest[rows], both), strict=True):
            parts[part] = score(module, predictions, targets[rows])
    return [{"seed": seed, "predictions": label} | parts for label, parts in scores.items()]


def main() -> None:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks.with_forest", description=description)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    options = parser.parse_args()
    tasks = [GraphTask.load_from_checkpoint(path).eval() for path in options.checkpoints]
    models = {model_of(task) for task in tasks}
    if len(models) > 1:
        kinds = " and ".join(sorted(models))
        raise InputError(f"The checkpoints must be of one kind of network, not of {kinds}.")
    module = data_module(preset_file(options.preset), options.root, cache=options.cache)
    module.prepare_data()
    module.setup()
    features = features_of(module.dataset)
    rows = [row for seed, task in enumerate(tasks) for row in measure(task, module, features, seed)]
    cells = []
    for label in dict.fromkeys(row["predictions"] for row in rows):
        chosen = [row for row in rows if row["predictions"] == label]
        scores = {part: spread([row[part] for row in chosen]) for part in ("validation", "test")}
        cells.append({"predictions": label} | scores)
    print_table(f"{options.preset}: {module.metric}", cells)
    write_results(RESULTS / options.preset / f"{models.pop()}.json", environment(), [], rows)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
