"""Predictions of validation and test rows, and their scores."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional import pearson_corrcoef

from plstm_graph.commands.report import Result
from plstm_graph.datasets import GraphDataModule
from plstm_graph.metrics import ERRORS, PerTask, mean_prediction, metrics_of
from plstm_graph.task import GraphTask

#: Values or probabilities [rows, T] float64 of the "validation" and the "test" rows.
Predictions = dict[str, Tensor]


def rows_of(module: GraphDataModule) -> dict[str, Tensor]:
    """The rows of the parts that are predicted."""
    return {"validation": module.rows.val, "test": module.rows.test}


@torch.inference_mode()
def network_predictions(task: GraphTask, loader: DataLoader) -> Tensor:
    """Values or probabilities [graphs, T] float64 of a loader's graphs."""
    return torch.cat([task(batch) for batch in loader]).double()


def mean_of(predictions: list[Predictions]) -> Predictions:
    """The mean of several predictions of the same rows."""
    return {part: torch.stack([one[part] for one in predictions]).mean(0) for part in predictions[0]}


def outcome(
    module: GraphDataModule, network: str, predictions: Predictions, epochs: int, seconds: float
) -> Result:
    """Predictions made outside this package's networks, scored as theirs are."""
    targets = module.dataset.tensors["y"].double()
    mean = mean_prediction(module.task, module.num_tasks, targets[module.rows.train])
    val, test = module.rows.val, module.rows.test
    return Result(
        dataset=module.name,
        network=network,
        metric=module.metric,
        unit=module.unit if module.metric in ERRORS else "",
        val=score(module, predictions["validation"], targets[val]),
        test=score(module, predictions["test"], targets[test]),
        baseline=score(module, mean.expand(len(test), -1), targets[test]),
        parameters=0,
        epochs=epochs,
        seconds=seconds,
    )


def scores(module: GraphDataModule, predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """All metrics of predictions [rows, T] for targets [rows, T]."""
    metrics = metrics_of(module.task, module.num_tasks)
    metrics.update(predictions, targets)
    return {name: value.item() for name, value in metrics.compute().items()}


def score(module: GraphDataModule, predictions: Tensor, targets: Tensor) -> float:
    """The data's metric of predictions [rows, T] for targets [rows, T]."""
    return scores(module, predictions, targets)[module.metric]


def scores_of_parts(module: GraphDataModule, predictions: Predictions) -> dict[str, dict[str, float]]:
    """All metrics of the validation rows, the test rows, and the test rows of each of the data's subsets.

    Of regressions Pearson's correlation too, which some sets were published with.
    """
    targets, rows = module.dataset.tensors["y"].double(), rows_of(module)
    found = {part: scores(module, values, targets[rows[part]]) for part, values in predictions.items()}
    for name, mask in module.subsets.items():
        chosen = mask[rows["test"]]
        if chosen.any():
            found[name] = scores(module, predictions["test"][chosen], targets[rows["test"][chosen]])
    if module.task == "regression":
        for part, values in predictions.items():
            found[part]["pearson"] = PerTask(pearson_corrcoef)(values, targets[rows[part]]).item()
    return found
