"""What trained networks are worth: test rows predicted and scored, beside a forest and the training mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from torch import Tensor

from plstm_graph.chem import read_smiles
from plstm_graph.commands.forest import count_fingerprints, forest_predictions, known_columns, usual_forest
from plstm_graph.commands.report import baseline_name, print_table, spread
from plstm_graph.datasets import CSV
from plstm_graph.datasets.files import whole_file, write_rows
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import counted
from plstm_graph.metrics import mean_prediction, metrics_of

_PANELS = 7  #: targets that the picture has room for
_FEW = 10  #: epochs that are drawn as points too


def assess(module: CSV, checkpoints: Sequence[Path], logs: Sequence[pd.DataFrame], folder: Path) -> None:
    """Write ``metrics.csv``, ``test_predictions.csv`` and ``report.png``, and print a table.

    Args:
        module: Data that are set up.
        checkpoints: Of the networks.
        logs: Losses and metrics of every network's epochs.
        folder: Folder of the files.
    """
    truth = module.test_targets.double()
    ensemble = Ensemble(checkpoints)
    networks = _predict(module, ensemble)
    parts = ensemble.combine([one.numpy() for one in networks])
    together = [torch.from_numpy(part) for part in parts if part is not None]
    mean = mean_prediction(module.task, module.num_tasks, module.train_targets.double())
    predictions = {
        "ensemble": together[0],
        **{path.stem: one for path, one in zip(checkpoints, networks, strict=True)},
        "random forest": _forest(module),
        baseline_name(module.metric): mean.expand(len(truth), -1),
    }
    scores = {model: _score(module, values, truth) for model, values in predictions.items()}
    _write_scores(module, predictions, truth, folder / "metrics.csv")
    _write_predictions(module, together, truth, folder / "test_predictions.csv")
    _draw(module, logs, predictions["ensemble"], truth, folder / "report.png")
    lines = {"one network": [path.stem for path in checkpoints]}
    if len(networks) > 1:
        lines = {f"mean of {len(networks)} networks": ["ensemble"]} | lines
    lines |= {model: [model] for model in ("random forest", baseline_name(module.metric))}
    measured = int((~truth.isnan()).any(1).sum())  # others have no part in any score
    rows = [
        {counted(measured, "test row"): label}
        | {metric: spread([scores[model][metric] for model in models]) for metric in scores["ensemble"]}
        for label, models in lines.items()
    ]
    print_table(" in ".join(filter(None, (module.name, module.unit))), rows)
    if truth.size(1) > 1:
        whatever = ", whatever their units" if module.task == "regression" else ""
        print(f"Scores are means over {truth.size(1)} targets{whatever}; metrics.csv has each.")


@torch.inference_mode()
def _predict(module: CSV, ensemble: Ensemble) -> Tensor:
    """Values or probabilities of the test rows by every network, [networks, rows, T] float64."""
    predictions = [
        torch.cat([network(batch) for batch in module.test_dataloader()]) for network in ensemble.predictors
    ]
    return torch.stack(predictions).double()


def _forest(module: CSV) -> Tensor:
    """Values or probabilities of the test rows by a forest on counts and columns, [rows, T] float64."""
    counts = count_fingerprints(map(read_smiles, module.dataset.smiles or []))
    features = np.hstack([counts, known_columns(module)], dtype=np.float32)
    predictions = forest_predictions(module, features, n_jobs=-1, **usual_forest(module))
    return predictions[module.rows.test]


def _score(module: CSV, predictions: Tensor, truth: Tensor) -> dict[str, float]:
    """The metrics of all targets [rows, T], or of some of them; first the one that selected checkpoints."""
    metrics = metrics_of(module.task, predictions.size(1))
    metrics.update(predictions, truth)
    values = {name: value.item() for name, value in metrics.compute().items()}
    return {module.metric: values.pop(module.metric)} | values


def _write_scores(module: CSV, predictions: Mapping[str, Tensor], truth: Tensor, path: Path) -> None:
    """A row for every model, and of several targets one for each target too."""
    rows = []
    for model, values in predictions.items():
        rows.append({"model": model, "target": "all"} | _score(module, values, truth))
        for i, target in enumerate(module.target_names if truth.size(1) > 1 else []):
            score = _score(module, values[:, [i]], truth[:, [i]])
            rows.append({"model": model, "target": target} | score)
    with whole_file(path, newline="", encoding="utf-8") as file:
        write_rows(file, [rows[0], *(row.values() for row in rows)])


def _write_predictions(module: CSV, together: Sequence[Tensor], truth: Tensor, path: Path) -> None:
    """Test rows as the verb ``predict`` has them, with what was measured."""
    names = module.target_names
    columns = {name: _text(values) for name, values in zip(names, truth.T, strict=False)}
    if module.task == "multiclass":
        known = truth[:, 0].tolist()
        columns = {"class": np.array([names[int(value)] if value == value else "" for value in known])}
    for kind, values in zip(("predicted", "std"), together, strict=False):
        columns |= {f"{kind}_{name}": _text(part) for name, part in zip(names, values.T, strict=True)}
    rows = module.rows.test.tolist()
    smiles = [(module.dataset.smiles or [])[row] for row in rows]
    in_table = module.dataset.tensors["row"][rows].tolist()
    with whole_file(path, newline="", encoding="utf-8") as file:
        write_rows(file, [["row", "smiles", *columns]])
        write_rows(file, zip(in_table, smiles, *columns.values(), strict=True))


def _text(values: Tensor) -> NDArray[np.str_]:
    """Numbers with the digits that float32 has, and nothing for NaN."""
    text = values.float().numpy().astype(str)
    return np.where(text == "nan", "", text)


def _draw(module: CSV, logs: Sequence[pd.DataFrame], predictions: Tensor, truth: Tensor, path: Path) -> None:
    """Draw learning curves, and for the test rows what was measured against what was predicted."""
    names = module.target_names
    panels = min(_PANELS, len(names)) if module.task == "regression" else 1
    lines = -(-(2 + panels) // 3)
    plt.rcParams["text.parse_math"] = False  # a target may be named like a formula
    figure, axes = plt.subplots(lines, 3, figsize=(13, 4 * lines), layout="constrained", squeeze=False)
    loss, score, *others = axes.flat
    for panel, column, label in (
        (loss, "train/loss", "training loss"),
        (score, f"val/{module.metric}", f"validation {module.metric}"),
    ):
        for log in logs:
            panel.plot("epoch", column, data=log.dropna(subset=column), marker="." if len(log) < _FEW else "")
        panel.set(xlabel="epoch", ylabel=label)
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")  # those of logarithms write formulas
    loss.yaxis.set_minor_formatter(NullFormatter())
    if module.task == "regression":
        for panel, name, measured, predicted in zip(others, names, truth.T, predictions.T, strict=False):
            _draw_parity(panel, name, measured, predicted)
        if panels < len(names):
            figure.suptitle(f"the first {panels} of {len(names)} targets")
    elif module.task == "classification":
        _draw_roc(others[0], names, truth, predictions)
    else:
        known = ~truth[:, 0].isnan()
        pair = truth[known, 0].int(), predictions[known].argmax(1)
        settings = {"labels": range(len(names)), "display_labels": names, "colorbar": False}
        ConfusionMatrixDisplay.from_predictions(*pair, ax=others[0], **settings)
    for panel in others[panels:]:
        panel.remove()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_parity(panel: Axes, name: str, measured: Tensor, predicted: Tensor) -> None:
    panel.scatter(measured, predicted, s=12, alpha=0.6)
    known = torch.cat([measured, predicted])[torch.cat([measured, measured]).isfinite()]
    if len(known):
        panel.axline((known.mean().item(),) * 2, slope=1, color="grey", linewidth=1)
    panel.set(xlabel=f"{name}, measured", ylabel="predicted")
    panel.set_aspect("equal", "datalim")


def _draw_roc(panel: Axes, names: Sequence[str], truth: Tensor, predictions: Tensor) -> None:
    for name, measured, predicted in zip(names, truth.T, predictions.T, strict=True):
        known = ~measured.isnan()
        if measured[known].unique().numel() == 2:  # else there is no curve
            RocCurveDisplay.from_predictions(measured[known], predicted[known], name=name, ax=panel)
    panel.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
