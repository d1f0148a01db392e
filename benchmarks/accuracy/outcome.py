"""Predictions made outside this package's networks, scored as theirs are."""

from torch import Tensor

from plstm_graph.commands.fit import Result
from plstm_graph.datasets import GraphDataModule
from plstm_graph.metrics import mean_prediction, metrics_of


def outcome(
    module: GraphDataModule, network: str, predictions: Tensor, epochs: int, seconds: float
) -> Result:
    """Predictions of all rows [rows, T], float64, scored as networks are scored."""
    targets = module.dataset.tensors["y"].double()
    mean = mean_prediction(module.task, module.num_tasks, targets[module.rows.train])
    val, test = module.rows.val, module.rows.test
    return Result(
        dataset=module.name,
        network=network,
        metric=module.metric,
        unit=module.unit,
        val=score(module, predictions[val], targets[val]),
        test=score(module, predictions[test], targets[test]),
        baseline=score(module, mean.expand(len(test), -1), targets[test]),
        parameters=0,
        epochs=epochs,
        seconds=seconds,
    )


def score(module: GraphDataModule, predictions: Tensor, targets: Tensor) -> float:
    """The data's metric of predictions [rows, T] for targets [rows, T]."""
    metrics = metrics_of(module.task, module.num_tasks)
    metrics.update(predictions, targets)
    return metrics.compute()[module.metric].item()
