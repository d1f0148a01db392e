"""How sure predictions are, and how sure they say they are: intervals, probabilities and sets on test rows.

    python -m benchmarks.accuracy.calibration --root path/to/data        # many hours on two cores
    python -m benchmarks.accuracy.calibration --root path/to/data --datasets freesolv esol --seeds 1

For every set, split and seed the verb ``train`` trains some networks on 80 % of the molecules, and the
``Ensemble`` of the verb ``predict`` predicts for the 10 % that test; calibration knows the other 10 %. A seed
draws the random split and the networks; the scaffold split is one, and a seed draws the networks alone.
Coverage is the share of test values in the intervals of 90 %, or of the rows of a class whose set has it. The
expected calibration error has 15 bins; "before" is the mean of the networks as it is.

``--root`` holds ``moleculenet/``. Each run's outcome is a JSON file in the folder of its data set under
``--out``; runs that have theirs are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.accuracy.running import commit, keep, known
from benchmarks.accuracy.suites import FOLDERS
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS, ROOT, environment
from plstm_graph.commands.report import spread
from plstm_graph.datasets import MoleculeNet
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError

OUTCOMES = RESULTS / "calibration"
DATASETS, SPLITS = ("freesolv", "esol", "lipo", "hiv"), ("random", "scaffold")
_CONFIDENCE, _BINS, _BATCH, _ROWS = 0.9, 15, 256, 512


@dataclass(frozen=True)
class Run:
    """One split of one data set and the networks of one seed."""

    dataset: str
    split: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.split}-seed{self.seed}"


def train(run: Run, size: int, epochs: int | None, root: Path, cache: Path) -> dict[str, float]:
    """Train the networks of a run and score what they predict for its test rows."""
    place = root / FOLDERS["MoleculeNet"]
    module = MoleculeNet(run.dataset, place, split=run.split, split_seed=run.seed, cache=cache)
    module.prepare_data()
    module.setup()
    part = np.empty(len(module.dataset), object)
    for name, rows in module.rows._asdict().items():
        part[rows.numpy()] = name
    frame = pd.DataFrame({"smiles": module.dataset.smiles, "part": part})
    frame["y"] = module.dataset.tensors["y"].numpy()
    with tempfile.TemporaryDirectory() as folder:
        table, model = Path(folder) / f"{run.dataset}.csv", Path(folder) / "model"
        frame.to_csv(table, index=False)
        command = [sys.executable, str(ROOT / "train.py"), "train", "-i", str(table), "-o", str(model)]
        command += ["--target-columns", "y", "--split", "part", "--task-type", module.task]
        # Seeds of the networks of one run follow each other: those of the next begin behind them.
        command += ["--ensemble-size", str(size), "--seed", str(size * run.seed)]
        command += [] if epochs is None else ["--epochs", str(epochs)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise InputError(f"{run.name}: {result.stderr.strip()}")
        ensemble = Ensemble(sorted(model.glob("*.ckpt")))
    test = frame[frame["part"] == "test"]
    outputs, similarity = [], []
    read = {"fingerprints": True, "descriptors": ensemble.descriptor_names}
    for start in range(0, len(test), _ROWS):
        smiles = test["smiles"][start : start + _ROWS].tolist()
        featurised = featurise_smiles(start, smiles, set(ensemble.preparations), **read)
        outputs.append(np.stack(ensemble.evaluate(featurised, _BATCH, embed=False)))
        similarity.append(ensemble.reference.nearest(featurised.tensors["fingerprint"])[0][:, 0])
    truth, predictions = test["y"].to_numpy(), np.concatenate(outputs, 1)
    if module.task == "regression":
        return score_values(ensemble, predictions, truth, np.concatenate(similarity))
    return score_classes(ensemble, predictions, truth)


def score_values(
    ensemble: Ensemble, predictions: NDArray, truth: NDArray, similarity: NDArray
) -> dict[str, float]:
    """Scores of predictions [networks, rows, 1] of values [rows], at molecules this near to training's."""
    mean, std = ensemble.combine(predictions)
    lower, upper = (part[:, 0] for part in ensemble.calibration.intervals(mean, std, _CONFIDENCE))
    errors = np.abs(mean[:, 0] - truth)
    return {
        "RMSE": root_mean_squared_error(truth, mean[:, 0]),
        "coverage": float(((lower <= truth) & (truth <= upper)).mean()),
        "mean width": float((upper - lower).mean()),
        "rank correlation of error and width": _ranks(errors, upper - lower),
        "of error and distance": _ranks(errors, -similarity),
    }


def _ranks(errors: NDArray, others: NDArray) -> float:
    """Spearman's correlation, 0 with what is the same everywhere."""
    return float(spearmanr(errors, others).statistic) if np.ptp(others) > 1e-9 * np.abs(others).max() else 0.0


def score_classes(ensemble: Ensemble, predictions: NDArray, truth: NDArray) -> dict[str, float]:
    """Scores of probabilities [networks, rows, 1] of the second class [rows]."""
    before, after = predictions.mean(0, dtype=float)[:, 0], ensemble.combine(predictions).mean[:, 0]
    sets = ensemble.calibration.sets(after[:, None], _CONFIDENCE)[:, 0]
    scores: dict[str, float] = {"ROC-AUC": roc_auc_score(truth, before)}
    labels = torch.from_numpy(truth.astype(int))
    for name, values in {"before": before, "after": after}.items():
        error = binary_calibration_error(torch.from_numpy(values.copy()), labels, n_bins=_BINS)
        scores |= {f"calibration error {name}": float(error), f"log loss {name}": log_loss(truth, values)}
    scores |= {f"coverage of {number}": float(sets[truth == number, number].mean()) for number in (0, 1)}
    return scores | {
        "mean size": float(sets.sum(1).mean()),
        "temperature": float(ensemble.calibration.temperatures[0]),
    }


def markdown(results: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """A table for every kind of scores: set, split, seeds, means and deviations over seeds."""
    lines: list[str] = []
    names: list[str] = []
    for (dataset, split), runs in results.items():
        if list(runs[0]) != names:
            names = list(runs[0])
            lines += ["", f"| | split | seeds | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
        cells = [dataset, split, str(len(runs)), *(spread([run[name] for run in runs]) for name in names)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def main(argv: Sequence[str]) -> None:
    """Make what is missing, and print the tables."""
    parser = parser_of("accuracy.calibration", __doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    parser.add_argument("--ensemble-size", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="by default what train takes")
    add_data(parser)
    parser.add_argument("--out", type=Path, default=OUTCOMES)
    options = parser.parse_args(argv)
    rows = list(product(options.datasets, options.splits))
    runs = [Run(*row, seed) for row in rows for seed in range(options.seeds)]
    files: dict[Run, Path] = {run: options.out / f"{run.name}.json" for run in runs}
    settings = {"networks": options.ensemble_size, "epochs": options.epochs, "confidence": _CONFIDENCE}
    waiting = [run for run, file in files.items() if not known(file, settings)]
    setting: dict[str, Any] = {"commit": commit(), **environment()}
    for run in track(waiting, "Runs"):
        result = train(run, options.ensemble_size, options.epochs, options.root, options.cache)
        keep(files[run], setting, run, settings, result)
    results: dict[tuple[str, str], list[dict[str, float]]] = {row: [] for row in rows}
    for run, file in files.items():
        results[run.dataset, run.split].append(json.loads(file.read_text())["result"])
    print(markdown(results))


if __name__ == "__main__":
    launch(lambda: main(sys.argv[1:]))
