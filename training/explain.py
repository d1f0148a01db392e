"""Explain predictions for a table of SMILES: contributions of atoms and bonds, and drawings."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rdkit import Chem
from rich.progress import Progress
from torch_geometric.data import Batch

from datasets.cache import save_unreadable
from datasets.featurise import Unreadable
from plstm_graph.chem import mol_to_data, read_smiles
from plstm_graph.chem.drawing import draw_contributions
from plstm_graph.errors import InputError
from plstm_graph.explain import contributions
from plstm_graph.task import GraphTask
from training.arguments import ArgumentParser
from training.ensemble import Ensemble
from training.stream import open_source

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
_ROWS, _BATCH = 4096, 64  # rows that are read, and molecules that are explained at once


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "train.py explain",
        description="Share predictions for a table of SMILES out among atoms and bonds: contributions.csv, a "
        "drawing of every molecule and target, and unreadable.csv with the rows that RDKit cannot read.",
    )
    add = parser.add_argument
    add("-i", "--test-path", required=True, metavar="FILE", help=".csv, .parquet, .smi, .txt, as for predict")
    add(
        "--model-paths",
        "--model-path",
        nargs="+",
        required=True,
        metavar="CHECKPOINT",
        help="the contributions to several checkpoints are averaged",
    )
    add("-o", "--preds-path", "--output", type=Path, required=True, metavar="FOLDER")
    add("-s", "--smiles-column", "--smiles-columns", default="smiles", metavar="NAME")
    add("--target", metavar="NAME", help="explain this one (default all)")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the verb ``explain``.

    A bond's contribution is that of both its directions. Classification is explained by the log-odds, a
    choice of classes by their logits, regression in the targets' unit.

    Args:
        argv: Arguments after the verb.

    Raises:
        InputError: A wrong command line, a file, column or target that is not there, a network that does not
            take SMILES, or a table of which RDKit can read no row.
    """
    options = _parser().parse_args(argv)
    source = open_source(options.test_path, options.smiles_column)
    ensemble = Ensemble(options.model_paths)
    targets = dict(enumerate(ensemble.targets))
    if options.target is not None:
        targets = {number: name for number, name in targets.items() if name == options.target}
        if not targets:
            known = ", ".join(ensemble.targets)
            raise InputError(f"There is no target {options.target!r}; targets are {known}.")
    smiles = [text for chunk in source.chunks(_ROWS) for text in chunk[options.smiles_column].to_pylist()]
    molecules, unreadable = _parse(smiles)
    if not molecules:
        raise InputError(f"None of the {len(smiles)} SMILES of {options.test_path} can be read.")
    folder = _make_folder(options.preds_path)
    save_unreadable(unreadable, folder / "unreadable.csv")
    drawings = _write(folder, ensemble, smiles, molecules, targets)
    print(f"{len(molecules)} molecules: {folder / 'contributions.csv'} and {drawings} drawings")
    if unreadable:
        print(f"{len(unreadable)} of {len(smiles)} rows cannot be read: {folder / 'unreadable.csv'}")


def _parse(smiles: list[object]) -> tuple[dict[int, Chem.Mol], list[Unreadable]]:
    """Molecules by row, and the rows that RDKit cannot read."""
    molecules, unreadable = {}, []
    for row, text in enumerate(smiles):
        try:
            molecules[row] = read_smiles(text)
        except InputError as error:
            unreadable.append(Unreadable(row, text, str(error)))
    return molecules, unreadable


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made a folder: {error.strerror}.") from error
    return path


def _write(
    folder: Path,
    ensemble: Ensemble,
    smiles: list[object],
    molecules: dict[int, Chem.Mol],
    targets: dict[int, str],
) -> int:
    """Write the table and the drawings; returns how many drawings there are."""
    files, rows = _file_names(targets), list(molecules)
    with (
        (folder / "contributions.csv").open("w", newline="", encoding="utf-8") as file,
        Progress() as progress,
    ):
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        bar = progress.add_task("Explaining", total=len(rows))
        for start in range(0, len(rows), _BATCH):
            chunk = rows[start : start + _BATCH]
            explained = _explain(ensemble, [molecules[row] for row in chunk])
            for row, (predictions, atoms, bonds) in zip(chunk, explained, strict=True):
                mol = molecules[row]
                for number, name in targets.items():
                    of_atoms, of_bonds = atoms[:, number], bonds[:, number]
                    first = (row, smiles[row], name, f"{predictions[number]:.7g}")
                    table.writerows((*first, *cells) for cells in _cells(mol, of_atoms, of_bonds))
                    drawing = draw_contributions(mol, of_atoms, of_bonds, _label(ensemble.tasks[0], name))
                    drawing.save(folder / f"row-{row:06d}-{files[number]}.svg")
                progress.advance(bar)
    return len(rows) * len(targets)


def _explain(
    ensemble: Ensemble, molecules: list[Chem.Mol]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Predictions [T] and contributions of atoms [N, T] and bonds [E, T] of every molecule."""
    batch = Batch.from_data_list([mol_to_data(mol) for mol in molecules])
    with torch.no_grad():
        predictions = torch.stack([task(batch) for task in ensemble.tasks]).mean(0)
    shares = [contributions(task, batch) for task in ensemble.tasks]
    atoms, columns = (torch.stack(parts).mean(0) for parts in zip(*shares, strict=True))
    bonds = columns.view(-1, 2, columns.size(1)).sum(1)
    yield from zip(
        predictions,
        atoms.split([mol.GetNumAtoms() for mol in molecules]),
        bonds.split([mol.GetNumBonds() for mol in molecules]),
        strict=True,
    )


def _cells(mol: Chem.Mol, atoms: torch.Tensor, bonds: torch.Tensor) -> Iterator[tuple[object, ...]]:
    """The last cells of the table's rows, from ``kind`` on."""
    for atom, value in zip(mol.GetAtoms(), atoms.tolist(), strict=True):
        yield "atom", atom.GetIdx(), "", "", atom.GetSymbol(), f"{value:.7g}"
    for bond, value in zip(mol.GetBonds(), bonds.tolist(), strict=True):
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        sign = ":" if bond.GetIsAromatic() else bond.GetSmarts() or "-"
        symbol = f"{begin.GetSymbol()}{sign}{end.GetSymbol()}"
        yield "bond", bond.GetIdx(), begin.GetIdx(), end.GetIdx(), symbol, f"{value:.7g}"


def _label(task: GraphTask, name: str) -> str:
    unit = {"classification": "log-odds", "multiclass": "logit"}.get(task.task, task.unit)
    return f"contribution to {name}" + (f", {unit}" if unit else "")


def _file_names(targets: dict[int, str]) -> dict[int, str]:
    """Names of targets as parts of file names, numbered if they would be alike."""
    plain = {number: re.sub(r"[^\w.-]+", "_", name) for number, name in targets.items()}
    if len({name.lower() for name in plain.values()}) == len(plain):
        return plain
    return {number: f"{number}-{name}" for number, name in plain.items()}
