"""Orientations of one's own: a function of the graph, ranks as a tensor, and a check of both.

Bonds point from the lower to the higher rank. Any rank that follows from the molecule alone, and not
from how its atoms happen to be numbered, gives predictions that do not depend on the numbering either.
"""

import torch
from rdkit import Chem
from rdkit.Chem.rdPartialCharges import ComputeGasteigerCharges
from torch_geometric.data import Data

from plstm_graph.chem import mol_to_data
from plstm_graph.dag import build_dag
from plstm_graph.models import PLSTM
from plstm_graph.testing import assert_renumbering_invariant

ELECTRONEGATIVITY = torch.zeros(119)  # Pauling's scale, by atomic number
for number, value in {1: 2.20, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 16: 2.58, 17: 3.16}.items():
    ELECTRONEGATIVITY[number] = value


def by_electronegativity(graph: Data) -> torch.Tensor:
    """Towards the more electronegative atom; ties are broken canonically."""
    return ELECTRONEGATIVITY[graph.x[:, 0] + 1]  # OGB's first feature is the atomic number, from 0


def read(smiles: str) -> Data:
    mol = Chem.MolFromSmiles(smiles)
    ComputeGasteigerCharges(mol)
    charges = [atom.GetDoubleProp("_GasteigerCharge") for atom in mol.GetAtoms()]
    return mol_to_data(mol).update({"charge": torch.tensor(charges), "mol": mol})


torch.manual_seed(0)
acid = read("CC(=O)Oc1ccccc1C(=O)O")
symbols = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in acid.mol.GetAtoms()]
for name, orientation in {
    "center, the default": "center",
    "a function of the graph": by_electronegativity,
    "a tensor of ranks": -acid.charge,  # from the positive to the negative atoms
}.items():
    dag = build_dag(acid, orientation)
    arrows = [f"{symbols[n]}→{symbols[m]}" for n, m in zip(dag.src.tolist(), dag.dst.tolist(), strict=True)]
    print(f"{name}: {' '.join(arrows)}")

graphs = [read(smiles) for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "OCC(N)C(F)(F)Cl", "CSc1ncc[nH]1")]
for name, orientation in {
    "a function of the graph": by_electronegativity,
    "ranks kept in the graphs": lambda graph: -graph.charge,
    "the atoms' numbers": "index",
}.items():
    model = PLSTM(hidden_channels=32, num_layers=2, orientation=orientation).double().eval()
    try:
        assert_renumbering_invariant(model, graphs)
        print(f"{name}, check: predictions do not change when the atoms are renumbered")
    except AssertionError as error:
        print(f"{name}, check: {error}")
