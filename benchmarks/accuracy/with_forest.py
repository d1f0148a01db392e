"""Trained networks beside a random forest on Morgan fingerprints, and the mean of what both predict.

    python -m benchmarks.accuracy.with_forest --preset molhiv --root path/to/data CHECKPOINT [CHECKPOINT ...]

The first checkpoint stands beside the forest of seed 0, the second beside that of seed 1, ... Both saw the
training rows of the preset's data alone, and have the same weight in the mean, which nothing is fitted for.
Of several checkpoints the mean of what all predict, as the verb ``predict`` gives it, is scored too, and that
of as many forests. Results go to benchmarks/results/with_forest/PRESET/, a file for each kind of network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.accuracy.forest import features_of, forest_predictions
from benchmarks.accuracy.outcome import Predictions, mean_of, network_predictions, rows_of, score
from benchmarks.accuracy.suites import MODELS, data_module
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS, environment, write_results
from plstm_graph.commands.presets import read_preset
from plstm_graph.commands.report import print_table, spread
from plstm_graph.datasets import GraphDataModule
from plstm_graph.errors import InputError
from plstm_graph.task import GraphTask

OUTCOMES = RESULTS / "with_forest"


def model_of(task: GraphTask) -> str:
    """Which of the table's models a network is.

    Raises:
        InputError: None of them.
    """
    beside = len(getattr(task.network, "branches", ())) > 1
    model = type(task.network).__name__.lower() + "-fingerprint" * beside
    if model not in MODELS:
        raise InputError(f"A {type(task.network).__name__} is no network of benchmarks.accuracy.suites.")
    return model


def predictions_of(task: GraphTask, module: GraphDataModule, forest: Tensor) -> dict[str, Predictions]:
    """What a network predicts, what a forest does [molecules, T], and the mean of both."""
    label = MODELS[model_of(task)].label
    network = {
        "validation": network_predictions(task, module.val_dataloader()),
        "test": network_predictions(task, module.test_dataloader()),
    }
    forest_alone = {part: forest[rows] for part, rows in rows_of(module).items()}
    return {
        label: network,
        "forest": forest_alone,
        f"{label} and forest": mean_of([network, forest_alone]),
    }


def scores_of(module: GraphDataModule, predictions: Predictions) -> dict[str, float]:
    """The data's metric on the molecules of each part."""
    targets, rows = module.dataset.tensors["y"].double(), rows_of(module)
    return {part: score(module, values, targets[rows[part]]) for part, values in predictions.items()}


def measure(tasks: Sequence[GraphTask], module: GraphDataModule) -> list[dict[str, Any]]:
    """Scores of networks and forests one by one and, of each kind, of the mean of what all predict."""
    features = features_of(module.dataset)
    found: dict[str, list[Predictions]] = defaultdict(list)
    for seed, task in enumerate(tasks):
        forest = forest_predictions(module, features, seed)
        for label, predictions in predictions_of(task, module, forest).items():
            found[label].append(predictions)
    rows: list[dict[str, Any]] = [
        {"seed": seed, "predictions": label} | scores_of(module, predictions)
        for label, seeds in found.items()
        for seed, predictions in enumerate(seeds)
    ]
    if len(tasks) > 1:
        rows += [
            {"seed": None, "predictions": f"{label}, mean of {len(tasks)}"}
            | scores_of(module, mean_of(seeds))
            for label, seeds in found.items()
        ]
    return rows


def main() -> None:
    parser = parser_of("accuracy.with_forest", __doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--preset", required=True)
    add_data(parser)
    options = parser.parse_args()
    tasks = [GraphTask.load_from_checkpoint(path).eval() for path in options.checkpoints]
    models = {model_of(task) for task in tasks}
    if len(models) > 1:
        kinds = " and ".join(sorted(models))
        raise InputError(f"The checkpoints must be of one kind of network, not of {kinds}.")
    module = data_module(read_preset(options.preset), options.root, cache=options.cache)
    module.prepare_data()
    module.setup()
    rows = measure(tasks, module)
    cells = []
    for label in dict.fromkeys(row["predictions"] for row in rows):
        chosen = [row for row in rows if row["predictions"] == label]
        scores = {part: spread([row[part] for row in chosen]) for part in ("validation", "test")}
        cells.append({"predictions": label} | scores)
    print_table(f"{options.preset}: {module.metric}", cells)
    write_results(OUTCOMES / options.preset / f"{models.pop()}.json", environment(), [], rows)


if __name__ == "__main__":
    launch(main)
