"""Tables of molecules, read chunk by chunk by all verbs: SMILES line by line, CSV, Parquet and Excel."""

import bz2
import codecs
import csv
import gzip
import lzma
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from plstm_graph.errors import InputError

csv.field_size_limit(2**31 - 1)  # one long cell is that row's trouble, not the table's

STANDARD = "-"  #: standard input, standard output
ENDINGS = (".csv", ".tsv", ".parquet", ".xlsx", ".smi", ".txt")  #: of tables
_NUMBER = re.compile(r"[+-]?\d*[.,]?\d+")  # as no column of a table is called
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": None}
_SEPARATORS = (",", ";", "\t", "|")
_HEADER_LINES = 50  # more than a header has, though a name in it may hold line ends
#: What UTF-16 begins with, as Excel's "Unicode text" does; UTF-8 may begin with a mark of its own.
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: What foreign bytes lead the readers to.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,  # a ZIP archive with a password, or packed in a way that zipfile does not know
    UnicodeError,
    csv.Error,
    lzma.LZMAError,
    zipfile.BadZipFile,
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

    @staticmethod
    def smiles_of(column: pa.Array) -> list[Any]:
        """What cells of the column of SMILES have for the parser."""
        return column.to_pylist()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError as error:
            byte = f" ({error.object[error.start]:#x})" if isinstance(error, UnicodeDecodeError) else ""
            raise InputError(
                f"{self.path} holds a byte{byte} that is none of its encoding; pass --data.encoding, such as "
                "cp1252 for a file of Windows or mac_roman."
            ) from error
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()).removesuffix(".")
            raise InputError(f"{self.path} cannot be read: {reason}.") from error


class TextSource(Source):
    """A table of text, compressed or not.

    Args:
        path: Path of the file; ``-`` is standard input.
        encoding: Of its characters; by default UTF-8, or UTF-16 if it begins with that one's mark.

    Raises:
        InputError: There is no such encoding, or the file is no such text.
    """

    def __init__(self, path: str | Path, encoding: str | None = None) -> None:
        super().__init__(path)
        try:
            name = encoding and codecs.lookup(encoding).name
        except LookupError as error:
            raise InputError(
                f"--data.encoding {encoding!r} is unknown; utf-8, cp1252 and mac_roman are some."
            ) from error
        self.encoding = "utf-8-sig" if name == "utf-8" else name  # which reads text without a mark, too

    def _bytes(self) -> IO[bytes]:
        ending = Path(self.path).suffix.lower()
        if ending == ".zip":
            return zipfile.ZipFile(self.path).open(only_entry(self.path))
        return _COMPRESSED.get(ending, open)(self.path, "rb")

    def _text(self) -> TextIO:
        """The file as text; a byte order mark, as Excel sets it, is left out."""
        if self.path == STANDARD:
            return open(0, encoding=self.encoding or "utf-8-sig", newline="", closefd=False)
        encoding = self.encoding
        if encoding is None:
            with closing(self._bytes()) as file:
                encoding = "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"
        return TextIOWrapper(self._bytes(), encoding=encoding, newline="")

    def _count_lines(self) -> int | None:
        if self.path == STANDARD or Path(self.path).suffix.lower() in _COMPRESSED:
            return None
        with open(self.path, "rb") as file:
            ends = [
                (block.count(b"\n"), block.count(b"\r")) for block in iter(partial(file.read, 2**20), b"")
            ]
        return max(map(sum, zip(*ends, strict=True)), default=0)  # old Macintosh ends lines with the other


class Lines(TextSource):
    """One SMILES a line: every line is a row of one column. What follows a blank is the molecule's name."""

    def __init__(self, path: str | Path, column: str, encoding: str | None = None) -> None:
        super().__init__(path, encoding)
        self.schema = pa.schema({column: pa.string()})
        with self._reading():
            self.total = self._count_lines()
            if path != STANDARD:
                self._check_first(column)

    def _check_first(self, column: str) -> None:
        """Refuse a table with a header; InputError."""
        with self._text() as file:
            first = file.readline().rstrip("\r\n")
        if any(mark in first and column in first.split(mark) for mark in _SEPARATORS):
            raise InputError(
                f"{self.path} is a table, not one SMILES a line; give it the ending .csv or .tsv."
            )

    @staticmethod
    def smiles_of(column: pa.Array) -> list[Any]:
        """Lines without names; an extension, between bars, belongs to the SMILES."""
        return [_without_name(line) for line in column.to_pylist()]

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with self._text() as file:
            lines = (line.rstrip("\r\n") for line in file)
            while chunk := list(islice(lines, rows)):
                yield pa.record_batch([pa.array(chunk)], schema=self.schema)


def _without_name(line: str) -> str:
    first, *rest = line.split(maxsplit=1)[:2] or [""]
    if rest and rest[0].startswith("|") and (end := rest[0].find("|", 1)) > 0:
        return f"{first} {rest[0][: end + 1]}"
    return first


class CSVTable(TextSource):
    """A CSV file with a header. Cells are text and stay as they are; blank lines are no rows.

    Args:
        path: Path of the file.
        column: Name by which the separator is found; ``None`` for commas.
        separator: Character between cells; by default the one of ``,``, ``;``, tab and ``|`` between which
            the header has ``column``.
        encoding: See :class:`TextSource`.
    """

    def __init__(
        self,
        path: str | Path,
        column: str | None = None,
        separator: str | None = None,
        encoding: str | None = None,
    ) -> None:
        super().__init__(path, encoding)
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise InputError(f"--data.separator must be one character, not {separator!r}.")
        with self._reading(), self._text() as file:
            lines = list(islice(file, _HEADER_LINES))
            first = separator or _SEPARATORS[0]
            whole = chain(lines, file)  # a name may hold a line end
            headers = {first: next(csv.reader(whole, delimiter=first), [])}
            if column is not None and separator is None and column not in headers[","]:
                headers |= {mark: next(csv.reader(lines, delimiter=mark), []) for mark in _SEPARATORS[1:]}
            counted = self._count_lines()
        self.separator = max(headers, key=lambda mark: (column in headers[mark], len(headers[mark])))
        header = [name.strip() for name in headers[self.separator]]
        if not any(header):
            raise InputError(f"{path} has no header, the line that names the columns.")
        self.total = None if counted is None else max(0, counted - 1)
        self.schema = pa.schema([(name, pa.string()) for name in header])

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with self._text() as file:
            filled = self._rows(file)
            while chunk := list(islice(filled, rows)):
                columns = [pa.array(column) for column in zip(*chunk, strict=True)]
                yield pa.record_batch(columns, self.schema)

    def _rows(self, file: TextIO) -> Iterator[list[str]]:
        """Rows below the header, each with as many cells."""
        reader = csv.reader(file, delimiter=self.separator, strict=True)
        cells = len(self.schema)
        try:
            next(reader)
            for row in reader:
                if len(row) == cells:
                    yield row
                elif row:
                    raise InputError(
                        f"{self.path} has {len(row)} cells in line {reader.line_num}, but its header has "
                        f"{cells}: {self.separator.join(row)[:80]!r}."
                    )
        except csv.Error as error:
            raise csv.Error(f"{error}, in line {reader.line_num}") from error


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


class ExcelTable(Source):
    """The first sheet of an Excel file, whose first row names the columns. Cells are text, as those of CSV.

    Raises:
        InputError: openpyxl, which reads it, is not installed, or the file is none of Excel's.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        import pandas as pd  # a second that no other table waits for

        try:
            cells = pd.read_excel(path, header=None, dtype=str, na_filter=False, engine="openpyxl")
        except ImportError as error:
            raise InputError(f"{path} needs openpyxl: pip install openpyxl, or save it as CSV.") from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as an Excel file: {error}.") from error
        if not len(cells):
            raise InputError(f"{path} has no header, the line that names the columns.")
        self.schema = pa.schema([(str(name).strip(), pa.string()) for name in cells.iloc[0]])
        self.total = len(cells) - 1
        self._columns = [pa.array(cells[column].iloc[1:].astype(str)) for column in cells]

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch(self._columns, self.schema)


def only_entry(path: str | Path) -> str:
    """The one file of a ZIP archive; what macOS adds beside it is none.

    Raises:
        InputError: There are several, or none.
    """
    with zipfile.ZipFile(path) as archive:
        names = [
            entry.filename
            for entry in archive.infolist()
            if not (entry.is_dir() or entry.filename.startswith("__MACOSX/"))
            and not Path(entry.filename).name.startswith(".")
        ]
    if len(names) != 1:
        found = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"{path} holds {len(names)} files ({found}), not one; take out the one that is meant."
        )
    return names[0]


def open_source(
    path: str, smiles_column: str, separator: str | None = None, encoding: str | None = None
) -> Source:
    """Open the table of a file, by its ending.

    Args:
        path: Ends with one of :data:`ENDINGS`; text may be compressed (``.gz``, ``.bz2``, ``.xz``, or a
            ``.zip`` with one file). ``-`` is standard input, one SMILES a line.
        smiles_column: Must be there; SMILES line by line get this name.
        separator: Character between cells of CSV, see :class:`CSVTable`.
        encoding: Of text, see :class:`TextSource`.

    Raises:
        InputError: The file is missing or unreadable, has another ending or no such column, or a setting
            has no meaning for it.
    """
    if path != STANDARD and not Path(path).is_file():
        folder = f"{path!r} is a folder, not a file." if Path(path).is_dir() else None
        raise InputError(folder or f"There is no file {path!r}.")
    kind = _kind(path)
    if separator is not None and kind not in (".csv", ".tsv"):
        raise InputError(f"--data.separator is for CSV files, not for {path!r}.")
    if encoding is not None and kind in (".parquet", ".xlsx"):
        raise InputError(f"--data.encoding is for text files, not for {path!r}.")
    source: Source
    if kind in (STANDARD, ".smi", ".txt"):
        source = Lines(path, smiles_column, encoding)
    elif kind in (".csv", ".tsv"):
        source = CSVTable(path, smiles_column, separator or ("\t" if kind == ".tsv" else None), encoding)
    elif kind == ".parquet":
        source = ParquetTable(path)
    elif kind == ".xlsx":
        source = ExcelTable(path)
    else:
        raise InputError(
            f"{path!r} ends with none of {', '.join(ENDINGS)}; text may be compressed: .csv.gz, .csv.bz2, "
            ".csv.xz, .zip."
        )
    check_columns(path, source.schema.names, smiles_column)
    return source


def _kind(path: str) -> str:
    """Ending of the table, of one in an archive too."""
    if path == STANDARD:
        return path
    endings = [ending.lower() for ending in Path(path).suffixes]
    if endings[-1:] == [".zip"]:
        try:
            endings = [ending.lower() for ending in Path(only_entry(path)).suffixes]
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a ZIP archive: {error}.") from error
    compressed = bool(endings) and endings[-1] in _COMPRESSED
    kind = (endings[:-1] if compressed else endings)[-1:] or [""]
    return "" if compressed and kind[0] in (".parquet", ".xlsx") else kind[0]


def check_columns(path: str, names: Sequence[str], smiles_column: str) -> None:
    """Refuse a table without the column of SMILES, or with two of one name.

    Raises:
        InputError: It is such a table.
    """
    if smiles_column not in names:
        [alike, *_] = [*(name for name in names if "smiles" in name.lower()), None]
        remedy = (
            f"pass --data.smiles_column {alike!r}" if alike else "--data.smiles_column may name one of them"
        )
        if names[:1] and names[0].lower().startswith("sep="):
            remedy = "its first line is a spreadsheet's note; delete it"
        if any(_NUMBER.fullmatch(name) for name in names):
            remedy = "its first line looks like a row; write the columns' names above it"
        raise InputError(
            f"{path} has no column {smiles_column!r}; it has {', '.join(map(repr, names))}: {remedy}."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        which = (
            f"two columns {twice!r}; rename one" if twice else "columns without a name; name or delete them"
        )
        raise InputError(f"{path} has {which}.")
