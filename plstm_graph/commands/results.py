"""Results for a table of SMILES: its columns with predictions, or fingerprints."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plstm_graph.commands.ensemble import Ensemble
from plstm_graph.datasets.featurise import Featurised
from plstm_graph.errors import InputError


@dataclass(frozen=True)
class _Chunk:
    """Rows of the input, and what the networks made of them.

    Args:
        start: Number of the first row.
        batch: The input.
        values: Outputs of every network, [rows, ...].
        missing: [rows] where these are none.
        errors: Why.
    """

    start: int
    batch: pa.RecordBatch
    values: list[NDArray[np.float32]]
    missing: NDArray[np.bool_]
    errors: list[str | None]


class Results(ABC):
    """The rows of the output, chunk by chunk.

    Args:
        ensemble: Networks.
        smiles_column: Name of the input's column.
        batch_size: Graphs that a network takes at once.
    """

    schema: pa.Schema
    embed: bool

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
        values = []
        for part in self.ensemble.evaluate(featurised, self.batch_size, self.embed):
            values.append(np.full((len(batch), part.shape[1]), np.nan, np.float32))
            values[-1][good] = part
        return pa.record_batch(self._columns(_Chunk(start, batch, values, missing, errors)), self.schema)

    @abstractmethod
    def _columns(self, chunk: _Chunk) -> list[pa.Array]:
        """Columns of the output."""


class Predictions(Results):
    """All columns of the input, predictions or their mean and deviation, and why there is none.

    Args:
        table: Schema of the input.
        ensemble, smiles_column, batch_size: See :class:`Results`.

    Raises:
        InputError: The input has a column of the output's name.
    """

    embed = False

    def __init__(self, table: pa.Schema, ensemble: Ensemble, smiles_column: str, batch_size: int) -> None:
        super().__init__(ensemble, smiles_column, batch_size)
        kinds = ["predicted"] if len(ensemble.predictors) == 1 else ["predicted", "std"]
        ours = [(f"{kind}_{target}", pa.float32()) for kind in kinds for target in ensemble.targets]
        ours.append(("error", pa.string()))
        for name, _ in ours:
            if name in table.names:
                raise InputError(
                    f"The input has a column {name!r} already, as the output would; rename it there."
                )
        self.schema = pa.schema([*table, *ours])

    def _columns(self, chunk: _Chunk) -> list[pa.Array]:
        ensemble = np.stack(chunk.values).astype(np.float64)  # [checkpoints, rows, targets]
        columns = list(ensemble.mean(0).T)
        if len(ensemble) > 1:
            columns += list(ensemble.std(0, ddof=1).T)
        predicted = [pa.array(column.astype(np.float32), mask=chunk.missing) for column in columns]
        return [*chunk.batch.columns, *predicted, pa.array(chunk.errors, pa.string())]


class Fingerprints(Results):
    """Number and SMILES of every row, why it has no fingerprint, and the fingerprint of every network.

    Args:
        ensemble, smiles_column, batch_size: See :class:`Results`.
    """

    embed = True

    def __init__(self, ensemble: Ensemble, smiles_column: str, batch_size: int) -> None:
        super().__init__(ensemble, smiles_column, batch_size)
        widths = [predictor.network.embedding_channels for predictor in ensemble.predictors]
        names = [f"fingerprint_{number}" for number in range(len(widths))] if widths[1:] else ["fingerprint"]
        self.widths = dict(zip(names, widths, strict=True))
        first = [("row", pa.int64()), ("smiles", pa.string()), ("error", pa.string())]
        # Lists of any length: pyarrow before 26 does not write a missing one of a fixed length to Parquet.
        self.schema = pa.schema([*first, *((name, pa.list_(pa.float32())) for name in names)])

    def _columns(self, chunk: _Chunk) -> list[pa.Array]:
        texts = chunk.batch[self.smiles_column].to_pylist()
        smiles = [None if text is None else str(text) for text in texts]
        kind = pa.list_(pa.float32())
        vectors = [pa.array(list(table), kind, mask=chunk.missing) for table in chunk.values]
        rows = pa.array(range(chunk.start, chunk.start + len(chunk.batch)))
        return [rows, pa.array(smiles, pa.string()), pa.array(chunk.errors, pa.string()), *vectors]
