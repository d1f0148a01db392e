"""A page to look at: the first molecules of a table with what is predicted for them, and validation plots."""

import io
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader
from matplotlib import rc_context
from matplotlib.figure import Figure
from rdkit import Chem
from rich.console import Console
from rich.progress import track
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import RocCurveDisplay

from plstm_graph.calibration import Calibration
from plstm_graph.chem import read_smiles
from plstm_graph.commands.contributions import explained, label_of, read_molecules
from plstm_graph.commands.results import Results
from plstm_graph.commands.sinks import cells
from plstm_graph.datasets.descriptors import columns_of
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.stream import Source
from plstm_graph.drawing import draw_contributions
from plstm_graph.drawing.depiction import depict
from plstm_graph.drawing.svg import card
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError
from plstm_graph.similarity import morgan_bits

ROWS = 500  #: of the table, at most: contributions take 32 passes a molecule
_TARGETS, _ATOMS, _NEIGHBOURS, _POINTS = 4, 200, 3, 2000  # drawn, of a molecule, beside each, in a plot
_BLUE = "#3f8fd2"  # seen on dark and light


def write_report(
    path: Path,
    source: Source,
    results: Results,
    targets: Mapping[int, str] | None = None,
    max_atoms: int | None = None,
    drawn: Mapping[int, Sequence[Path]] | None = None,
) -> None:
    """Write one HTML file that needs no other and no network.

    Args:
        path: The file.
        source: The table, of which it shows the first 500 rows.
        results: What predicts.
        targets: Names by number of those to draw, of which it takes the first four; by default all.
        max_atoms: Molecules with more count as unreadable.
        drawn: Files of contributions to the targets, by row; by default they are computed.

    Raises:
        InputError: The file cannot be written.
    """
    ensemble, reference, note = results.ensemble, results.ensemble.reference, ""
    some = next(source.chunks(ROWS + 1), pa.RecordBatch.from_pylist([], source.schema))
    batch, names = some.slice(0, ROWS), ensemble.descriptor_names
    smiles, described = source.smiles_of(batch[results.smiles_column]), columns_of(batch, ensemble.columns)
    wanted = set(ensemble.preparations), max_atoms, results.fingerprints, names, described
    shown = results.rows(0, batch, featurise_smiles(0, smiles, *wanted))
    errors = shown["error"].to_pylist()
    fine = [text if error is None else None for text, error in zip(smiles, errors, strict=True)]
    read, _ = read_molecules(0, fine, described, names)
    mols = {row: mol for row, (mol, _) in read.items()}
    small = [row for row, mol in mols.items() if mol.GetNumAtoms() <= _ATOMS]
    targets = dict(list((targets or dict(enumerate(ensemble.targets))).items())[:_TARGETS])
    try:
        if drawn is None:
            drawings = list(_contributions(ensemble, [read[row] for row in small], targets))
        else:
            drawings = [[file.read_text("utf-8") for file in drawn[row][:_TARGETS]] for row in small]
    except InputError as error:
        drawings, note = [[_structure(mols[row])] for row in small], str(error)
    near, structures = {}, {}
    if reference is not None and reference.train_smiles:
        found = reference.nearest(morgan_bits(list(mols.values())), _NEIGHBOURS)
        near = {row: list(zip(*pair, strict=True)) for row, *pair in zip(mols, *found, strict=True)}
        structures = {i: _structure(read_smiles(reference.train_smiles[i])) for i in set(found[1].flat)}
    page = Environment(loader=PackageLoader("plstm_graph.commands", ""), autoescape=True)
    text = page.get_template("report.html").render(
        source=source,
        results=results,
        note=note,
        more=len(some) > ROWS,
        errors=errors,
        columns={name: _column(cells(shown[name])) for name in shown.schema.names},
        targets=targets,
        drawings=dict(zip(small, drawings, strict=True)),
        near=near,
        structures=structures,
        plots=_plots(ensemble),
        nonce=secrets.token_urlsafe(),  # nobody who wrote the table knows it
    )
    with whole_file(path, encoding="utf-8") as file:
        file.write(text)
    print(f"{len(errors)} rows to look at: {path}", file=sys.stderr)


def _contributions(ensemble: Ensemble, read: list[Any], targets: dict[int, str]) -> Iterator[list[str]]:
    """Drawings for molecules, which come with their graphs."""
    labels = {number: label_of(ensemble.predictors[0], name) for number, name in targets.items()}
    starts, console = range(0, len(read), 64), Console(stderr=True)
    for start in track(starts, "Explaining", console=console, disable=not console.is_terminal):
        mols, graphs = zip(*read[start : start + 64], strict=True)
        for mol, (_, atoms, bonds) in zip(mols, explained(ensemble, list(graphs)), strict=True):
            yield [draw_contributions(mol, atoms[:, i], bonds[:, i], labels[i]).svg for i in targets]


def _structure(mol: Chem.Mol) -> str:
    return card([depict(mol, indices=False).panel()], Chem.MolToSmiles(mol)).svg


def _column(column: Sequence[str]) -> tuple[bool, list[tuple[str, str]]]:
    """Whether a column is of numbers, and its cells, rounded and whole."""
    try:
        numbers = np.array([cell or "nan" for cell in column], float)
    except ValueError:
        return False, [(cell, cell) for cell in column]
    places = max(0, 4 - len(f"{max(abs(numbers[np.isfinite(numbers)]), default=0):.0f}"))
    rounded = [f"{x:.{places}f}" if not 0 < abs(x) * 10**places < 100 else f"{x:.3g}" for x in numbers]
    return True, [
        (min(cell, x, key=len) if "." in cell and len(cell) > 6 else cell, cell)
        for cell, x in zip(column, rounded, strict=True)
    ]


def _plots(ensemble: Ensemble) -> str:
    """Errors on the validation rows, or how well classes are told apart, as SVG."""
    if (known := ensemble.reference) is None:
        return ""
    truth, values, file = known.val_targets, known.val_predictions, io.StringIO()
    rows = min(_TARGETS, len(ensemble.targets)) if ensemble.task == "regression" else 1
    with rc_context({"svg.fonttype": "none", "text.parse_math": False, "legend.frameon": False}):
        figure = Figure(figsize=(9, 3.6 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False)
        if ensemble.task == "regression":
            near, step = known.val_similarity, max(1, len(truth) // _POINTS)
            for (one, two), name, y, p in zip(panels, ensemble.targets, truth.T, values.T, strict=False):
                one.plot(y[::step], p[::step], ".", color=_BLUE)
                one.axline((np.nanmean(y),) * 2, slope=1, color="grey", linewidth=1)
                one.axis("square")
                one.set(xlabel=f"{name}, measured", ylabel="predicted")
                if near is not None:
                    two.plot(near[::step], abs(p - y)[::step], ".", color=_BLUE)
                two.set(xlabel="similarity of the nearest training molecule", ylabel=f"|error| of {name}")
        else:
            calibrated = Calibration(ensemble.task, [values], truth).probabilities(values)
            if ensemble.task == "multiclass":
                truth = np.where(np.isnan(truth), truth, truth == np.arange(values.shape[1]))
            given = ~np.isnan(truth)
            for name, y, p, there in zip(ensemble.targets, truth.T, values.T, given.T, strict=True):
                if len(set(y[there])) == 2:  # else there is no curve
                    RocCurveDisplay.from_predictions(y[there], p[there], name=name, ax=panels[0, 0])
            panels[0, 0].set(xlabel="false positive rate", ylabel="true positive rate")
            for name, p in (("before", values), ("calibrated", calibrated)) if given.any() else ():
                bins = {"n_bins": 10, "strategy": "quantile", "name": name}
                CalibrationDisplay.from_predictions(truth[given], p[given], ax=panels[0, 1], **bins)
            panels[0, 1].set(xlabel="predicted probability", ylabel="share that is positive")
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=about)
    return "<svg" + file.getvalue().partition("<svg")[2].replace("#000000", "currentColor")
