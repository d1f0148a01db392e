"""What tables have beside networks: a random forest on fingerprints, and boosted trees on descriptors too."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import rdkit
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.outcome import Predictions, outcome, rows_of
from plstm_graph.chem import read_each
from plstm_graph.chem.descriptors import descriptor_names, rdkit_descriptors
from plstm_graph.commands.forest import (
    count_fingerprints,
    fitted_predictions,
    forest_predictions,
    known_columns,
    usual_forest,
)
from plstm_graph.commands.report import Result
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.models import Graphs
from plstm_graph.models.fingerprint import environment_counts

#: Size of the fingerprints of graphs that are no molecules.
COUNTS = 4096


def counts_of(graphs: PackedGraphs) -> NDArray[np.generic]:
    """Counts of circular environments, [graphs, size]: of molecules as the verb ``train`` has them.

    They are zeros where RDKit cannot read a SMILES.
    """
    if graphs.smiles is None:
        batch = Graphs.from_data(graphs.__getitems__(range(len(graphs))))
        return environment_counts(batch, COUNTS, radius=3).numpy()
    mols = read_each(graphs.smiles)
    if unread := len(graphs) - len(mols):
        warnings.warn(
            f"RDKit cannot read {unread} of {len(graphs)} SMILES; their fingerprints are zeros.", stacklevel=2
        )
    return _in_place(count_fingerprints(mols.values()), mols, len(graphs), 0)


def _in_place(values: NDArray[np.generic], places: Iterable[int], rows: int, lacking: float) -> NDArray[Any]:
    """Values [n, columns] in some of so many rows, and another value in all others."""
    filled = np.full((rows, values.shape[1]), lacking, values.dtype)
    filled[[*places]] = values
    return filled


def descriptors_of(module: GraphDataModule) -> NDArray[np.float32]:
    """RDKit's 2D descriptors of molecules, [molecules, descriptors], kept beside the prepared graphs.

    They are missing where RDKit cannot read a SMILES.
    """
    file = module.prepared_file.with_suffix(f".rdkit-{rdkit.__version__}.npy")
    if not file.is_file():
        mols = read_each(module.dataset.smiles)
        values = rdkit_descriptors([*mols.values()], descriptor_names())
        with whole_file(file, "wb") as opened:
            np.save(opened, _in_place(values, mols, len(module.dataset), np.nan))
    return np.load(file)


def fit_forest(module: GraphDataModule, seed: int) -> tuple[Result, Predictions]:
    """Train a forest for each task on its labelled graphs, and score it as networks are scored.

    It reads counts of environments and columns of the data, and has the settings of the verb ``train``.

    Args:
        module: Data that are set up.
        seed: Of the forests.
    """
    started = time.monotonic()
    features = np.hstack([counts_of(module.dataset), known_columns(module)])
    settings = usual_forest(module, seed)
    every = forest_predictions(module, features, **settings)
    return _outcome(module, f"Count fingerprint, {settings['n_estimators']} trees", every, started)


def fit_boosting(module: GraphDataModule, seed: int) -> tuple[Result, Predictions]:
    """Train scikit-learn's gradient boosting with its defaults, never stopped early, likewise.

    It reads counts of environments, RDKit's 2D descriptors and columns of the data.
    """
    descriptors = descriptors_of(module)
    started = time.monotonic()
    parts = [counts_of(module.dataset), descriptors, known_columns(module)]
    settings = {"early_stopping": False, "random_state": seed}
    models = HistGradientBoostingRegressor(**settings), HistGradientBoostingClassifier(**settings)
    with threadpool_limits(1):  # as everything in a table; its threads would spin beside those of other runs
        every = fitted_predictions(module, np.hstack(parts), *models)
    return _outcome(module, "Gradient boosting, counts and descriptors", every, started)


def _outcome(
    module: GraphDataModule, label: str, every: torch.Tensor, started: float
) -> tuple[Result, Predictions]:
    seconds = time.monotonic() - started
    predictions = {part: every[rows] for part, rows in rows_of(module).items()}
    return outcome(module, label, predictions, epochs=0, seconds=seconds), predictions
