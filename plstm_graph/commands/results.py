"""Results for a table of SMILES: its columns with predictions, or fingerprints."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plstm_graph.calibration import Array
from plstm_graph.datasets.featurise import Featurised
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError


class Results(ABC):
    """The rows of the output, chunk by chunk.

    Args:
        ensemble: Networks.
        smiles_column: Name of the input's column.
        batch_size: Graphs that a network takes at once.
    """

    schema: pa.Schema
    fingerprints = False  #: whether graphs have to come with their Morgan fingerprints
    remarks: Sequence[str] = ()  #: on columns of the output

    def __init__(self, ensemble: Ensemble, smiles_column: str, batch_size: int) -> None:
        self.ensemble = ensemble
        self.smiles_column = smiles_column
        self.batch_size = batch_size
        self.widths: dict[str, int] = {}  #: columns of vectors, and how long these are

    def rows(self, start: int, batch: pa.RecordBatch, featurised: Featurised) -> pa.RecordBatch:
        """The output of one chunk, row for row.

        Args:
            start: Number of the chunk's first row.
            batch: The input.
            featurised: Its graphs, and the rows that give none.
        """
        good = featurised.tensors["row"] - start
        missing = np.ones(len(batch), bool)
        missing[good] = False
        errors: list[str | None] = [None] * len(batch)
        for row in featurised.unreadable:
            errors[row.row - start] = row.reason
        columns = []
        for values in self._evaluate(featurised):
            whole = np.zeros((len(batch), *values.shape[1:]), values.dtype)
            whole[good] = values
            kind = pa.string() if values.dtype == object else pa.float32()
            if values.ndim == 1:
                columns.append(pa.array(whole, kind, mask=missing))
            else:
                columns.append(pa.array(list(whole), pa.list_(kind), mask=missing))
        return pa.record_batch(self._row(start, batch, columns, pa.array(errors, pa.string())), self.schema)

    @abstractmethod
    def _evaluate(self, featurised: Featurised) -> list[NDArray[Any]]:
        """What is made of the graphs, float32 or text [graphs, ...] for every column."""

    @abstractmethod
    def _row(
        self, start: int, batch: pa.RecordBatch, columns: list[pa.Array], errors: pa.Array
    ) -> list[pa.Array]:
        """Columns of the output."""


class Predictions(Results):
    """All columns of the input, predictions, how sure they are, and why there is none.

    Args:
        table: Schema of the input.
        ensemble, smiles_column, batch_size: See :class:`Results`.
        interval: Confidence of intervals or sets of classes, if these are wanted.

    Raises:
        InputError: The input has a column of the output's name, or validation rows are too few.
    """

    def __init__(
        self,
        table: pa.Schema,
        ensemble: Ensemble,
        smiles_column: str,
        batch_size: int,
        interval: float | None = None,
    ) -> None:
        super().__init__(ensemble, smiles_column, batch_size)
        self.interval = interval
        self.fingerprints = ensemble.reference is not None and ensemble.reference.train_smiles is not None
        kinds = ["predicted"] if len(ensemble.predictors) == 1 else ["predicted", "std"]
        sets: list[str] = []
        if interval is not None:
            self._bounds(np.empty((0, len(ensemble.targets))), None)
            if ensemble.task == "regression":
                kinds += ["lower", "upper"]
            else:
                sets = ["class"] if ensemble.task == "multiclass" else ensemble.targets
        ours = [(f"{kind}_{target}", pa.float32()) for kind in kinds for target in ensemble.targets]
        ours += [(f"set_{target}", pa.string()) for target in sets]
        ours += [("nearest_similarity", pa.float32())] * self.fingerprints + [("error", pa.string())]
        for name, _ in ours:
            if name in table.names:
                raise InputError(
                    f"The input has a column {name!r} already, as the output would; rename it there."
                )
        self.schema = pa.schema([*table, *ours])
        named = zip(ensemble.targets, ensemble.class_names, strict=True)
        self.remarks = [
            f"predicted_{name}: probability of {high!r}" for name, (_, high) in named if high != "1"
        ]

    def _evaluate(self, featurised: Featurised) -> list[NDArray[Any]]:
        mean, std = self.ensemble.predict(featurised, self.batch_size)
        columns = [*mean.T] if std is None else [*mean.T, *std.T]
        if self.interval is not None:
            columns += self._bounds(mean, std)
        if self.fingerprints and self.ensemble.reference is not None:
            columns.append(self.ensemble.reference.nearest(featurised.tensors["fingerprint"])[0][:, 0])
        return [part if part.dtype == object else part.astype(np.float32) for part in columns]

    def _bounds(self, mean: Array, std: Array | None) -> list[NDArray[Any]]:
        """Lower and upper bounds [rows] of every target, or sets of classes as text."""
        calibration, confidence = self.ensemble.calibration, self.interval
        if calibration is None or confidence is None:
            raise InputError(
                "--interval needs checkpoints of fit or train that hold what they predict for the same "
                "validation rows, and these do not: train again."
            )
        if self.ensemble.task == "regression":
            lower, upper = calibration.intervals(mean, std, confidence)
            return [*lower.T, *upper.T]
        sets, names = calibration.sets(mean, confidence), self.ensemble.class_names
        if self.ensemble.task == "multiclass":
            sets, names = sets[:, None], [self.ensemble.targets]
        columns = zip(names, sets.swapaxes(0, 1).tolist(), strict=True)
        return [np.array([" | ".join(compress(pair, row)) for row in rows], object) for pair, rows in columns]

    def _row(
        self, start: int, batch: pa.RecordBatch, columns: list[pa.Array], errors: pa.Array
    ) -> list[pa.Array]:
        return [*batch.columns, *columns, errors]


class Fingerprints(Results):
    """Number and SMILES of every row, why it has no fingerprint, and the fingerprint of every network.

    Args:
        ensemble, smiles_column, batch_size: See :class:`Results`.
    """

    def __init__(self, ensemble: Ensemble, smiles_column: str, batch_size: int) -> None:
        super().__init__(ensemble, smiles_column, batch_size)
        widths = [predictor.network.embedding_channels for predictor in ensemble.predictors]
        names = [f"fingerprint_{number}" for number in range(len(widths))] if widths[1:] else ["fingerprint"]
        self.widths = dict(zip(names, widths, strict=True))
        first = [("row", pa.int64()), ("smiles", pa.string()), ("error", pa.string())]
        # Lists of any length: pyarrow before 26 does not write a missing one of a fixed length to Parquet.
        self.schema = pa.schema([*first, *((name, pa.list_(pa.float32())) for name in names)])

    def _evaluate(self, featurised: Featurised) -> list[NDArray[Any]]:
        return self.ensemble.evaluate(featurised, self.batch_size, embed=True)

    def _row(
        self, start: int, batch: pa.RecordBatch, columns: list[pa.Array], errors: pa.Array
    ) -> list[pa.Array]:
        texts = batch[self.smiles_column].to_pylist()
        smiles = [None if text is None else str(text) for text in texts]
        return [pa.array(range(start, start + len(batch))), pa.array(smiles, pa.string()), errors, *columns]
