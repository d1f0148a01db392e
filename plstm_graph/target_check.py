"""Targets that cannot be learned or scored, in sentences that name them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from plstm_graph.errors import InputError, listed
from plstm_graph.predictor import Task


@dataclass(frozen=True)
class TargetCheck:
    """What targets of a task have to be.

    Args:
        task: See :class:`~plstm_graph.task.GraphTask`.
        outputs: Number of targets, or of classes if the task is a choice of one.
        names: Of the targets; numbers stand for them otherwise.
    """

    task: Task
    outputs: int
    names: list[str] | None = None

    def check(self, targets: Tensor, rows: Tensor | None = None) -> None:
        """Refuse values that cannot be learned.

        Args:
            targets: [n, T], or [n, 1] of classes; NaN where a value is missing.
            rows: Rows of a table [n] in which they stand.

        Raises:
            InputError: Another number of targets, infinite values, or classes that there are none of.
        """
        columns = 1 if self.task == "multiclass" else self.outputs
        if targets.dim() != 2 or targets.size(1) != columns:
            raise InputError(
                f"Targets have shape {list(targets.shape)}, but the network predicts {columns} "
                "values per graph."
            )
        strange = targets.isinf()
        last = self.outputs - 1 if self.task == "multiclass" else 1
        if self.task != "regression":
            strange |= ((targets != targets.round()) | (targets < 0) | (targets > last)) & ~targets.isnan()
        if not strange.any():
            return
        graph, column = strange.nonzero()[0].tolist()
        where = f"graph {graph}" if rows is None else f"row {int(rows[graph])} of the table"
        value = f"{self._named([column])} the value {targets[graph, column]:g} in {where}"
        if self.task != "regression":
            raise InputError(f"{value}, but classes are numbered from 0 to {last}.")
        raise InputError(f"{value}, or one too large for float32; write NaN for missing values.")

    def check_known(self, train: Tensor) -> None:
        """Refuse training targets, as :meth:`check` takes them, of which one has no value."""
        known = _distinct(train)
        if 0 in known:
            raise InputError(f"{self._named([known.index(0)])} no value in the training split.")

    def constant(self, train: Tensor) -> str | None:
        """Say of which training targets there is one value only."""
        columns = [column for column, number in enumerate(_distinct(train)) if number == 1]
        if not columns:
            return None
        return f"{self._named(columns)} one value in all training graphs: there is nothing else to learn."

    def unscored(self, val: Tensor, metric: str) -> tuple[str, str] | None:
        """Name the loss that selects epochs if validation targets leave a metric undefined, and say why."""
        found = _distinct(val)
        if max(found) >= (2 if self.task == "classification" or metric == "spearman" else 1):
            return None
        loss, part = ("val/loss", "validation") if any(found) else ("train/loss", "training")
        one = "one class" if self.task == "classification" else "one value"
        lack = "no label" if not any(found) else one if all(found) else f"{one} or no label"
        return loss, (
            f"{self._named(range(len(found)))} {lack} in the validation graphs, which leaves {metric} "
            f"undefined: the {part} loss selects the epoch."
        )

    def _named(self, columns: Sequence[int]) -> str:
        """Targets as a sentence begins with them."""
        if self.task == "multiclass":  # whose names are those of the classes
            return "The class has"
        names = self.names or range(self.outputs)
        several = len(columns) > 1
        return f"{'Targets' if several else 'Target'} {listed([names[column] for column in columns])} " + (
            "have" if several else "has"
        )


def _distinct(targets: Tensor) -> list[int]:
    """How many values every column [n] has, apart from NaN."""
    return [values[~values.isnan()].unique().numel() for values in targets.unbind(1)]
