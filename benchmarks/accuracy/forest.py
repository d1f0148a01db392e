"""What tables have beside networks: a random forest on fingerprints, and boosted trees on descriptors too."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import rdkit
import torch
from numpy.typing import NDArray
from rdkit.Chem import rdFingerprintGenerator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.outcome import Predictions, outcome, rows_of
from plstm_graph.chem import read_smiles
from plstm_graph.chem.descriptors import descriptor_names, rdkit_descriptors
from plstm_graph.commands import forest
from plstm_graph.commands.fit import Result
from plstm_graph.commands.forest import count_fingerprints
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.descriptors import table_columns
from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.errors import InputError
from plstm_graph.models import Graphs
from plstm_graph.models.fingerprint import environment_counts

RADIUS, BITS, TREES, SMALLEST_LEAF = 2, 1024, 300, 2
#: Size of the fingerprints of graphs that are no molecules.
COUNTS = 4096


def fingerprints(smiles: list[str]) -> NDArray[np.uint8]:
    """Morgan fingerprints, [molecules, bits]; zeros where RDKit cannot read a SMILES."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return _readable(smiles, lambda text: generator.GetFingerprintAsNumPy(read_smiles(text)))


def counts_of(smiles: list[str]) -> NDArray[np.uint32]:
    """Counts as the verb ``train`` has them, [molecules, size]; zeros where RDKit cannot read a SMILES."""
    return _readable(smiles, lambda text: count_fingerprints([text])[0])


def _readable(smiles: list[str], read: Callable[[str], NDArray[np.generic]]) -> NDArray[np.generic]:
    """What is read of each SMILES, [molecules, size]."""
    rows = np.zeros((len(smiles), len(read("C"))), read("C").dtype)
    unread = 0
    for row, text in zip(rows, smiles, strict=True):
        try:
            row[:] = read(text)
        except InputError:
            unread += 1
    if unread:
        warnings.warn(
            f"RDKit cannot read {unread} of {len(smiles)} SMILES; their fingerprints are zeros.", stacklevel=3
        )
    return rows


def features_of(graphs: PackedGraphs) -> NDArray[np.generic]:
    """Morgan fingerprints of molecules, counts of environments of other graphs: [graphs, size]."""
    if graphs.smiles is not None:
        return fingerprints(graphs.smiles)
    batch = Graphs.from_data(graphs.__getitems__(range(len(graphs))))
    return environment_counts(batch, COUNTS, radius=3).numpy()


def known_columns(module: GraphDataModule) -> NDArray[np.float32]:
    """What is known of molecules beside their structure, [molecules, columns]; RDKit can tell the rest."""
    chosen = [module.descriptor_names.index(name) for name in table_columns(module.descriptor_names)]
    values = module.dataset.tensors.get("descriptors")
    return np.empty((len(module.dataset), 0)) if values is None else values[:, chosen].numpy()


def descriptors_of(module: GraphDataModule) -> NDArray[np.float32]:
    """RDKit's 2D descriptors of molecules, [molecules, descriptors], kept beside the prepared graphs."""
    file = module.prepared_file.with_suffix(f".rdkit-{rdkit.__version__}.npy")
    if not file.is_file():
        molecules = list(map(read_smiles, module.dataset.smiles))
        with whole_file(file, "wb") as opened:
            np.save(opened, rdkit_descriptors(molecules, descriptor_names()))
    return np.load(file)


def fit_forest(module: GraphDataModule, seed: int) -> tuple[Result, Predictions]:
    """Train a forest for each task on its labelled graphs, and score it as networks are scored.

    Of molecules it reads counts of environments and columns of the data, and has the settings of the verb
    ``train``.

    Args:
        module: Molecules, or other graphs; set up.
        seed: Of the forests.
    """
    started = time.monotonic()
    if module.dataset.smiles is None:
        every = forest_predictions(module, features_of(module.dataset), seed)
        return _outcome(module, f"Circular fingerprint, {TREES} trees", every, started)
    features = np.hstack([counts_of(module.dataset.smiles), known_columns(module)])
    settings = forest.usual_forest(module, seed)
    every = forest.forest_predictions(module, features, **settings)
    return _outcome(module, f"Count fingerprint, {settings['n_estimators']} trees", every, started)


def fit_boosting(module: GraphDataModule, seed: int) -> tuple[Result, Predictions]:
    """Train scikit-learn's gradient boosting with its defaults, never stopped early, likewise.

    It reads counts of environments, RDKit's 2D descriptors and columns of the data.
    """
    descriptors = descriptors_of(module)
    started = time.monotonic()
    parts = [counts_of(module.dataset.smiles), descriptors, known_columns(module)]
    settings = {"early_stopping": False, "random_state": seed}
    models = HistGradientBoostingRegressor(**settings), HistGradientBoostingClassifier(**settings)
    with threadpool_limits(1):  # as everything in a table; its threads would spin beside those of other runs
        every = forest.fitted_predictions(module, np.hstack(parts), *models)
    return _outcome(module, "Gradient boosting, counts and descriptors", every, started)


def _outcome(
    module: GraphDataModule, label: str, every: torch.Tensor, started: float
) -> tuple[Result, Predictions]:
    seconds = time.monotonic() - started
    predictions = {part: every[rows] for part, rows in rows_of(module).items()}
    return outcome(module, label, predictions, epochs=0, seconds=seconds), predictions


def forest_predictions(module: GraphDataModule, features: NDArray[np.generic], seed: int) -> torch.Tensor:
    """Values or probabilities of all graphs of a module that is set up: [graphs, T] float64."""
    settings = {"n_estimators": TREES, "min_samples_leaf": SMALLEST_LEAF, "random_state": seed}
    return forest.forest_predictions(module, features, **settings)
