"""Molecules of your own, from tables."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from plstm_graph.datasets.base import MoleculeDataModule
from plstm_graph.datasets.descriptors import RDKIT
from plstm_graph.datasets.splits import Split, check_fraction, random_split, scaffold_split
from plstm_graph.datasets.stream import CSVTable, Source, open_source
from plstm_graph.datasets.table import Table, check_there
from plstm_graph.datasets.targets import Targets, choose_targets, columns_of, read_numbers, read_targets
from plstm_graph.errors import InputError, listed
from plstm_graph.predictor import Task

#: Words of a split column, by part.
_PARTS = {
    **dict.fromkeys(("train", "training", "0"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev", "1"), 1),
    **dict.fromkeys(("test", "testing", "2"), 2),
}
_LEFT_OUT = -1
#: Splits that read no column.
_SPLITS = ("scaffold", "random")
#: Parts of two files, and of three.
_FILES = {2: (0, 2), 3: (0, 1, 2)}


class CSV(MoleculeDataModule):
    """Molecules of your own.

    ``split`` is ``"scaffold"``, ``"random"``, or the name of a column with ``train``, ``val`` and ``test``
    (or 0, 1 and 2). Rows without a part are left out; without ``test``, nothing is tested.

    Args:
        path: Table with a header: ``.csv`` or ``.tsv``, compressed or not, ``.parquet`` or ``.xlsx``; or two
            (training and test) or three of them (training, validation and test).
        smiles_column: Column of the SMILES.
        target_columns: Columns of the targets, whose empty cells are missing values; by default all numeric
            ones but identifiers.
        task: ``"regression"`` expects numbers, ``"classification"`` two classes a column (0 and 1, -1 and 1,
            or two words such as ``no`` and ``yes``), ``"multiclass"`` one column of classes; by default what
            the cells look like.
        val_fraction: Share of the training rows that validate, where a split has no part for that.
        val_split: Whether they are drawn at ``"random"``, with ``split_seed``, or whole scaffolds are.
        metric: Score that selects checkpoints, see :class:`~plstm_graph.task.GraphTask`.
        descriptor_columns: Columns of numbers that networks read beside every molecule, such as a dose; empty
            cells are missing values.
        unit: Unit of the targets, for tables and axes.
        separator: Character between cells; by default the one that the header shows.
        encoding: Encoding of the text, such as ``"cp1252"``; by default UTF-8, or UTF-16 if it is marked so.
        **kwargs: Arguments of :class:`MoleculeDataModule`; ``unreadable`` is ``"skip"`` by default.

    Raises:
        InputError: Settings that no table could have.
    """

    def __init__(
        self,
        path: Path | list[Path],
        smiles_column: str = "smiles",
        target_columns: list[str | int | float] | str | None = None,
        task: Task | None = None,
        val_fraction: float = 0.1,
        val_split: Literal["random", "scaffold"] = "random",
        metric: str | None = None,
        descriptor_columns: list[str] | str | None = None,
        unit: str = "",
        separator: str | None = None,
        encoding: str | None = None,
        unreadable: Literal["refuse", "skip"] = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable=unreadable, **kwargs)
        self.paths = [Path(part) for part in (path if isinstance(path, list) else [path])]
        if len(self.paths) not in (1, *_FILES):
            raise InputError(
                f"path names {len(self.paths)} files; give one, two (training, test) or three (training, "
                "validation, test)."
            )
        if target_columns is not None and not target_columns:
            raise InputError("target_columns is empty; name at least one column, or leave it out.")
        check_fraction(val_fraction, "val_fraction")
        one = isinstance(descriptor_columns, str)
        self._descriptor_columns = [descriptor_columns] if one else list(descriptor_columns or [])
        self.smiles_column = smiles_column
        self.target_columns = target_columns
        self.val_fraction = val_fraction
        self.val_split = val_split
        self.unit = unit
        self.separator = separator
        self.encoding = encoding
        self._task = task
        self._metric = metric

    @property
    def name(self) -> str:
        """The first file's name."""
        return self.paths[0].name.partition(".")[0]

    @property
    def task(self) -> Task:  # type: ignore[override]
        """The task that was given, or that the targets look like."""
        return self.targets.task

    @property
    def metric(self) -> str:
        """The score that was given, or the task's."""
        return self._metric or super().metric

    @property
    def descriptor_columns(self) -> list[str]:
        """Columns of numbers that networks read beside every molecule."""
        return self._descriptor_columns

    @property
    def target_names(self) -> list[str]:
        """Columns of the targets, or the classes of the only one."""
        return self.targets.names

    @property
    def class_names(self) -> list[list[str]] | None:
        """What the cells call the two classes of each target, if the task is classification."""
        return self.targets.class_names

    @cached_property
    def targets(self) -> Targets:
        """The targets, read once."""
        frame = self.cells
        others = (self.smiles_column, *self._part_column, *self.descriptor_columns)
        names = [name for name in frame if name not in others]
        if self.target_columns is not None:
            names = self._named(list(frame))
        # Where commas part cells, a number cannot hold one.
        columns = columns_of({name: frame[name] for name in names}, self._separators.isdisjoint({","}))
        if self.target_columns is None:
            columns = choose_targets(columns, self._file)
        return read_targets(columns, self._task, self._file)

    def _named(self, known: list[str]) -> list[str]:
        """The columns that were named; a number names the column that is called by it, however written."""
        given = self.target_columns
        wanted = given if isinstance(given, list) else [given]
        names = []
        for name in wanted:
            alike = [column for column in known if column == str(name)]
            if not alike and not isinstance(name, str):
                alike = [column for column in known if _is_number(column, name)]
            names.append(alike[0] if alike else str(name))
        check_there(names, known, self._file)
        for name, count in Counter(names).items():
            used = {
                self.smiles_column: "the SMILES",
                **dict.fromkeys(self.descriptor_columns, "a descriptor"),
            }
            if count > 1 or name in used:
                raise InputError(
                    f"{name!r} cannot be a target {'twice' if count > 1 else f'and {used[name]}'}."
                )
        return names

    @property
    def descriptor_names(self) -> list[str]:
        """The columns of descriptors, and RDKit's if they are wanted."""
        return [*self.descriptor_columns, *super().descriptor_names]

    def read_table(self) -> Table:
        """Read the files."""
        smiles, wanted = self.cells[self.smiles_column], self.descriptor_columns
        if not wanted:
            return Table(smiles, self.targets.values)
        check_there(wanted, list(self.cells), self._file)
        for name in wanted:
            if (
                wanted.count(name) > 1
                or name in (self.smiles_column, *self._part_column)
                or name.startswith(RDKIT)
            ):
                raise InputError(f"{name!r} cannot be a descriptor: rename it, or name it only once.")
        columns = columns_of({name: self.cells[name] for name in wanted}, decimal_commas=False)
        return Table(smiles, self.targets.values, read_numbers(columns, self._file))

    @property
    def _file(self) -> str:
        return ", ".join(map(str, self.paths))

    @cached_property
    def _sources(self) -> list[Source]:
        return [
            open_source(str(path), self.smiles_column, self.separator, self.encoding) for path in self.paths
        ]

    @property
    def _separators(self) -> set[str]:
        return {source.separator for source in self._sources if isinstance(source, CSVTable)}

    @cached_property
    def cells(self) -> dict[str, list[Any]]:
        """Cells by column, of those that all files have."""
        first, *others = self._tables
        shared = [name for name in first if all(name in table for table in others)]
        return {name: [cell for table in self._tables for cell in table[name]] for name in shared}

    @cached_property
    def _tables(self) -> list[dict[str, list[Any]]]:
        """Cells by column of every file, read once."""
        tables = []
        for source in self._sources:
            table = pa.Table.from_batches(source.chunks(2**16), source.schema)
            if not len(table):
                raise InputError(f"{source.path} has no rows below its header.")
            tables.append({name: table[name].to_pylist() for name in table.column_names})
            tables[-1][self.smiles_column] = source.smiles_of(table[self.smiles_column])
        return tables

    @cached_property
    def _parts(self) -> list[int] | None:
        """The part of every row, if a column or files say so."""
        if len(self.paths) > 1:
            files = zip(_FILES[len(self.paths)], self._tables, strict=True)
            return [part for part, table in files for _ in table[self.smiles_column]]
        if self.split in _SPLITS or self.split not in self.cells:
            return None
        parts = []
        for row, cell in enumerate(self.cells[self.split]):
            word = "" if cell is None else str(cell).strip().lower().removesuffix(".0")
            if word and word not in _PARTS:
                raise InputError(
                    f"{self._file}: row {row} of column {self.split!r} is {cell!r}, not train, val or "
                    "test (or 0, 1 and 2)."
                )
            parts.append(_PARTS.get(word, _LEFT_OUT))
        return parts

    @property
    def _part_column(self) -> tuple[str, ...]:
        """The column that says the parts, if one does; others may be called scaffold or random."""
        return () if self.split in _SPLITS else (self.split,)

    @property
    def may_lack_test(self) -> bool:  # type: ignore[override]
        """Whether a column or files say the parts."""
        return self._parts is not None

    @property
    def _by_scaffold(self) -> bool:
        if self._parts is None:
            return super()._by_scaffold
        return 1 not in self._parts and self.val_split == "scaffold"

    def split_rows(self) -> Split:
        """Split by scaffold, at random, or as a column or files say."""
        if self._parts is None:
            if self.split in _SPLITS:
                return super().split_rows()
            raise InputError(
                f"split must be 'scaffold', 'random' or a column of {self._file}, not {self.split!r}."
            )
        part = torch.tensor(self._parts)[self.dataset.tensors["row"]]
        train, val, test = ((part == i).nonzero().squeeze(1) for i in range(3))
        if 1 not in self._parts and len(train) > 1:
            val = self._validation(train)
            train = train[~torch.isin(train, val)]
        return Split(train, val, test)

    def _why_empty(self) -> str:
        """What the column of parts lacks, or the scaffolds."""
        if self._parts is None or len(self.paths) > 1:
            return super()._why_empty()
        return f", as column {self.split!r} names no row for it that can be read"

    def _validation(self, train: Tensor) -> Tensor:
        """Rows that are taken out of the training rows."""
        fractions = 1 - self.val_fraction, self.val_fraction, 0.0
        if self.val_split == "random":
            return train[random_split(len(train), self.split_seed, fractions).val]
        scaffolds = [(self.dataset.scaffolds or [])[row] for row in train.tolist()]
        if len(set(scaffolds)) < 2:
            raise InputError("All training rows have one scaffold; pass --data.val_split random.")
        return train[scaffold_split(scaffolds, fractions, self.split_seed).val]

    def describe(self) -> list[str]:
        """Sentences on what the table was understood to be; after :meth:`setup`."""
        rows, values = len(self.table.smiles), self.dataset.tensors["y"].numpy()
        if self.task == "multiclass":
            counts = [f"{np.count_nonzero(values == number):,}" for number in range(self.num_tasks)]
        else:
            counts = [f"{count:,}" for count in (values == values).sum(0).tolist()]
        if self.task == "classification":
            positive = np.count_nonzero(values == 1, axis=0).tolist()
            counts = [f"{count}, {ones:,} positive" for count, ones in zip(counts, positive, strict=True)]
        counted = [f"{name} ({count})" for name, count in zip(self.target_names, counts, strict=True)]
        parts = ", ".join(f"{len(part):,} {name}" for name, part in self.rows._asdict().items())
        sentences = [
            f"{self._file}: {rows:,} rows, of which {len(self.dataset):,} give a graph.",
            f"Targets ({self.task}) and their values: {', '.join(counted)}.",
            *self.targets.remarks,
            f"Split: {parts}.",
        ]
        if self.descriptor_names:
            sentences.append(f"Descriptors beside the graph: {len(self.descriptor_names)}.")
        read = {self.smiles_column, *self._part_column, *self.descriptor_columns, *self.targets.columns}
        if others := [name for name in self.cells if name not in read]:
            sentences.append(f"Columns that are not read: {listed(others)}.")
        molecules = self.dataset.molecules()
        train, *rest = (set(molecules[part].tolist()) for part in self.rows)
        if again := len(train & set.union(*rest)):
            counted = f"{again:,} molecules are" if again > 1 else "1 molecule is"
            sentences.append(f"{counted} in training rows and in validation or test rows.")
        without = (self._parts or []).count(_LEFT_OUT)
        if without:
            sentences.append(f"{without:,} rows have no part in column {self.split!r} and are left out.")
        return sentences


def _is_number(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False
