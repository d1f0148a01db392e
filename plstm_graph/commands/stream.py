"""Tables that are read chunk by chunk: SMILES line by line, CSV and Parquet."""

import bz2
import csv
import gzip
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from plstm_graph.errors import InputError

csv.field_size_limit(2**31 - 1)  # one long cell is that row's trouble, not the table's

STANDARD = "-"  #: standard input, standard output
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: What foreign bytes lead the readers to.
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    csv.Error,
    lzma.LZMAError,
    zlib.error,
    pa.ArrowException,
)


class Source(ABC):
    """A table to read.

    Args:
        path: Path of the file.
    """

    schema: pa.Schema
    total: int | None = None  #: rows, where they are quickly counted; of CSV more if cells hold line ends

    def __init__(self, path: str | Path) -> None:
        self.path = path

    @abstractmethod
    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The table in chunks of about this number of rows."""

    def chunks(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The table in chunks of this number of rows; the last may be shorter.

        Raises:
            InputError: The file cannot be read as what it should be.
        """
        waiting: list[pa.RecordBatch] = []
        with self._reading():
            for batch in self._batches(rows):
                waiting.append(batch)
                while sum(map(len, waiting)) >= rows:
                    whole = pa.concat_batches(waiting)
                    yield whole.slice(0, rows)
                    waiting = [whole.slice(rows)]
        if any(map(len, waiting)):
            yield pa.concat_batches(waiting)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()).removesuffix(".")
            raise InputError(f"{self.path} cannot be read: {reason}.") from error

    def _text(self) -> TextIO:
        """The file as text; a byte order mark, as Excel sets it, is left out."""
        if self.path == STANDARD:
            return open(0, encoding="utf-8-sig", closefd=False)
        opener = _COMPRESSED.get(Path(self.path).suffix.lower(), open)
        return opener(self.path, "rt", encoding="utf-8-sig", newline="")

    def _count_lines(self) -> int | None:
        if self.path == STANDARD or Path(self.path).suffix.lower() in _COMPRESSED:
            return None
        with open(self.path, "rb") as file:
            return sum(block.count(b"\n") for block in iter(partial(file.read, 2**20), b""))


class Lines(Source):
    """One SMILES a line: every line is a row of one column."""

    def __init__(self, path: str | Path, column: str) -> None:
        super().__init__(path)
        self.schema = pa.schema({column: pa.string()})
        with self._reading():
            self.total = self._count_lines()

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with self._text() as file:
            lines = (line.rstrip("\r\n") for line in file)
            while chunk := list(islice(lines, rows)):
                yield pa.record_batch([pa.array(chunk)], schema=self.schema)


class CSVTable(Source):
    """A CSV file with a header. Cells are text and stay as they are; blank lines are no rows."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        with self._reading(), self._text() as file:
            header = next(csv.reader(file), None)
            lines = self._count_lines()
        if not header:
            raise InputError(f"{path} has no header, the line that names the columns.")
        self.total = None if lines is None else max(0, lines - 1)
        self.schema = pa.schema([(name, pa.string()) for name in header])

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with self._text() as file:
            reader = csv.reader(file)
            next(reader)
            filled = filter(None, reader)
            while chunk := list(islice(filled, rows)):
                for row in chunk:
                    if len(row) != len(self.schema):
                        raise InputError(
                            f"{self.path} has a row of {len(row)} cells near line {reader.line_num}, but its "
                            f"header has {len(self.schema)}: {','.join(row)[:80]!r}."
                        )
                yield pa.record_batch([pa.array(column) for column in zip(*chunk, strict=True)], self.schema)


class ParquetTable(Source):
    """A Parquet file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        with self._reading(), pq.ParquetFile(path) as file:
            self.schema = file.schema_arrow.remove_metadata()
            self.total = file.metadata.num_rows

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(rows):
                yield batch.replace_schema_metadata(None)


def open_source(path: str, smiles_column: str) -> Source:
    """Open the table of a file, by its ending.

    Args:
        path: Ends with ``.csv`` (also compressed), ``.parquet``, ``.smi`` or ``.txt``; ``-`` is standard
            input, one SMILES a line.
        smiles_column: Must be there; SMILES line by line get this name.

    Raises:
        InputError: The file is missing or unreadable, has another ending or no such column.
    """
    endings = [ending.lower() for ending in Path(path).suffixes if ending.lower() not in _COMPRESSED]
    kind = (endings or [""])[-1]
    if path != STANDARD and not Path(path).is_file():
        raise InputError(f"There is no file {path!r}.")
    source: Source
    if path == STANDARD or kind in (".smi", ".txt"):
        source = Lines(path, smiles_column)
    elif kind == ".csv":
        source = CSVTable(path)
    elif path.lower().endswith(".parquet"):
        source = ParquetTable(path)
    else:
        raise InputError(
            f"{path!r} ends with none of .csv, .csv.gz, .csv.bz2, .csv.xz, .parquet, .smi and .txt."
        )
    check_columns(path, source.schema.names, smiles_column)
    return source


def check_columns(path: str, names: Sequence[str], smiles_column: str) -> None:
    """Refuse a table without the column of SMILES, or with two of one name.

    Raises:
        InputError: It is such a table.
    """
    if smiles_column not in names:
        raise InputError(
            f"{path} has no column {smiles_column!r}; it has {', '.join(map(repr, names))}, one of which "
            "--data.smiles_column may name."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} has two columns {twice!r}; rename one.")
