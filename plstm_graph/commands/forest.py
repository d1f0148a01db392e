"""The floor of every table: a random forest on fingerprints."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import Mol, rdFingerprintGenerator
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.descriptors import table_columns
from plstm_graph.normal_scores import NormalScores
from plstm_graph.predictor import BY_ORDER

_TREES, _DRAWN = 500, 10_000


def count_fingerprints(mols: Iterable[Mol]) -> NDArray[np.uint32]:
    """Counts of Morgan fingerprints of radius 2, [molecules, 2048]."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return np.stack([generator.GetCountFingerprintAsNumPy(mol) for mol in mols])


def known_columns(module: GraphDataModule) -> NDArray[np.float32]:
    """What is known of molecules beside their structure, [molecules, columns]; RDKit can tell the rest."""
    chosen = [module.descriptor_names.index(name) for name in table_columns(module.descriptor_names)]
    values = module.dataset.tensors.get("descriptors")
    return np.empty((len(module.dataset), 0), np.float32) if values is None else values[:, chosen].numpy()


def usual_forest(module: GraphDataModule, seed: int = 0) -> dict[str, Any]:
    """Settings of a forest: 500 trees, a third of the features at every split, of classes their root.

    No tree draws more than 10,000 rows, so that one of many rows does not take hours.
    """
    return {
        "n_estimators": _TREES,
        "max_features": 1 / 3 if module.task == "regression" else "sqrt",
        "max_samples": _DRAWN if len(module.rows.train) > _DRAWN else None,
        "random_state": seed,
    }


def forest_predictions(
    module: GraphDataModule, features: NDArray[np.generic], **settings: Any
) -> torch.Tensor:
    """Values or probabilities of all rows by a forest, see :func:`fitted_predictions`.

    Args:
        module: Data that are set up.
        features: [graphs, size].
        **settings: Arguments of scikit-learn's forests.
    """
    forests = RandomForestRegressor(**settings), RandomForestClassifier(**settings)
    return fitted_predictions(module, features, *forests)


def fitted_predictions(
    module: GraphDataModule, features: NDArray[np.generic], regressor: Any, classifier: Any
) -> torch.Tensor:
    """Fit a model for each target to its labelled training rows, and predict for all rows.

    Values are learned as networks learn them: by their normal scores where the metric asks for order.

    Args:
        module: Data that are set up.
        features: [graphs, size].
        regressor: One of scikit-learn's, which is cloned.
        classifier: Likewise.

    Returns:
        Values or probabilities, [graphs, T] float64.
    """
    targets = module.dataset.tensors["y"].double()
    train = module.rows.train.numpy()
    classes = {"regression": [], "classification": [1], "multiclass": list(range(module.num_tasks))}
    model = regressor if module.task == "regression" else classifier
    scores = NormalScores(module.num_tasks).double() if module.metric in BY_ORDER else None
    if scores is not None:
        scores.fit(targets[train])
        targets = scores(targets)
    predictions = [
        _predict(features, column.numpy(), train, classes[module.task], clone(model))
        for column in targets.unbind(1)
    ]
    every = torch.tensor(np.concatenate(predictions, 1))
    return every if scores is None else scores.inverse(every)


def _predict(
    features: NDArray[np.generic],
    targets: NDArray[np.float64],
    train: NDArray[np.int64],
    classes: list[int],
    model: Any,
) -> NDArray[np.float64]:
    """Probabilities of the classes, or values if there are none, of all graphs: [graphs, classes or 1]."""
    rows = train[~np.isnan(targets[train])]
    if (model.get_params().get("max_samples") or 0) > len(rows):  # of this target fewer are known
        model.set_params(max_samples=None)
    model.fit(features[rows], targets[rows])
    if not classes:
        return np.asarray(model.predict(features))[:, None]
    shares = dict(zip(model.classes_, model.predict_proba(features).T, strict=True))
    return np.stack([shares.get(number, np.zeros(len(features))) for number in classes], 1)
