"""Tables that are written chunk by chunk: CSV, which can be resumed, Parquet and NPZ."""

import argparse
import io
import json
import os
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from plstm_graph.datasets.files import whole_file, write_rows
from plstm_graph.datasets.stream import STANDARD, Source
from plstm_graph.errors import InputError

_GROUP = 16384  # rows of a row group in Parquet
_COMMIT = 1.0  # seconds between two records of what is done


class Sink(ABC):
    """A table to write."""

    chunks = 0  #: chunks that an earlier run has written

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Add a chunk."""

    @abstractmethod
    def close(self) -> None:
        """Have everything on the disk."""

    @abstractmethod
    def abandon(self) -> None:
        """Close, and leave nothing behind that no later run can use."""


class CSVSink(Sink):
    """CSV, written to an open file that is left open.

    Args:
        file: Such as standard output's buffer.
        names: Columns.
        keep_formulas: See :func:`~plstm_graph.datasets.files.write_rows`.
    """

    def __init__(self, file: BinaryIO, names: Sequence[str], keep_formulas: bool = False) -> None:
        self.file = file
        self.keep_formulas = keep_formulas
        self._append([names])

    def _append(self, rows: Iterable[Sequence[str]]) -> None:
        text = io.StringIO()
        write_rows(text, rows, self.keep_formulas)
        self.file.write(text.getvalue().encode())

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a chunk."""
        self._append(zip(*map(cells, batch.columns), strict=True))
        self.file.flush()

    def close(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Do nothing: each chunk is complete."""


class CSVFileSink(CSVSink):
    """A CSV file that grows chunk by chunk, with a record beside it of what is surely on the disk.

    Args:
        path: The file.
        names: Columns.
        settings: Settings that decide on the content, as JSON has them; ``None`` keeps no record.
        resume: Go on where the record says an earlier run was, if there is one.
        keep_formulas: As of :class:`CSVSink`.

    Raises:
        InputError: The earlier run had other settings.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        settings: dict[str, Any] | None = None,
        resume: bool = False,
        keep_formulas: bool = False,
    ) -> None:
        self.path = path
        self.settings = settings
        self.record = record_of(path)
        self.committed = time.monotonic()
        if resume and path.is_file() and self.record.is_file():
            record = json.loads(self.record.read_text())
            self._compare(record["settings"])
            self.chunks = record["chunks"]
            self.keep_formulas = keep_formulas
            self.file = path.open("r+b")
            self.file.truncate(record["bytes"])
            self.file.seek(0, os.SEEK_END)
        else:
            self.record.unlink(missing_ok=True)
            super().__init__(path.open("wb"), names, keep_formulas)

    def _compare(self, earlier: dict[str, Any]) -> None:
        now = self.settings or {}
        other = [name for name in now | earlier if now.get(name) != earlier.get(name)]
        if other:
            raise InputError(
                f"{self.path} was begun with another {' and '.join(other)}, or the file has changed; resume "
                "it as it was begun, or delete it."
            )

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a chunk, and now and then record how far the file has come."""
        super().write(batch)
        self.chunks += 1
        if time.monotonic() - self.committed > _COMMIT:
            self._commit()

    def _commit(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.committed = time.monotonic()
        if self.settings is None:
            return
        record = {"settings": self.settings, "chunks": self.chunks, "bytes": self.file.tell()}
        with whole_file(self.record) as file:
            json.dump(record, file)

    def close(self) -> None:
        """Have everything on the disk."""
        self._commit()
        self.file.close()

    def abandon(self) -> None:
        """Keep what the record tells of."""
        self.file.close()
        if not self.record.is_file():
            self.path.unlink()


def check_folder(output: Path) -> None:
    """Refuse an output whose folder is not there.

    Raises:
        InputError: It is not.
    """
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {str(output.parent)!r} to write {output.name!r} into.")


def check_report(options: argparse.Namespace) -> None:
    """Refuse a report of predict or explain that could not be written or would replace a file; InputError."""
    report, output = options.report, Path(options.output)
    if report.suffix.lower() != ".html" or report == output or options.data_path == STANDARD:
        raise InputError("--report must end with .html, and is for a table in a file, which is read twice.")
    if report.parent != output:  # which explain makes
        check_folder(report)
    if report.exists() and not (getattr(options, "overwrite", False) and report.is_file()):
        raise InputError(f"{report} is there already; give the report another name, or delete it.")


def record_of(path: Path) -> Path:
    """Path of the record in which :class:`CSVFileSink` notes how far a file has come."""
    return path.with_name(path.name + ".json")


def cells(column: pa.Array) -> list[str]:
    """Text of a column; floats as short as they can be and come back the same."""
    if pa.types.is_floating(column.type):
        column = pc.cast(column, pa.string())
    return ["" if value is None else str(value) for value in column.to_pylist()]


class ParquetSink(Sink):
    """A Parquet file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.waiting: list[pa.RecordBatch] = []
        self.writer = pq.ParquetWriter(path, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a chunk."""
        self.waiting.append(batch)
        if sum(map(len, self.waiting)) >= _GROUP:
            self._write_group()

    def _write_group(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.Table.from_batches(self.waiting))
            self.waiting = []

    def close(self) -> None:
        """Write the rest and the file's end."""
        self._write_group()
        self.writer.close()
        _fsync(self.path)

    def abandon(self) -> None:
        """Remove the file: it cannot be resumed."""
        self.writer.close()
        self.path.unlink()


def join(parts: Sequence[Source], rows: int, sink: Sink) -> None:
    """Put the chunks of several tables in turn into one.

    Args:
        parts: Chunk i is in part i mod len(parts).
        rows: Rows of a chunk.
        sink: Sink that takes them.
    """
    streams = [part.chunks(rows) for part in parts]
    for number in count():
        batch = next(streams[number % len(parts)], None)
        if batch is None:
            break
        sink.write(batch)
    sink.close()


def write_npz(table: Source, widths: dict[str, int], path: Path) -> None:
    """Write columns of text and of vectors as arrays of an NPZ file, a missing vector as NaN.

    Args:
        table: Read once for every column, and once more for text, whose width has to be known first.
        widths: The columns, with the length of their vectors, or 0 for text.
        path: The file.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, width in widths.items():
            if width:
                kind = np.dtype(np.float32)
            else:
                lengths = (_longest(batch[name]) for batch in table.chunks(_GROUP))
                kind = np.dtype(f"U{max(lengths, default=1)}")
            entry = zipfile.ZipInfo(f"{name}.npy")
            # Text has the width of the longest: mostly zeros.
            entry.compress_type = zipfile.ZIP_DEFLATED if kind.kind == "U" else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as file:
                shape = (table.total, width) if width else (table.total,)
                description = {"descr": kind.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, description)
                for batch in table.chunks(_GROUP):
                    file.write(_as_numpy(batch[name], kind, width).tobytes())
    _fsync(path)


def _longest(column: pa.Array) -> int:
    return pc.max(pc.utf8_length(column)).as_py() or 1


def _as_numpy(column: pa.Array, kind: np.dtype, width: int) -> NDArray[Any]:
    if not width:
        return np.array([text or "" for text in column.to_pylist()], kind)
    values = np.full((len(column), width), np.nan, kind)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    values[known] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
