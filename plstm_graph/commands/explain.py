"""Explain predictions for a table of SMILES: contributions of atoms and bonds, and drawings."""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from rich.progress import Progress

from plstm_graph.commands.contributions import explained, label_of, read_molecules
from plstm_graph.commands.results import Predictions
from plstm_graph.commands.sinks import check_report
from plstm_graph.datasets.cache import UNREADABLE_COLUMNS
from plstm_graph.datasets.descriptors import columns_of
from plstm_graph.datasets.files import whole_file, write_rows
from plstm_graph.datasets.stream import open_source
from plstm_graph.datasets.table import check_there
from plstm_graph.drawing import draw_contributions
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError

_COLUMNS = (
    "row",
    "smiles",
    "target",
    "prediction",
    "kind",
    "index",
    "begin",
    "end",
    "symbol",
    "contribution",
)
_ROWS = 64  # that are read and explained at once
_SHOWN = 3  # reasons, where no row can be read


def explain(options: argparse.Namespace) -> None:
    """Run the verb ``explain``.

    A bond's contribution is that of both its directions. Classification is explained by the log-odds, a
    choice of classes by their logits, regression in the targets' unit.

    Args:
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.

    Raises:
        InputError: A file, column or target that is not there, a network that does not
            take SMILES, or a table of which RDKit can read no row.
    """
    if options.report is not None:
        check_report(options)
    source = open_source(options.data_path, options.smiles_column, options.separator, options.encoding)
    ensemble = Ensemble(options.ckpt_path)
    check_there(ensemble.columns, source.schema.names, options.data_path)
    results = Predictions(source.schema, ensemble, options.smiles_column, _ROWS) if options.report else None
    targets = dict(enumerate(ensemble.targets))
    if options.target is not None:
        targets = {number: name for number, name in targets.items() if name == options.target}
        if not targets:
            known = ", ".join(ensemble.targets)
            raise InputError(f"There is no target {options.target!r}; targets are {known}.")
    folder = _make_folder(options.output)
    cells = (
        (source.smiles_of(chunk[options.smiles_column]), columns_of(chunk, ensemble.columns))
        for chunk in source.chunks(_ROWS)
    )
    read, unreadable = _write(folder, ensemble, cells, source.total, targets)
    print(f"{read} molecules: {folder / 'contributions.csv'} and {read * len(targets)} drawings")
    if unreadable:
        print(f"{unreadable} of {read + unreadable} rows cannot be read: {folder / 'unreadable.csv'}")
    if results is not None:
        from plstm_graph.commands.html_report import ROWS, write_report

        names = _file_names(targets).values()
        drawn = {row: [folder / f"row-{row:06d}-{name}.svg" for name in names] for row in range(ROWS)}
        write_report(options.report, source, results, targets, drawn=drawn)


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made a folder: {error.strerror}.") from error
    for name in ("contributions.csv", "unreadable.csv"):
        if (path / name).exists():
            raise InputError(f"{path} holds {name} already; name another folder.")
    return path


def _write(
    folder: Path,
    ensemble: Ensemble,
    chunks: Iterable[tuple[list[Any], dict[str, list[Any]]]],
    total: int | None,
    targets: dict[int, str],
) -> tuple[int, int]:
    """Write the tables and the drawings; returns how many rows RDKit can read, and how many it cannot."""
    files, read, start = _file_names(targets), 0, 0
    reasons: list[str] = []
    with (
        whole_file(folder / "contributions.csv", newline="", encoding="utf-8") as of_contributions,
        whole_file(folder / "unreadable.csv", newline="", encoding="utf-8") as of_unreadable,
        Progress() as progress,
    ):
        write_rows(of_contributions, [_COLUMNS])
        write_rows(of_unreadable, [UNREADABLE_COLUMNS])
        bar = progress.add_task("Explaining", total=total)
        for smiles, cells in chunks:
            molecules, unreadable = read_molecules(start, smiles, cells, ensemble.descriptor_names)
            write_rows(of_unreadable, unreadable)
            reasons += [f"row {row}: {reason}" for row, _, reason in unreadable[: _SHOWN - len(reasons)]]
            parts = explained(ensemble, [graph for _, graph in molecules.values()])
            for (row, (mol, _)), (predictions, atoms, bonds) in zip(molecules.items(), parts, strict=True):
                for number, name in targets.items():
                    of_atoms, of_bonds = atoms[:, number], bonds[:, number]
                    first = (row, smiles[row - start], name, f"{predictions[number]:.7g}")
                    rows = ((*first, *cells) for cells in _cells(mol, of_atoms, of_bonds))
                    write_rows(of_contributions, rows)
                    drawing = draw_contributions(
                        mol, of_atoms, of_bonds, label_of(ensemble.predictors[0], name)
                    )
                    drawing.save(folder / f"row-{row:06d}-{files[number]}.svg")
            read += len(molecules)
            start += len(smiles)
            progress.update(bar, completed=start)
        if not start:
            raise InputError("The table has no rows to explain.")
        if not read:
            raise InputError(f"None of the {start} SMILES can be read; {' '.join(reasons)}")
    return read, start - read


def _cells(mol: Chem.Mol, atoms: torch.Tensor, bonds: torch.Tensor) -> Iterator[tuple[object, ...]]:
    """The last cells of the table's rows, from ``kind`` on."""
    for atom, value in zip(mol.GetAtoms(), atoms.tolist(), strict=True):
        yield "atom", atom.GetIdx(), "", "", atom.GetSymbol(), f"{value:.7g}"
    for bond, value in zip(mol.GetBonds(), bonds.tolist(), strict=True):
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        sign = ":" if bond.GetIsAromatic() else Chem.Bond.GetSmarts(bond) or "-"
        symbol = f"{begin.GetSymbol()}{sign}{end.GetSymbol()}"
        yield "bond", bond.GetIdx(), begin.GetIdx(), end.GetIdx(), symbol, f"{value:.7g}"


def _file_names(targets: dict[int, str]) -> dict[int, str]:
    """Names of targets as parts of file names, numbered if they would be alike."""
    plain = {number: re.sub(r"[^\w.-]+", "_", name) for number, name in targets.items()}
    if len({name.lower() for name in plain.values()}) == len(plain):
        return plain
    return {number: f"{number}-{name}" for number, name in plain.items()}
