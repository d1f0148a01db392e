"""Reports of a run: its learning curve, its outcome and its closing table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import pandas as pd
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.markup import escape
from rich.table import Table

matplotlib.use("Agg")  # pictures go to files; a machine without a display is fine
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Result:
    """Outcome of one training run; ``val``, ``test`` and ``baseline`` are values of ``metric``."""

    dataset: str
    network: str
    metric: str
    unit: str
    val: float
    test: float
    baseline: float
    parameters: int
    epochs: int
    seconds: float


class LearningCurve(Callback):
    """Draws the training loss and what selects epochs over all epochs, those before a resumption too.

    Args:
        metric: Name under which is logged what selects epochs.
        label: Its axis label.
    """

    def __init__(self, metric: str, label: str) -> None:
        self.metric = metric
        self.label = label
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, for the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the epochs of a checkpoint."""
        self.epochs = state_dict["epochs"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note down an epoch."""
        logged = trainer.callback_metrics
        values = {name: logged[name].item() for name in ("train/loss", self.metric) if name in logged}
        self.epochs.append({"epoch": trainer.current_epoch, **values})

    def save(self, picture: Path) -> None:
        """Write the curves as PNG."""
        labels = {"train/loss": "training loss", self.metric: self.label}
        curves = pd.DataFrame(self.epochs, columns=["epoch", *labels])
        size = 4.5 * len(labels), 3.5
        figure, [panels] = plt.subplots(1, len(labels), figsize=size, layout="constrained", squeeze=False)
        for axes, (column, name) in zip(panels, labels.items(), strict=True):
            axes.plot("epoch", column, data=curves.dropna(subset=column), color="tab:blue")
            axes.set(xlabel="epoch", ylabel=name)
            axes.grid(alpha=0.3)
        panels[0].set_yscale("log")
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=150)
        plt.close(figure)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a table, the first column left-aligned."""
    table = Table(title=escape(title))  # units have brackets
    for position, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def print_scores(
    title: str, result: Result, tested: Mapping[str, float], baseline: Mapping[str, Any]
) -> None:
    """Print all test metrics of a run beside those of the training mean, or that there were no test rows."""
    rows = [
        {
            "test": name.removeprefix("test/"),
            result.network: spread([tested[name]]),
            baseline_name(result.metric): spread([float(value)]),
        }
        for name, value in baseline.items()
    ]
    if rows:
        print_table(title, rows)
    else:
        print("The split has no test rows: nothing was tested.")


def spread(values: Sequence[float]) -> str:
    """Mean and unbiased standard deviation of several runs, if they have any."""
    if any(map(isnan, values)):
        return "undefined"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def baseline_name(metric: str) -> str:
    """What predicts without a look at the inputs: of classes it is the most frequent one."""
    return "majority class" if metric == "accuracy" else "training mean"
