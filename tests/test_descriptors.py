"""Descriptors beside the graph: standardised, imputed and flagged, asked for by name, RDKit's own."""

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out, refused
from rdkit import Chem
from rdkit.Chem import Descriptors
from torch_geometric.data import Batch

from plstm_graph import PLSTM
from plstm_graph.chem import read_smiles, smiles_to_data
from plstm_graph.chem.descriptors import descriptor_names, rdkit_descriptors
from plstm_graph.commands.assessment import _forest
from plstm_graph.commands.forest import known_columns
from plstm_graph.commands.main import main
from plstm_graph.datasets import CSV
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError
from plstm_graph.explain import contributions
from plstm_graph.models import CircularFingerprint
from plstm_graph.models.descriptors import DescriptorEncoder
from plstm_graph.task import GraphTask

SMILES = ["CCO", "c1ccccc1O", "CC(=O)[O-].[Na+]", "CCN"]
DOSES = [0.5, 1.0, float("nan"), 2.0]


def graph(smiles, *values):
    data = smiles_to_data(smiles)
    data.descriptors = torch.tensor([values], dtype=torch.float32)
    return data


def encoder(values, channels=4):
    torch.manual_seed(0)
    made = DescriptorEncoder(values.size(1), channels)
    made.fit(values)
    return made


def test_units_of_descriptors_do_not_matter():
    """A dose in grams or in milligrams, in degrees Celsius or Fahrenheit."""
    values = torch.randn(50, 3)
    other = values * torch.tensor([1000.0, 1.8, -2.0]) + torch.tensor([0.0, 32.0, 5.0])
    ours, theirs = encoder(values), encoder(other)
    flipped = ours.lin.weight.detach().clone()
    flipped[:, 2] *= -1  # the third runs the other way
    theirs.load_state_dict(theirs.state_dict() | {"lin.weight": flipped, "lin.bias": ours.lin.bias})
    torch.testing.assert_close(ours(values), theirs(other), atol=1e-5, rtol=1e-4)


def test_a_missing_value_counts_as_the_mean_and_is_flagged():
    values = torch.tensor([[1.0], [3.0], [float("nan")]])
    made = encoder(values)
    made.lin.weight.data[:, 1] = 0.0  # the flag's
    torch.testing.assert_close(made(values)[2], made(torch.tensor([[2.0]]))[0])
    made.lin.weight.data[:, 1] = 1.0
    assert not torch.allclose(made(values)[2], made(torch.tensor([[2.0]]))[0])


def test_what_is_constant_in_training_says_nothing_and_outliers_are_clipped():
    values = torch.stack([torch.full((20,), 7.0), torch.linspace(-1, 1, 20)], 1)
    made = encoder(values)
    torch.testing.assert_close(made(torch.tensor([[7.0, 0.5]])), made(torch.tensor([[1e9, 0.5]])))
    torch.testing.assert_close(made(torch.tensor([[7.0, 1e6]])), made(torch.tensor([[7.0, 3e38]])))


def test_a_column_that_is_missing_throughout_is_finite():
    made = encoder(torch.full((5, 1), float("nan")))
    assert made(torch.tensor([[float("nan")], [3.0]])).isfinite().all()


def test_the_scale_is_that_of_the_first_training():
    made = encoder(torch.tensor([[0.0], [2.0]]))
    made.fit(torch.tensor([[100.0], [300.0]]))
    assert made.mean.item() == 1.0


@pytest.mark.parametrize("average", [None, torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)])
def test_averages_of_weights_keep_the_scale(average):
    made = encoder(torch.tensor([[1.0], [3.0]]))
    averaged = torch.optim.swa_utils.AveragedModel(made, multi_avg_fn=average, use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(made)
    assert averaged.module.fitted
    torch.testing.assert_close(averaged.module(torch.tensor([[2.5]])), made(torch.tensor([[2.5]])))


@pytest.mark.parametrize("branches", [[], [CircularFingerprint(size=64, channels=8)]], ids=["nodes", "both"])
def test_every_head_reads_them(branches):
    torch.manual_seed(0)
    network = PLSTM(hidden_channels=16, num_layers=2, descriptors=1, branches=branches).eval()
    network.descriptor_encoder.fit(torch.tensor([[0.0], [1.0]]))
    low, high = (Batch.from_data_list([graph(smiles, value) for smiles in SMILES]) for value in (0.0, 1.0))
    for a, b in zip(network.outputs(network.embed(low)), network.outputs(network.embed(high)), strict=True):
        assert (a != b).all()


def test_a_graph_gets_its_own():
    torch.manual_seed(0)
    network = PLSTM(hidden_channels=16, num_layers=2, descriptors=2).eval()
    graphs = [graph(smiles, number, -number) for number, smiles in enumerate(SMILES)]
    together = network(Batch.from_data_list(graphs))
    alone = torch.cat([network(Batch.from_data_list([single])) for single in graphs])
    torch.testing.assert_close(together, alone)


def test_a_batch_without_them_is_refused():
    network = PLSTM(hidden_channels=16, num_layers=2, descriptors=2)
    for batch in ([smiles_to_data("CCO")], [graph("CCO", 1.0)]):
        with pytest.raises(InputError, match=r"reads descriptors \[num_graphs, 2\] of a batch, not"):
            network(Batch.from_data_list(batch))


def test_names_are_as_many_as_the_network_reads():
    with pytest.raises(InputError, match="descriptor_names has 1 names; the network reads 2"):
        GraphTask(PLSTM(hidden_channels=16, descriptors=2), descriptor_names=["dose"])


def test_contributions_are_of_atoms_beside_a_given_dose():
    torch.manual_seed(0)
    task = GraphTask(PLSTM(hidden_channels=16, num_layers=2, descriptors=1).eval(), descriptor_names=["dose"])
    network = task.network.double()
    data = graph("CCCO", 1.0)
    data.descriptors = data.descriptors.double()
    atoms, bonds = contributions(task, data)
    chain = smiles_to_data("CCCC")
    chain.x[:] = smiles_to_data("CCC").x[1]
    chain.edge_index, chain.descriptors = data.edge_index, data.descriptors
    chain.edge_attr[:] = smiles_to_data("CCC").edge_attr[0]
    difference = (network(Batch.from_data_list([data])) - network(Batch.from_data_list([chain]))).item()
    assert (atoms.sum() + bonds.sum()).item() == pytest.approx(difference, rel=0.02, abs=1e-4)


def test_rdkits_descriptors_are_rdkits():
    mols = [Chem.MolFromSmiles(smiles) for smiles in [*SMILES, "[Fe]", "C" * 200]]
    names = descriptor_names()
    values = rdkit_descriptors(mols, names)
    assert np.isinf(values).sum() == 0
    for name in ("MolLogP", "TPSA", "qed"):
        wanted = [getattr(Descriptors, name)(mol) for mol in mols]
        np.testing.assert_allclose(values[:, names.index(name)], wanted, rtol=1e-6)
    np.testing.assert_array_equal(rdkit_descriptors(mols, ["TPSA"])[:, 0], values[:, names.index("TPSA")])
    largest = [Chem.MolFromSmiles("C" * number) for number in (100, 101)]  # what is slow from there on
    np.testing.assert_array_equal(np.isnan(rdkit_descriptors(largest, ["Ipc", "TPSA"])), [[0, 0], [1, 0]])
    with pytest.raises(InputError, match="no descriptor 'Colour'"):
        rdkit_descriptors(mols, ["Colour"])


def test_a_descriptor_beyond_the_range_of_float32_is_its_largest_number(monkeypatch):
    made_up = [("Huge", lambda mol: 1e300), ("Low", lambda mol: -1e300)]
    monkeypatch.setattr(Descriptors, "descList", [*Descriptors.descList, *made_up])
    values = rdkit_descriptors([Chem.MolFromSmiles("C")], ["Huge", "Low"])
    largest = np.finfo(np.float32).max
    assert values.tolist() == [[largest, -largest]]


def test_descriptors_do_not_depend_on_how_a_molecule_is_written():
    spelled = [
        Chem.MolFromSmiles(text) for text in ("O=S(O)(c1ccccc1)=O.[NaH]", "[NaH].c1c(S(=O)(O)=O)cccc1")
    ]
    one, other = rdkit_descriptors(spelled, descriptor_names())
    np.testing.assert_array_equal(one, other)
    charge = [Descriptors.MaxPartialCharge(mol) for mol in spelled]
    assert not np.allclose(*charge)  # by RDKit's own order


def test_the_forest_of_train_reads_columns_of_the_table(tmp_path):
    path = table(tmp_path)
    frame = pd.read_csv(path)
    frame.loc[3, "dose"] = None
    frame.to_csv(path, index=False)
    given = {"path": path, "split": "part", "target_columns": "y", "descriptors": "rdkit"}
    module = CSV(**given, descriptor_columns=["dose"], cache=tmp_path / "cache")
    module.prepare_data()
    module.setup()
    np.testing.assert_allclose(known_columns(module)[:, 0], pd.read_csv(path).dose, rtol=1e-6)
    assert known_columns(module).shape == (80, 1)
    predicted = _forest(module)[:, 0]
    assert np.corrcoef(predicted, module.test_targets[:, 0])[0, 1] > 0.9


def test_a_cell_that_is_no_number_makes_its_row_unreadable():
    cells = {"dose": ["1", "", "a lot", None], "heat": [1, 2, 3, 1e300]}
    part = featurise_smiles(10, SMILES, descriptors=["dose", "heat", "rdkit.TPSA"], cells=cells)
    assert part.tensors["row"].tolist() == [10, 11]
    assert part.tensors["descriptors"][:, :2].tolist()[0] == [1.0, 1.0]
    assert np.isnan(part.tensors["descriptors"][1, 0])
    assert part.tensors["descriptors"][0, 2] == np.float32(Descriptors.TPSA(Chem.MolFromSmiles("CCO")))
    assert {row.row: row.reason for row in part.unreadable} == {
        12: "column 'dose' is 'a lot', not a number of float32",
        13: "column 'heat' is '1e+300', not a number of float32",
    }


def table(folder, **columns):
    """Molecules whose target is their dose alone."""
    draw = np.random.default_rng(0)
    doses = draw.normal(size=80) * 100 + 500
    smiles = [f"{'C' * (row % 12 + 1)}{'NO'[row % 2]}" for row in range(80)]
    frame = {
        "smiles": smiles,
        "dose": doses.round(2),
        "y": doses / 100,
        "part": ["train"] * 48 + ["val"] * 16 + ["test"] * 16,
    }
    pd.DataFrame(frame | columns).to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


def options(path, folder, *more):
    data = ["--config", "freesolv", "--data", "CSV", "--data.path", path, "--data.split", "part", *SMALL]
    places = ["--trainer.default_root_dir", folder, "--data.cache", folder / "cache"]
    return [*data, *places, "--trainer.max_epochs", 30, "--data.batch_size", 16, *more]


@pytest.fixture(scope="module")
def dosed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dosed")
    path = table(folder)
    more = ["--data.descriptor_columns", "dose", "--data.descriptors", "rdkit"]
    carry_out("fit", *options(path, folder, *more))
    [best] = folder.rglob("best*.ckpt")
    return path, best


def test_what_a_column_says_is_learned_and_remembered(dosed, tmp_path, capsys):
    path, best = dosed
    frame = pd.read_csv(path)
    assert frame.y.std() > 0.9
    output = tmp_path / "out.csv"
    assert main(["predict", "-i", str(path), "--ckpt_path", str(best), "-o", str(output)]) == 0
    predicted = pd.read_csv(output)
    assert list(predicted["dose"]) == list(frame["dose"])
    test = frame.part == "test"
    assert np.corrcoef(predicted.predicted_y[test], frame.y[test])[0, 1] > 0.9
    names = Ensemble([str(best)]).descriptor_names
    assert names == ["dose", *(f"rdkit.{name}" for name in descriptor_names())]

    # A gap has a prediction, and no number has a reason.
    frame["dose"] = frame["dose"].astype(object)
    frame.loc[0, "dose"], frame.loc[1, "dose"] = None, "much"
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    output = tmp_path / "gaps_out.csv"
    assert (
        main(["predict", "-i", str(tmp_path / "gaps.csv"), "--ckpt_path", str(best), "-o", str(output)]) == 0
    )
    gaps = pd.read_csv(output)
    assert np.isfinite(gaps.predicted_y[0])
    assert np.isnan(gaps.predicted_y[1])
    assert gaps.error[1] == "column 'dose' is 'much', not a number of float32"
    np.testing.assert_allclose(gaps.predicted_y[2:], predicted.predicted_y[2:], rtol=1e-4, atol=1e-5)

    explained = tmp_path / "explained"
    few = tmp_path / "few.csv"
    frame.iloc[1:4].to_csv(few, index=False)
    assert main(["explain", "-i", str(few), "--ckpt_path", str(best), "-o", str(explained)]) == 0
    assert pd.read_csv(explained / "unreadable.csv").reason.tolist() == [gaps.error[1]]
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["predict", "fingerprint", "explain"])
def test_a_table_without_the_column_is_refused(dosed, tmp_path, capsys, verb):
    path, best = dosed
    pd.read_csv(path).drop(columns="dose").to_csv(tmp_path / "lacking.csv", index=False)
    output = {"predict": "out.csv", "fingerprint": "out.npz", "explain": "folder"}[verb]
    call = [verb, "-i", tmp_path / "lacking.csv", "--ckpt_path", best, "-o", tmp_path / output]
    code = main([*map(str, call)])
    out, err = capsys.readouterr()
    assert "has no column 'dose'" in refused((code, out, err))
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({}, "heat", "has no column 'heat'"),
        ({}, "smiles", "'smiles' cannot be a descriptor"),
        ({}, "part", "'part' cannot be a descriptor"),
        ({}, "[dose, dose]", "'dose' cannot be a descriptor"),
        ({"dose": ["much", *range(79)]}, "dose", "1 cell is not numeric"),
        ({"dose": ["1e60", *range(79)]}, "dose", "1 cell is larger than"),
        ({}, "[dose, y]", "has no column of numbers to predict"),
    ],
)
def test_columns_that_are_none_are_refused(run, tmp_path, columns, given, message):
    path = table(tmp_path, **columns)
    result = run("fit", *options(path, tmp_path, "--data.descriptor_columns", given))
    assert message in refused(result)


def test_a_target_is_no_descriptor_of_itself(run, tmp_path):
    more = ["--data.descriptor_columns", "y", "--data.target_columns", "[y, dose]"]
    assert "'y' cannot be a target and a descriptor" in refused(
        run("fit", *options(table(tmp_path), tmp_path, *more))
    )


def test_a_run_goes_on_with_its_descriptors_only(dosed, run, tmp_path):
    path, best = dosed
    changed = pd.read_csv(path)
    changed["dose"] += 1
    changed.to_csv(tmp_path / "mine.csv", index=False)
    more = ["--data.descriptor_columns", "dose", "--data.descriptors", "rdkit", "--ckpt_path", best]
    result = run("fit", *options(tmp_path / "mine.csv", tmp_path, *more))
    assert "trained with other descriptors than this run has" in refused(result)
    result = run("fit", *options(path, tmp_path, "--data.descriptor_columns", "dose", "--ckpt_path", best))
    assert "on graphs with descriptors" in refused(result)


def test_rdkit_says_nothing_of_lone_hydrogens(capfd):
    rdkit_descriptors([read_smiles("CCN.[H+].[Cl-]")], descriptor_names())
    assert capfd.readouterr().err == ""
