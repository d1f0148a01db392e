"""Targets from the cells of a table: numbers, or classes by number or by word."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plstm_graph.errors import InputError
from plstm_graph.predictor import Task

#: What stands for a missing value, beside nothing at all.
_MISSING = {
    *("", "nan", "-nan", "na", "n/a", "<na>", "null", "none"),
    *("#n/a", "#div/0!", "#value!", "#ref!", "#num!", "#name?", "#null!"),  # errors of Excel's
}

#: Words for two classes, the positive one last.
_PAIRS = (
    ("no", "yes"),
    ("n", "y"),
    ("false", "true"),
    ("f", "t"),
    ("inactive", "active"),
    ("negative", "positive"),
    ("neg", "pos"),
    ("fail", "pass"),
    ("nein", "ja"),
    ("non", "oui"),
    ("-", "+"),
)

#: Words that more classes may have, when nobody says that they are classes.
_FEW = 20

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 5  # cells that a message lists
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_THOUSAND = re.compile(r"[+-]?\d{1,3},\d{3}")
_DOTTED_THOUSAND = re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+")
_UNIT = re.compile(r"\s*[<>=~]*\s*[+-]?\d+(?:[.,]\d+)?\s*([^\W\d_].*|%)")
_PREDICTION = re.compile(r"(?:predicted|std|lower|upper|set)_.+|nearest_similarity")
_IDENTIFIER = re.compile(
    r"(?:.*[ _.-])?(?:id|index|idx|no|nr|number|cas|cid|sid|key|row)|(?-i:.*[a-z]ID)|"
    r"(?:fold|split)s?[ _.-]?\d*|unnamed.*|#|",
    re.I,
)


@dataclass(frozen=True)
class Targets:
    """What a network is trained on.

    Args:
        values: float32 [rows, columns], NaN where a value is missing; a class is its number.
        task: Of all columns.
        names: Of the columns, or of the classes of the only one.
        columns: Names of the columns.
        remarks: Sentences about how cells were read.
        class_names: Of the two classes of each column, 0 and 1, if the task is classification.
    """

    values: NDArray[np.float32]
    task: Task
    names: list[str]
    columns: list[str]
    remarks: list[str] = field(default_factory=list)
    class_names: list[list[str]] | None = None


@dataclass
class Column:
    """Cells of one column.

    Args:
        name: Its name.
        cells: Text, numbers or ``None``.
    """

    name: str
    cells: Sequence[Any]

    def __post_init__(self) -> None:
        self._read(["" if cell is None else str(cell).strip() for cell in self.cells])
        self.remark = ""  #: on how numbers were read

    def _read(self, text: Sequence[str]) -> None:
        self.text = pd.Series(text, dtype=object)
        self.known = ~self.text.str.lower().isin(_MISSING).to_numpy(bool)
        self.numbers = pd.to_numeric(self.text.where(self.known), errors="coerce").to_numpy(np.float64)

    def read_decimal_commas(self) -> None:
        """Take commas for decimal points, if no cell says otherwise.

        ``1,234`` alone may be a thousand: of such cells nothing is taken. ``1.234`` is read as it stands, but
        where commas may be decimal that is worth a remark.
        """
        known = self.text[self.known]
        dots = known[known.str.contains(".", regex=False)]
        if len(dots) and dots.str.fullmatch(_DOTTED_THOUSAND).all():
            self.remark = (
                f"{self.name!r} has cells such as {dots.iloc[0]!r}, whose dots are taken for decimal ones."
            )
        commas = known[known.str.contains(",", regex=False)]
        decimal = commas.str.fullmatch(_DECIMAL_COMMA).all() and not commas.str.fullmatch(_THOUSAND).all()
        if len(commas) and decimal and not known.str.contains(".", regex=False).any():
            self._read(self.text.str.replace(",", "."))
            self.remark = f"{self.name!r} has decimal commas."

    @property
    def is_numeric(self) -> bool:
        """Whether cells are numbers, and there are some."""
        return bool(self.known.any() and not self.faults)

    @property
    def mostly_numeric(self) -> bool:
        """Whether more than half of the cells are numbers."""
        return 2 * np.count_nonzero(~np.isnan(self.numbers)) > np.count_nonzero(self.known)

    @property
    def looks_numeric(self) -> bool:
        """Whether cells are without letters, or have all the same behind a number, as a unit."""
        known = self.text[self.known]
        units = known.str.extract(_UNIT, expand=False)
        return not known.str.contains("[^\\W\\d_]").any() or (units.notna().all() and units.nunique() == 1)

    @property
    def faults(self) -> list[int]:
        """Rows whose cells are no numbers."""
        return np.flatnonzero(self.known & np.isnan(self.numbers)).tolist()

    @property
    def words(self) -> set[str]:
        """Different cells."""
        return set(self.text[self.known])

    def classes(self, any_words: bool = False) -> tuple[NDArray[np.float64], list[str]] | None:
        """Cells as 0, 1 and NaN, and the classes' names; ``None`` if they are no two classes.

        Args:
            any_words: Whether two words that are no known pair are classes too, the positive one last in the
                order of letters.
        """
        for low in (0, -1) if self.is_numeric else ():
            if set(self.numbers[self.known]) <= {low, 1}:
                return np.where(self.known, self.numbers == 1, np.nan), [str(low), "1"]
        words = self.text.str.lower()
        found = sorted(set(words[self.known]))
        pairs = [pair for pair in _PAIRS if found and set(found) <= set(pair)]
        if not pairs and any_words and len(found) == 2 and np.isnan(self.numbers[self.known]).all():
            pairs = [(found[0], found[1])]
        for pair in pairs:
            spelled = dict(zip(words[self.known], self.text[self.known], strict=True))
            return np.where(self.known, words == pair[1], np.nan), [spelled.get(word, word) for word in pair]
        return None


def columns_of(frame: Mapping[str, Sequence[Any]], decimal_commas: bool) -> list[Column]:
    """The columns of a table.

    Args:
        frame: Cells by name.
        decimal_commas: Whether numbers may have commas for decimal points: where these do not part cells.
    """
    columns = [Column(name, cells) for name, cells in frame.items()]
    for column in columns if decimal_commas else []:
        column.read_decimal_commas()
    return columns


def choose_targets(columns: Sequence[Column], path: object) -> list[Column]:
    """The columns to predict where none were named: all of numbers but identifiers, or else of classes.

    Raises:
        InputError: There is none.
    """
    others = (_IDENTIFIER, _PREDICTION)
    named = [column for column in columns if not any(kind.fullmatch(column.name) for kind in others)]
    numeric = [column for column in named if column.mostly_numeric]
    measured = [column for column in numeric if not _counts_rows(column.numbers)]
    of_classes = named if len(named) == 1 else [column for column in named if column.classes() is not None]
    chosen = measured or numeric or of_classes
    if not chosen:
        found = ", ".join(repr(column.name) for column in columns) or "none but that of the SMILES"
        raise InputError(
            f"{path} has no column of numbers to predict; --data.target_columns names targets among its "
            f"columns: {found}."
        )
    return chosen


def _counts_rows(numbers: NDArray[np.float64]) -> bool:
    return numbers[0] in (0, 1) and bool((np.diff(numbers) == 1).all())


def read_targets(columns: Sequence[Column], task: Task | None, path: object) -> Targets:
    """Read the cells of the columns to predict.

    Args:
        columns: At least one.
        task: What they are; by default what they look like.
        path: The table, for messages.

    Raises:
        InputError: A cell is not what the task has, or columns without a task are of several kinds.
    """
    remarks, called = [column.remark for column in columns if column.remark], _names(columns)
    if task is None:
        task = _infer_task(columns, path)
        remarks.append(f"The task is {task}, by the looks of the targets; --data.task says otherwise.")
    if task == "regression":
        return Targets(read_numbers(columns, path), task, called, called, remarks)
    if task == "classification":
        read = [column.classes(any_words=True) or _refuse_classes(column, path) for column in columns]
        for column, (_, (low, high)) in zip(columns, read, strict=True):
            if (low, high) != ("0", "1"):
                remarks.append(f"{column.name!r}: {high!r} is the positive class, {low!r} the negative one.")
        values, names = zip(*read, strict=True)
        return Targets(_stack(values), task, called, called, remarks, list(names))
    if len(columns) != 1:
        raise InputError(f"A choice of several classes is one column, not {', '.join(map(repr, called))}.")
    [column] = columns
    cells = pd.Series(column.numbers if column.is_numeric else column.text).where(column.known)
    numbers, classes = pd.factorize(cells, sort=True)
    if len(classes) < 2:
        found = "one class" if len(classes) else "no value"
        raise InputError(f"Column {column.name!r} of {path} has {found}; a choice needs two classes.")
    names = [str(name).removesuffix(".0") for name in classes]
    return Targets(_stack([np.where(column.known, numbers, np.nan)]), task, names, called, remarks)


def _infer_task(columns: Sequence[Column], path: object) -> Task:
    if all(column.classes() is not None for column in columns):
        return "classification"
    if all(column.mostly_numeric or column.looks_numeric for column in columns):
        return "regression"
    if len(columns) == 1 and len(columns[0].words) <= min(_FEW, np.count_nonzero(columns[0].known) / 2):
        return "multiclass"
    of_words = next(column for column in columns if not column.mostly_numeric)
    if len(columns) == 1:
        raise InputError(
            f"Column {of_words.name!r} of {path} holds {len(of_words.words)} different words; if these are "
            "classes, pass --data.task multiclass."
        )
    raise InputError(
        f"Column {of_words.name!r} of {path} holds words, and others hold numbers; name targets of one kind "
        "with --data.target_columns."
    )


def read_numbers(columns: Sequence[Column], path: object) -> NDArray[np.float32]:
    """Numbers of columns [rows, columns], NaN where missing.

    Raises:
        InputError: A cell is no number, or none that float32 holds.
    """
    _refuse(
        [(row, column) for column in columns for row in column.faults],
        path,
        "not numeric; clear such cells if their values are missing, or correct them",
    )
    _refuse(
        [
            (int(row), column)
            for column in columns
            for row in np.flatnonzero(column.known & ~(abs(column.numbers) <= _LARGEST))
        ],
        path,
        f"larger than {_LARGEST:.1e}, which float32 cannot hold; clear such cells, or train on logarithms",
    )
    return _stack([column.numbers for column in columns])


def _refuse_classes(column: Column, path: object) -> Any:
    _refuse(
        [(row, column) for row in np.flatnonzero(column.known) if column.numbers[row] not in (0, 1)],
        path,
        "none of the classes 0 and 1 (or -1 and 1, or two words); for continuous values pass "
        "--data.task regression, for several classes --data.task multiclass",
    )
    raise InputError(f"Column {column.name!r} of {path} has no value.")


def _refuse(cells: Sequence[tuple[int, Column]], path: object, why: str) -> None:
    if not cells:
        return
    listed = "; ".join(
        f"row {row}, column {column.name!r}: {column.text[row]!r}" for row, column in cells[:_SHOWN]
    )
    more = f"; and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else ""
    verb = "cell is" if len(cells) == 1 else "cells are"
    raise InputError(f"{path}: {len(cells)} {verb} {why} (rows count from 0): {listed}{more}.")


def _stack(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    return np.stack(values, axis=1).astype(np.float32)


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]
