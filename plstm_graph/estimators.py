"""Estimators in scikit-learn's manner, which train as the command line's verb ``train`` does."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from rdkit.Chem import Mol, MolToSmiles
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from plstm_graph.calibration import Array, Calibration
from plstm_graph.commands.pool import unchanged
from plstm_graph.datasets.featurise import Featurised, featurise_smiles
from plstm_graph.datasets.targets import Column, read_targets
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError, counted
from plstm_graph.predictor import Task
from plstm_graph.ranges import check_range

_CHUNK, _BATCH = 2048, 256  # molecules that are predicted at once, and graphs that a network takes at once
_SMILES, _PART, _DESCRIPTION = "smiles", "part of the split", "estimator.json"

#: Options of ``fit`` that are parameters, by the last part of their names.
_OPTIONS = (
    *("model.network.hidden_channels", "model.network.num_layers", "model.network.dropout"),
    *("model.learning_rate", "data.batch_size", "data.descriptors", "patience", "init_from"),
)


@dataclass(eq=False, repr=False, kw_only=True)
class _Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    ensemble_size: int = 1
    max_epochs: int | None = None
    hidden_channels: int = 64
    num_layers: int = 4
    dropout: float = 0.1
    learning_rate: float = 2e-3
    batch_size: int = 32
    validation_fraction: float = 0.1
    patience: int | None = 20
    descriptors: str | None = "rdkit"
    init_from: str | Path | None = None
    options: dict[str, Any] | None = None
    random_state: int | np.random.RandomState | None = 0
    n_jobs: int | None = None
    verbose: bool = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        tags.target_tags.required = tags.target_tags.multi_output = tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _train(self, X: Any, targets: pd.DataFrame, task: Task, classes: NDArray[Any] | None = None) -> Self:
        """Train on targets [n, T]; classes [n] get the same shares of the validation rows, if they can."""
        smiles, cells = _molecules(X)
        check_consistent_length(smiles, targets)
        if len(smiles) < 2:
            raise InputError(
                "There is one sample, which is too few: one at least trains, and another validates."
            )
        check_range(1, ensemble_size=self.ensemble_size, max_epochs=self.max_epochs)
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"validation_fraction must be above 0 and below 1, not {self.validation_fraction}."
            )
        if classes is not None:
            counts = np.unique(classes, return_counts=True)[1]
            shared = counts.min() > 1 and len(counts) <= self.validation_fraction * len(classes)
            classes = classes if shared else None
        seed = int(check_random_state(self.random_state).randint(2**31))
        drawn = {"test_size": self.validation_fraction, "random_state": seed, "stratify": classes}
        parts = np.full(len(smiles), "train", object)
        parts[train_test_split(range(len(smiles)), **drawn)[1]] = "val"
        others = pd.DataFrame({_SMILES: smiles, _PART: parts} | cells)
        names = pd.Index([*targets, *others])
        if names.has_duplicates:
            twice = names[names.duplicated()][0]
            raise InputError(
                f"{twice!r} is the name of two columns of X and y; leave what is to be predicted out of "
                "X, and rename what is another quantity."
            )
        settings: dict[str, Any] = {"smiles_column": _SMILES, "split": _PART, "task": task}
        settings |= {"target_columns": list(targets), "descriptor_columns": list(cells) or None}
        given = {name: getattr(self, name.rpartition(".")[2]) for name in _OPTIONS} | (self.options or {})
        ours = {*(f"data.{name}" for name in (*settings, "path", "unreadable")), "seed_everything"}
        if taken := [name for name in given if name.replace(".init_args", "") in ours]:
            raise InputError(f"options cannot have {taken[0]!r}, which the estimator sets itself.")
        options = [f"--{name}={_text(value)}" for name, value in given.items()]
        with unchanged(), TemporaryDirectory(ignore_cleanup_errors=True) as place:
            from plstm_graph.commands.train import configure, read_table, train_networks

            folder, jobs = Path(place), effective_n_jobs(self.n_jobs)
            settings |= {"path": str(folder / "X.parquet"), "unreadable": "refuse"}
            pd.concat([targets, others], axis=1).to_parquet(settings["path"], index=False)
            config = configure(folder, settings, seed, self.max_epochs, options)
            try:
                module = read_table(folder, config, "fit")
            except InputError as error:
                raise InputError(str(error).replace(settings["path"], "X")) from error
            train_networks(folder, config, module, self.ensemble_size, jobs, not self.verbose)
            self.checkpoints_ = _read(folder, self.ensemble_size)
        self.target_names_ = list(targets)
        return self

    @property
    def ensemble_(self) -> Ensemble:
        """The networks, which are neither copied nor pickled with the estimator."""
        check_is_fitted(self, "checkpoints_")
        return _ensemble(tuple(self.checkpoints_))

    @property
    def _n_features_out(self) -> int:
        """Width of what :meth:`transform` gives."""
        return sum(predictor.network.embedding_channels for predictor in self.ensemble_.predictors)

    @property
    def _calibration(self) -> Calibration:
        if self.ensemble_.calibration is None:
            raise InputError("The networks do not know how far they err on validation rows; fit again.")
        return self.ensemble_.calibration

    def _graphs(self, X: Any) -> Iterator[Featurised]:
        """Graphs of molecules, some at a time, as DAGs take much memory."""
        names, preparations = self.ensemble_.descriptor_names, set(self.ensemble_.preparations)
        smiles, cells = _molecules(X)
        wanted = set(self.ensemble_.columns)
        if cells.keys() != wanted:
            raise InputError(
                f"X has {sorted(cells)} beside the molecules, but fit had {sorted(wanted)}: pass the same "
                "columns."
            )
        broken = []
        for start in range(0, len(smiles), _CHUNK):
            rows = slice(start, start + _CHUNK)
            columns = {name: cells[name][rows] for name in wanted}
            part = featurise_smiles(start, smiles[rows], preparations, descriptors=names, cells=columns)
            broken += [f"Row {row.row}: {row.reason}" for row in part.unreadable]
            if not broken:
                yield part
        if broken:
            raise InputError(
                f"{counted(len(broken), 'row')} of X cannot be read (rows count from 0). {' '.join(broken)}"
            )

    def _predict(self, X: Any) -> tuple[Array, Array | None]:
        """Mean [n, T] and deviation of the networks."""
        parts = [self.ensemble_.predict(part, _BATCH) for part in self._graphs(X)]
        means, stds = zip(*parts, strict=True)
        return np.concatenate(means), None if stds[0] is None else np.concatenate(stds)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed molecules: what the networks' heads predict from, side by side, [n, channels]."""
        call = self.ensemble_.evaluate
        return np.concatenate([np.hstack(call(part, _BATCH, embed=True)) for part in self._graphs(X)])

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a folder, whole or not at all, that ``plstm-graph predict --model-paths`` reads too.

        Raises:
            InputError: It cannot be written, or is there already, and not to be overwritten.
        """
        check_is_fitted(self, "checkpoints_")
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        with unchanged():
            from plstm_graph.commands.train import new_folder
        with new_folder(Path(folder), overwrite) as place:
            checkpoints = fitted.pop("checkpoints_")
            for number, checkpoint in enumerate(checkpoints):
                (place / f"model_{number}.ckpt").write_bytes(checkpoint)
            parameters = self.get_params()
            if isinstance(self.random_state, np.random.RandomState):
                parameters["random_state"] = None  # no file holds its state: a refit draws anew
            state = {"class": type(self).__name__, "networks": len(checkpoints)}
            state |= {"parameters": parameters, "fitted": fitted}
            (place / _DESCRIPTION).write_text(_text(state))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` has written, or the verb ``train``.

        Raises:
            InputError: It cannot be read, or is of another class.
        """
        if not (Path(folder) / _DESCRIPTION).exists() and (Path(folder) / "model_0.ckpt").exists():
            return cls._of_train(Path(folder))
        try:
            state = json.loads((Path(folder) / _DESCRIPTION).read_text())
            if state["class"] != cls.__name__:
                raise InputError(f"{folder} is of a {state['class']}; use {state['class']}.load.")
            estimator = cls(**state["parameters"])
            estimator.checkpoints_ = _read(Path(folder), state["networks"])
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} is no folder of an estimator's save, nor of the verb train: {error}."
            ) from error
        for name, value in state["fitted"].items():
            setattr(estimator, name, np.array(value) if name == "classes_" else value)
        return estimator

    @classmethod
    def _of_train(cls, folder: Path) -> Self:
        """That of the networks in a folder of the verb ``train``."""
        estimator = cls(ensemble_size=len(list(folder.glob("model_*.ckpt"))))
        estimator.checkpoints_ = _read(folder, estimator.ensemble_size)
        ensemble = estimator.ensemble_
        if (ensemble.task == "regression") != issubclass(cls, RegressorMixin):
            raise InputError(f"{folder} is of a {ensemble.task}; load it by the other class.")
        choice = ensemble.task == "multiclass"
        estimator.target_names_ = ["class"] if choice else ensemble.targets
        estimator.ndim_ = min(len(estimator.target_names_), 2)
        if estimator.ndim_ == 1 and isinstance(estimator, PLSTMClassifier):
            names = np.array(ensemble.targets if choice else ensemble.class_names[0])
            labels = names.astype(int) if all(re.fullmatch(r"-?\d+", name) for name in names) else names
            estimator.classes_, estimator.order_ = np.sort(labels), labels.argsort().tolist()
        elif isinstance(estimator, PLSTMClassifier):
            estimator.classes_, estimator.order_ = np.array([[0, 1]] * len(ensemble.targets)), [0, 1]
        return estimator


def _read(folder: Path, number: int) -> list[bytes]:
    return [(folder / f"model_{place}.ckpt").read_bytes() for place in range(number)]


class PLSTMRegressor(RegressorMixin, _Estimator):
    """Regression of molecules by the networks of the verb ``train``, each as it was at its best epoch.

    Args:
        ensemble_size: Number of networks, whose mean is predicted.
        max_epochs: By default 15 to 100, fewer for more rows.
        hidden_channels, num_layers, dropout: Of the networks.
        learning_rate, batch_size: Of the training.
        validation_fraction: Share of the rows that choose the epoch and calibrate intervals.
        patience: Stop after this many epochs in which the validation metric did not improve.
        descriptors: ``"rdkit"`` gives networks RDKit's descriptors too, ``None`` nothing but the molecules.
        init_from: Checkpoint that networks start from.
        options: Further options of ``plstm-graph fit``, such as ``{"model.mixup": 1, "freeze": True}``.
        random_state: Seed of the networks and of the choice of validation rows.
        n_jobs: Networks that train at a time, in processes of their own; 1 or ``None`` trains in this one.
        verbose: Whether to show progress.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train.

        Args:
            X: n SMILES or RDKit molecules, or a data frame with SMILES in its column ``smiles`` and
                descriptors, NaN where missing, in all others.
            y: Targets, [n] or [n, T], NaN where missing; a data frame's columns keep their names.

        Raises:
            InputError: Something cannot be read or learned; nothing was trained.
        """
        targets = _numbers(y)
        if not (targets.abs().fillna(0) <= np.finfo(np.float32).max).all(axis=None):
            raise InputError("y has infinite values, or some too large for float32; write NaN where missing.")
        self._train(X, targets, "regression")
        self.ndim_ = np.asarray(y).ndim
        return self

    def predict(self, X: Any) -> Array:
        """Mean of the networks for molecules, in the shape of ``y``."""
        mean, _ = self._predict(X)
        return mean[:, 0] if self.ndim_ == 1 else mean

    def predict_interval(self, X: Any, confidence: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper bounds that hold the truth with a confidence, if molecules are as those of ``fit``.

        Raises:
            InputError: There were too few validation rows for this confidence.
        """
        lower, upper = self._calibration.intervals(*self._predict(X), confidence)
        return (lower[:, 0], upper[:, 0]) if self.ndim_ == 1 else (lower, upper)


class PLSTMClassifier(ClassifierMixin, _Estimator):
    """Classification of molecules, with the parameters of :class:`PLSTMRegressor`."""

    def fit(self, X: Any, y: Any) -> Self:
        """Train.

        Args:
            X: Molecules, as for :class:`PLSTMRegressor`.
            y: Labels of any kind, [n]; or 0, 1 or NaN for every target, [n, T].

        Raises:
            InputError: Something cannot be read or learned; nothing was trained.
        """
        table = _named(y)
        if table.shape[1] > 1:
            table = _numbers(y)
            if not table.isin([0, 1, np.nan]).all(axis=None):
                raise InputError("y of several targets must be 0, 1, or NaN where missing.")
            self._train(X, table, "classification")
            self.ndim_, self.classes_, self.order_ = 2, np.array([[0, 1]] * table.shape[1]), [0, 1]
            return self
        labels = np.asarray(y).ravel()
        if pd.isna(labels).any():
            raise InputError(f"y has no label in row {pd.isna(labels).argmax()}; leave such rows out.")
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        number, column = len(classes), Column("y", classes.tolist())
        if number < 2:
            raise InputError(f"y has one class, {labels[0]}; a classifier needs two.")
        task: Task = "classification" if number == 2 else "multiclass"
        # Labels that a table would take for missing, for one or for no classes go by their numbers.
        order = np.arange(number)
        if column.known.all() and (number > 2 or column.classes(any_words=True) is not None):
            read = read_targets([column], task, "y").values[:, 0].astype(int)
            if sorted(read) == order.tolist():
                order, codes = read, labels
        table[table.columns[0]] = codes
        self._train(X, table, task, labels)
        self.ndim_, self.classes_, self.order_ = 1, classes, order.tolist()
        return self

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities of the classes, [n, C], or of the 1 of each of several targets, [n, T]."""
        mean, _ = self._predict(X)
        if self.ndim_ == 2:
            return mean
        return (np.hstack([1 - mean, mean]) if mean.shape[1] == 1 else mean)[:, self.order_]

    def predict(self, X: Any) -> NDArray[Any]:
        """Likeliest labels of molecules, in the shape of ``y``."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)] if self.ndim_ == 1 else (shares > 0.5).astype(int)

    def predict_set(self, X: Any, confidence: float = 0.9) -> NDArray[np.bool_]:
        """Classes among which the true one is with a confidence, whichever it is: [n, C] or [n, T, 2]."""
        sets = self._calibration.sets(self._predict(X)[0], confidence)[..., self.order_]
        return sets[:, 0] if sets.shape[1:] == (1, 2) else sets


@lru_cache(maxsize=8)
def _ensemble(checkpoints: tuple[bytes, ...]) -> Ensemble:
    with torch.random.fork_rng(devices=()):  # networks are made with weights at random
        return Ensemble([BytesIO(checkpoint) for checkpoint in checkpoints])


def _molecules(X: Any) -> tuple[list[str | None], dict[str, list[Any]]]:
    """SMILES, and the cells of descriptors by name."""
    cells = {}
    if isinstance(X, pd.DataFrame) and X.shape[1] > 1:
        if _SMILES not in X:
            raise InputError(f"X has no column {_SMILES!r}; it has {', '.join(map(repr, X))}.")
        flags = {name: X[name].map({True: 1.0, False: 0.0}) for name in X.select_dtypes(["bool", "boolean"])}
        cells = {str(name): flags.get(name, X[name]).tolist() for name in X if name != _SMILES}
        X = X[_SMILES]
    array = np.asarray(X, dtype=object)
    if not array.size:
        raise InputError("X has no molecules.")
    if array.ndim not in (1, 2) or array.size != len(array):
        raise InputError(f"X must be SMILES or molecules, [n] or [n, 1], not of shape {list(array.shape)}.")
    found = [MolToSmiles(cell) if isinstance(cell, Mol) else cell for cell in array.ravel()]
    return [None if pd.isna(cell) else str(cell) for cell in found], cells


def _named(y: Any) -> pd.DataFrame:
    """A table of y, whose columns have names of their own or are y, y1, y2, ..."""
    own = isinstance(y, pd.DataFrame) or (isinstance(y, pd.Series) and y.name is not None)
    table = pd.DataFrame(y if own else np.asarray(y)).reset_index(drop=True)
    return table.set_axis([str(name) if own else f"y{name or ''}" for name in table], axis=1)


def _numbers(y: Any) -> pd.DataFrame:
    try:
        return _named(y).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"y must be numbers, or NaN where missing: {error}.") from error


def _text(value: Any) -> str:
    """JSON, but a string as it is."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other))
