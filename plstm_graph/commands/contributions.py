"""Contributions of atoms and bonds to what an ensemble predicts for the rows of a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rdkit import Chem
from torch_geometric.data import Batch, Data

from plstm_graph.chem import mol_to_data, read_smiles
from plstm_graph.datasets.descriptors import read_columns, with_rdkit
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError
from plstm_graph.explain import contributions
from plstm_graph.predictor import Predictor


def read_molecules(
    start: int, smiles: Sequence[Any], cells: Mapping[str, Sequence[Any]], descriptors: Sequence[str]
) -> tuple[dict[int, tuple[Chem.Mol, Data]], list[tuple[int, Any, str]]]:
    """Molecules and graphs by row, and row, SMILES and reason of those that cannot be read."""
    molecules, unreadable = {}, []
    columns, reasons = read_columns(cells, len(smiles))
    for row, text in enumerate(smiles):
        try:
            if row in reasons:
                raise InputError(reasons[row])
            mol = read_smiles(text)
        except InputError as error:
            unreadable.append((start + row, text, str(error)))
            continue
        graph = mol_to_data(mol)
        if descriptors:
            graph.descriptors = torch.from_numpy(with_rdkit(columns[[row]], [mol], descriptors))
        molecules[start + row] = mol, graph
    return molecules, unreadable


def explained(
    ensemble: Ensemble, graphs: list[Data]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Predictions [T] and contributions of atoms [N, T] and bonds [E, T] of every molecule.

    Predictions are those of the verb ``predict``: probabilities are calibrated, contributions are to the
    log-odds before that.
    """
    if not graphs:
        return
    batch = Batch.from_data_list(graphs)
    with torch.no_grad():
        outputs = [predictor(batch).float().numpy() for predictor in ensemble.predictors]
    predictions = torch.from_numpy(ensemble.combine(outputs).mean)
    shares = [contributions(predictor, batch) for predictor in ensemble.predictors]
    atoms, columns = (torch.stack(parts).mean(0) for parts in zip(*shares, strict=True))
    bonds = columns.view(-1, 2, columns.size(1)).sum(1)
    yield from zip(
        predictions,
        atoms.split([graph.num_nodes for graph in graphs]),
        bonds.split([graph.num_edges // 2 for graph in graphs]),
        strict=True,
    )


def label_of(predictor: Predictor, name: str) -> str:
    """What a drawing of contributions to a target is labelled with."""
    unit = {"classification": "log-odds", "multiclass": "logit"}.get(predictor.task, predictor.unit)
    return f"contribution to {name}" + (f", {unit}" if unit else "")
