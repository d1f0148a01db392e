"""What a run leaves behind for people to look at: a learning curve and a closing table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")  # pictures go to files; a machine without a display is fine
from matplotlib import pyplot as plt


def save_learning_curve(metrics_csv: Path, picture: Path, metric: str, label: str) -> None:
    """Draw training loss and validation metric over the epochs.

    Args:
        metrics_csv: ``metrics.csv`` of Lightning's CSV logger.
        picture: PNG file to write.
        metric: Column of the validation metric.
        label: Axis label of the validation metric.
    """
    log = pd.read_csv(metrics_csv)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, column, name in (
        (left, "train/loss", "training loss"),
        (right, metric, f"validation {label}"),
    ):
        curve = log[["epoch", column]].dropna()
        axes.plot(curve["epoch"], curve[column], color="tab:blue")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a table, the first column left-aligned."""
    table = Table(title=title)
    for position, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
