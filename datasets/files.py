"""Files: written whole or not at all, CSV without formulas, downloads with a checksum."""

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from plstm_graph.errors import InputError

#: A cell that begins with one of these is calculated when a spreadsheet opens the file,
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
#: unless it is only signs or a number, of any convention: -1,5 and -1 000 % and -1'000.5 and +1e-3.
_NO_FORMULA = re.compile(
    r"[+-]+|[+-][ \xa0]?(inf(inity)?|nan|[.,]?\d[\d.,_'’ \xa0\u2009\u202f]*(e[+-]?\d+)? ?%?)", re.IGNORECASE
)


@contextmanager
def whole_file(path: Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file to write, which gets its name when the block ends without an error and it is on the disk.

    Processes may write the same file at the same time: each writes its own, and the last one stays.

    Args:
        path: The file's name; its folder is made if it is missing.
        mode: ``"w"`` or ``"wb"``.
        **kwargs: Arguments of :func:`open`.

    Raises:
        InputError: The disk is full or the folder cannot be written to; an earlier file of the name stays.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, mode, **kwargs) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch's writer of archives fails once more, as it closes what it could not write.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.filename is not None and Path(cause.filename) not in (unfinished, *path.parents):
            raise  # of another file, which was read meanwhile
        raise InputError(
            f"{path} cannot be written: {cause.strerror or cause}; nothing of it is left."
        ) from error


def write_rows(file: IO[str], rows: Iterable[Iterable[object]], keep_formulas: bool = False) -> None:
    """Write rows; text that a spreadsheet would take for a formula gets an apostrophe before it.

    Numbers stay as they are.

    Args:
        file: Opened with ``newline=""``.
        rows: Their cells.
        keep_formulas: Leave formulas as they are too.
    """
    plain, quoting = (
        csv.writer(file, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:
        cells = list(row) if keep_formulas else [_harmless(cell) for cell in row]
        # The csv module quotes no carriage return but its own line's end, though readers end lines there.
        (quoting if any("\r" in str(cell) for cell in cells) else plain).writerow(cells)


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA) or _NO_FORMULA.fullmatch(cell.rstrip()):
        return cell
    return f"'{cell}"


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Fetch a file, which appears whole and with this checksum or not at all.

    Args:
        url: Address of the file.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        folder: Folder that it goes to.

    Returns:
        The file.

    Raises:
        InputError: The checksum is none, another file came, or nothing came.
    """
    if re.fullmatch("[0-9a-fA-F]{64}", sha256) is None:
        raise InputError(
            f"{sha256!r} is no SHA-256 of 64 hexadecimal digits; sha256sum prints that of a copy you trust."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / url.rpartition("/")[2]
    from torch.hub import download_url_to_file  # takes seconds, which only downloads should

    try:
        download_url_to_file(url, str(path), hash_prefix=sha256.lower())
    except RuntimeError as error:  # of the checksum; what came has been deleted
        raise InputError(f"What {url} gives is not what the checksum asks for: {error}.") from error
    except OSError as error:
        raise InputError(f"{url} could not be fetched into {folder}: {error}.") from error
    return path


def fetch_folder(url: str, sha256: str, inner: str, folder: Path) -> None:
    """Fetch a ZIP archive and unpack one of its folders, which appears whole or not at all.

    Args:
        url: Address of the file.
        sha256: SHA-256 of the archive.
        inner: Name of the folder in the archive.
        folder: Path of the unpacked folder.

    Raises:
        InputError: As of :func:`fetch`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.unfinished.") as unfinished:
        archive = fetch(url, sha256, Path(unfinished))
        shutil.unpack_archive(archive, unfinished, "zip")
        (Path(unfinished) / inner).rename(folder)
