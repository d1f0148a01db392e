"""CSV files in which no cell is a formula to a spreadsheet."""

import csv
from collections.abc import Iterable
from typing import IO

#: A cell that begins with one of these is calculated when a spreadsheet opens the file.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_rows(file: IO[str], rows: Iterable[Iterable[object]]) -> None:
    """Write rows; text that a spreadsheet would take for a formula gets an apostrophe before it.

    Numbers stay as they are.

    Args:
        file: Opened with ``newline=""``.
        rows: Their cells.
    """
    plain, quoting = (
        csv.writer(file, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:
        cells = [_harmless(cell) for cell in row]
        # The csv module quotes no carriage return but its own line's end, though readers end lines there.
        (quoting if any("\r" in str(cell) for cell in cells) else plain).writerow(cells)


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
