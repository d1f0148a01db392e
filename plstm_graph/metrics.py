"""Metrics of several targets, some of whose values are missing."""

import math
from collections.abc import Callable
from functools import partial

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional import mean_absolute_error, mean_squared_error, spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat


class PerTask(Metric):
    """Mean over the tasks of a metric of each task's labelled graphs.

    Tasks without a label are left out, and for classification those with one class only. With no
    task left the value is NaN.

    Args:
        metric: Function of predictions [n] and targets [n] to a scalar.
        binary: Whether targets are classes 0 and 1.
    """

    full_state_update = False
    preds: list[Tensor]
    targets: list[Tensor]

    def __init__(self, metric: Callable[[Tensor, Tensor], Tensor], binary: bool = False) -> None:
        super().__init__()
        self.metric = metric
        self.binary = binary
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """Collect a batch; both are [B, T], and a NaN target is no label."""
        self.preds.append(preds)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Return the mean over the tasks."""
        preds, targets = dim_zero_cat(self.preds), dim_zero_cat(self.targets)
        values = []
        for pred, target in zip(preds.unbind(1), targets.unbind(1), strict=True):
            labelled = ~target.isnan()
            pred, target = pred[labelled], target[labelled]
            if self.binary:
                target = target.long()
            if target.numel() and (not self.binary or target.min() != target.max()):
                values.append(self.metric(pred, target))
        return torch.stack(values).mean() if values else preds.new_tensor(math.nan)


def regression_metrics() -> MetricCollection:
    """Root mean squared and mean absolute error, in the targets' unit, and Spearman's rank correlation.

    The correlation is 0 where predictions or targets are constant.
    """
    return MetricCollection(
        {
            "rmse": PerTask(_root_mean_squared_error),
            "mae": PerTask(mean_absolute_error),
            "spearman": PerTask(_spearman),
        },
        compute_groups=False,
    )


def classification_metrics() -> MetricCollection:
    """Areas under the ROC curve and the precision-recall curve (average precision).

    They equal those of OGB's Evaluator, which takes them from scikit-learn too.
    """
    return MetricCollection(
        {
            "roc_auc": PerTask(partial(_score, roc_auc_score), binary=True),
            "average_precision": PerTask(partial(_score, average_precision_score), binary=True),
        },
        compute_groups=False,
    )


class Accuracy(MulticlassAccuracy):
    """Share of the labelled graphs whose likeliest class is the right one."""

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """Count a batch: preds are [B, classes], targets [B, 1] classes or NaN."""
        labelled = ~targets.squeeze(1).isnan()
        if labelled.any():
            super().update(preds[labelled], targets[labelled].squeeze(1).long())


def multiclass_metrics(classes: int) -> MetricCollection:
    """Accuracy."""
    return MetricCollection({"accuracy": Accuracy(classes, average="micro")})


#: What selects checkpoints of a :data:`~plstm_graph.task.Task`, if nothing else is said.
SELECTING = {"regression": "rmse", "classification": "roc_auc", "multiclass": "accuracy"}


#: Metrics of which less is better, and which have the targets' unit.
ERRORS = ("rmse", "mae")


def metrics_of(task: str, outputs: int) -> MetricCollection:
    """Metrics of a :data:`~plstm_graph.task.Task` with that many outputs."""
    if task == "multiclass":
        return multiclass_metrics(outputs)
    return regression_metrics() if task == "regression" else classification_metrics()


def mean_prediction(task: str, outputs: int, targets: Tensor) -> Tensor:
    """Predict without a look at the inputs [outputs]: means of the known targets [n, T].

    Of classes it is how often each occurs.
    """
    if task == "multiclass":
        return F.one_hot(targets[~targets.isnan()].long(), outputs).to(targets.dtype).mean(0)
    return targets.nanmean(0)


def _root_mean_squared_error(preds: Tensor, target: Tensor) -> Tensor:
    return mean_squared_error(preds, target, squared=False)


def _spearman(preds: Tensor, target: Tensor) -> Tensor:
    value = spearman_corrcoef(preds, target)
    # By torchmetrics, NaN has a rank.
    return value if preds.isfinite().all() else torch.full_like(value, math.nan)


def _score(score: Callable[..., float], preds: Tensor, target: Tensor) -> Tensor:
    """One of scikit-learn's scores for tensors, in float64; NaN of predictions that are not finite."""
    if not preds.isfinite().all():
        return preds.new_full((), math.nan, dtype=torch.float64)
    value = score(target.cpu().numpy(), preds.double().cpu().numpy())
    return torch.tensor(value, dtype=torch.float64, device=preds.device)
