"""Gaussian processes on what graphs have in common, against brute force and closed forms."""

import copy
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from rdkit import Chem
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from plstm_graph import PLSTM
from plstm_graph.chem import smiles_to_data
from plstm_graph.errors import InputError
from plstm_graph.models import GaussianProcess, Graphs, kernel_regression
from plstm_graph.models.fingerprint import environments
from plstm_graph.predictor import Predictor
from plstm_graph.similarity import Counts, count_common
from plstm_graph.task import GraphTask

SMILES = ["CCO", "CCCO", "c1ccccc1O", "CC(=O)O", "CCN", "CCCCCC", "C1CC1N", "c1ccncc1", "CC(C)=O", "CCOCC"]
VALUES = torch.tensor([0.3, 0.5, -1.2, 0.8, 0.1, -1.5, 0.4, -0.2, 0.9, -0.1])[:, None]


def graphs_of(smiles, **more):
    return Graphs.from_data(Batch.from_data_list([smiles_to_data(one) for one in smiles]))._replace(**more)


def fitted(smiles=SMILES, values=VALUES, task="regression", outputs=1, **arguments):
    process = GaussianProcess(**arguments)
    process.heads(0, 8, outputs, 0.0)
    process.fit([(graphs_of(smiles[:4]), values[:4]), (graphs_of(smiles[4:]), values[4:])], task)
    return process.eval()


def kernel_of(process, graphs):
    return process._fitted.kernel.between(process._tokens(graphs), graphs.descriptors)


def min_max(first, second):
    return sum((first & second).values()) / sum((first | second).values())


def counts_of(smiles, radius, distance):
    """Environments, and pairs of atoms with their distance, counted one by one."""
    graphs, mol = graphs_of([smiles]), Chem.MolFromSmiles(smiles)
    features, bonds = [tuple(row) for row in graphs.x.tolist()], Chem.GetDistanceMatrix(mol)
    pairs = Counter(
        (frozenset(Counter((features[a], features[b])).items()), bonds[a, b])
        for a, b in combinations(range(len(features)), 2)
        if bonds[a, b] <= distance
    )
    return Counter(environments(graphs, radius).flatten().tolist()), pairs


@pytest.mark.parametrize("described", [False, True])
def test_autocast_leaves_its_precision(described):
    """Its kernel is one of whole counts, and a hundredth decides."""
    graphs = graphs_of(SMILES)
    process = GaussianProcess(distance=3)
    process.heads(0, 8, 1, 0.0)
    if described:
        draw = torch.Generator().manual_seed(0)
        graphs = graphs._replace(descriptors=torch.randn(len(SMILES), 3, generator=draw))
    process.fit([(graphs, VALUES)], "regression")
    fitted = process.eval()._fitted
    process._fitted = fitted._replace(kernel=fitted.kernel._replace(linear=0.25 * described))
    wanted = process(graphs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(process(graphs), wanted)


def test_kernel_is_that_of_counts():
    process = fitted(radius=2, distance=3)
    kernel = kernel_of(process, graphs_of(SMILES))
    counts = [counts_of(smiles, 2, 3) for smiles in SMILES]
    expected = [[np.mean([*map(min_max, one, other)]) for other in counts] for one in counts]
    torch.testing.assert_close(kernel.double(), torch.tensor(expected), atol=1e-6, rtol=0)


def test_common_tokens_are_counted_as_often_as_both_have_them():
    rng = np.random.default_rng(0)
    queries, known = rng.integers(0, 5, (7, 30)), rng.integers(0, 5, (11, 30))  # how often each has a token

    def counts(table):
        sets, others = table.nonzero()
        return Counts(
            np.searchsorted(sets, np.arange(len(table) + 1)), others, table[sets, others].astype(np.int32)
        )

    expected = np.minimum(queries[:, None], known).sum(2)
    np.testing.assert_array_equal(count_common(counts(queries), counts(known.T), 11), expected)


def test_it_solves_the_equations_of_a_gaussian_process():
    process = fitted()
    kernel = kernel_of(process, graphs_of(SMILES)).double().numpy()
    scaled = ((VALUES - VALUES.mean()) / VALUES.std(correction=0)).double()
    noise = kernel_regression._tuned(torch.from_numpy(kernel), scaled)[0]
    values, z = np.linalg.solve(kernel + noise * np.eye(10), scaled.numpy()), scaled.numpy()

    def evidence(noise):
        covariance = kernel + noise * np.eye(10)
        return 10 * np.log(z.T @ np.linalg.solve(covariance, z)) + np.linalg.slogdet(covariance)[1]

    assert all(evidence(noise) <= evidence(factor * noise) + 1e-6 for factor in (0.7, 0.95, 1.05, 1.4))
    smiles = ["CCCCO", "c1ccccc1N"]
    expected = kernel_of(process, graphs_of(smiles)).double().numpy() @ values
    expected = expected * VALUES.std(correction=0).item() + VALUES.mean().item()
    np.testing.assert_allclose(process(graphs_of(smiles)).numpy(), expected, atol=1e-5)


def test_neither_numbering_nor_company_matters():
    process, smiles = fitted(), "CC(=O)Nc1ccc(O)cc1"
    mol = Chem.MolFromSmiles(smiles)
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
    other = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
    alone = process(graphs_of([smiles]))
    assert other != smiles
    assert torch.equal(process(graphs_of([other])), alone)
    assert torch.equal(process(graphs_of(["C", smiles, "CCN"]))[1:2], alone)
    assert torch.isfinite(process(graphs_of(["C"]))).all()  # no pair of atoms at all


def test_missing_values_take_no_part():
    values = torch.cat([VALUES, VALUES.flip(0)], 1)
    values[[1, 6], 1] = torch.nan
    known = [row for row in range(10) if row not in (1, 6)]
    both = fitted(values=values, outputs=2)(graphs_of(["CCCN", "CCS"]))
    alone = fitted([SMILES[row] for row in known], VALUES.flip(0)[known])(graphs_of(["CCCN", "CCS"]))
    torch.testing.assert_close(both[:, 1:], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[:, :1], fitted()(graphs_of(["CCCN", "CCS"])), atol=1e-4, rtol=0)


def test_descriptors_are_a_third_kernel():
    descriptors = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    descriptors[:, 2] = 0.0  # says nothing
    process = GaussianProcess()
    process.heads(0, 8, 1, 0.0)
    process.fit([(graphs_of(SMILES, descriptors=descriptors), VALUES)], "regression")
    found = process._fitted.kernel
    graphs = graphs_of(SMILES, descriptors=descriptors)
    beside = torch.exp(-torch.cdist(descriptors, descriptors).square() / 4)
    three = (2 * kernel_of(fitted(), graphs_of(SMILES)) + beside) / 3
    for share in (0.0, 0.25):
        process._fitted = process._fitted._replace(kernel=found._replace(linear=share))
        expected = (1 - share) * three + share * descriptors @ descriptors.T / 2
        torch.testing.assert_close(kernel_of(process, graphs), expected, atol=1e-5, rtol=0)


def test_what_descriptors_say_linearly_is_predicted_far_from_all_training_graphs():
    """Half of the values are missing in the second column, of which descriptors say nothing."""
    draw = torch.Generator().manual_seed(0)
    smiles = [f"{'C' * length}{end}" for length in range(1, 11) for end in ("O", "N", "S", "F")]
    descriptors = torch.randn(40, 2, generator=draw)
    line = 2 * descriptors[:, :1] - descriptors[:, 1:]
    alike = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).repeat(10, 1)
    for values, linear in ((line, True), (alike, False), (torch.cat([line, alike], 1), True)):
        values = values.clone()
        values[::2, 1:] = torch.nan
        process = GaussianProcess()
        process.heads(0, 8, values.size(1), 0.0)
        process.fit([(graphs_of(smiles, descriptors=descriptors), values)], "regression")
        assert (process._fitted.kernel.linear > 0) == linear
        far = torch.tensor([[4.0, 0.0], [0.0, 6.0]])
        found = process.eval()(graphs_of(["c1ccccc1Br", "C#N"], descriptors=far))[:, 0]
        if linear:
            torch.testing.assert_close(found, torch.tensor([8.0, -6.0]), atol=1.0, rtol=0)


def test_classes_become_log_odds():
    labels = (VALUES > 0).float()
    labels = torch.cat([labels, 1 - labels, torch.ones_like(labels)], 1)
    labels[0, 0] = torch.nan
    odds = fitted(values=labels, task="classification", outputs=3)(graphs_of(SMILES))
    assert (odds[:, 1].argsort() == (-odds[:, 1]).argsort(descending=True)).all()
    assert odds[1, 0] > odds[2, 0]
    assert odds[1, 1] < odds[2, 1]
    assert (odds[:, 2].sigmoid() > 0.8).all()
    assert torch.isfinite(odds).all()
    classes = torch.tensor([0.0, 0, 1, 2, 0, 1, 2, 1, 2, 0])[:, None]
    shares = fitted(values=classes, task="multiclass", outputs=3)(graphs_of(SMILES)).softmax(1)
    assert (shares.argmax(1) == classes[:, 0]).float().mean() > 0.5
    # Log-odds are fitted: in the mean, classes are as likely as they are frequent.
    assert abs(shares.mean(0)[0] - 0.4) < 0.15


def test_graphs_are_compared_with_landmarks_alone(monkeypatch):
    """By the equations, left out by another fit, and with what is kept of four of ten graphs."""
    monkeypatch.setattr(kernel_regression, "landmark_count", lambda graphs, systems: 4)
    monkeypatch.setattr(kernel_regression, "_tuned", lambda *_: (0.3, 0.0))
    process, rows = fitted(), torch.tensor([0, 3, 6, 9])
    assert process.get_extra_state()["weights"].shape == (4, 1)
    assert kernel_of(process, graphs_of(SMILES)).shape == (10, 4)
    monkeypatch.undo()
    whole = kernel_of(fitted(), graphs_of(SMILES)).double().numpy()
    among = whole[np.ix_(rows, rows)]
    z = ((VALUES - VALUES.mean()) / VALUES.std(correction=0)).double().numpy()

    def weights(kept):
        cross = whole[np.ix_(kept, rows)]
        return np.linalg.solve(cross.T @ cross + 0.3 * (among + 1e-4 * np.eye(4)), cross.T @ z[kept])

    expected = whole[:, rows] @ weights(range(10)) * VALUES.std(correction=0).item() + VALUES.mean().item()
    np.testing.assert_allclose(process(graphs_of(SMILES)).numpy(), expected, atol=1e-4)
    monkeypatch.setattr(kernel_regression, "_tuned", lambda *_: (0.3, 0.0))
    kernels = torch.from_numpy(whole)[:, rows].float(), torch.from_numpy(among)
    _, left_out = kernel_regression.solve_by_landmarks(*kernels, rows, torch.from_numpy(z), True)
    for row in range(10):
        others = [other for other in range(10) if other != row]
        assert left_out[row].item() == pytest.approx((whole[row, rows] @ weights(others)).item(), abs=1e-4)


def test_a_network_predicts_the_mean_over_its_branches_and_trains_the_others():
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    network = PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess()])
    network.fit_branches([batch], lambda _: VALUES, "regression")
    network.eval()
    with torch.no_grad():
        nodes, process = network._outputs(network.embed(batch))
        torch.testing.assert_close(network(batch), (nodes + 4 * process) / 5)
        torch.testing.assert_close(process, fitted()(graphs_of(SMILES)))
        [learning] = network.outputs(network.embed(batch))
    assert torch.equal(learning, nodes)
    network.train()
    [output] = network.outputs(network.embed(batch))
    output.sum().backward()  # a head of the nodes


def test_copies_learn_each_for_itself():
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    template = PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess()])
    one, other = copy.deepcopy(template), copy.deepcopy(template)
    one.fit_branches([batch], lambda _: VALUES, "regression")
    known = one.branches[1].eval()(graphs_of(SMILES))
    other.fit_branches([batch], lambda _: -VALUES, "regression")
    torch.testing.assert_close(one.branches[1](graphs_of(SMILES)), known)
    torch.testing.assert_close(other.branches[1].eval()(graphs_of(SMILES)), -known)
    assert not template.branches[1].get_extra_state()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_of_another_precision_predicts_with_it(dtype):
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    batch.descriptors = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    network = PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess()], descriptors=3).eval()
    network.descriptor_encoder.fit(batch.descriptors)
    network.fit_branches([batch], lambda _: VALUES, "regression")
    with torch.no_grad():
        expected = network(batch)
        batch.descriptors = batch.descriptors.to(dtype)
        found = network.to(dtype)(batch)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.03 if dtype != torch.float64 else 1e-5, rtol=0)


def test_nothing_is_learned_of_no_graphs():
    network = PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess()])
    with pytest.raises(InputError, match="there are none"):
        network.fit_branches([], lambda _: VALUES, "regression")


def trained(folder, batch_size, **settings):
    """A trainer and the task that it has trained on the ten molecules."""
    data = [smiles_to_data(smiles) for smiles in SMILES]
    for graph, value in zip(data, VALUES, strict=True):
        graph.y = value[None]
    task = GraphTask(PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess()]), "regression")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", **quiet, **settings)
    trainer.fit(task, DataLoader(data, batch_size=batch_size))
    return trainer, task


def test_checkpoints_of_averaged_weights_know_the_training_graphs(tmp_path):
    """Though the copy for averages is made before these are seen."""
    trainer, task = trained(tmp_path, 5, max_epochs=2, callbacks=[EMAWeightAveraging()])
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    process = Predictor.from_checkpoint(tmp_path / "task.ckpt").eval().network.branches[1]
    expected = fitted(values=task._standardise(VALUES))(graphs_of(SMILES))
    torch.testing.assert_close(process(graphs_of(SMILES)), expected, atol=1e-4, rtol=0)


def test_targets_go_with_their_graphs_in_whatever_order_these_come():
    batches = [Batch.from_data_list([smiles_to_data(smiles)]) for smiles in SMILES]
    for batch, value in zip(batches, VALUES, strict=True):
        batch.y = value[None]

    class Shuffled:
        def __iter__(self):
            return iter([batches[row] for row in torch.randperm(10)])

    torch.manual_seed(0)
    task = GraphTask(PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess(), GaussianProcess()]), "regression")
    task.fit_target_scale(VALUES)
    task._fit_branches(Shuffled())
    expected = fitted(values=task._standardise(VALUES))(graphs_of(SMILES))
    for process in task.eval().network.branches[1:]:
        torch.testing.assert_close(process(graphs_of(SMILES)), expected, atol=1e-4, rtol=0)


def test_a_checkpoint_knows_the_training_graphs(tmp_path):
    batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in SMILES])
    task = GraphTask(PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess(radius=1)]), "regression")
    task.fit_target_scale(VALUES)
    batch.y = VALUES
    task._fit_branches([batch])
    checkpoint = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "task.ckpt")
    loaded = Predictor.from_checkpoint(tmp_path / "task.ckpt").eval()
    with torch.no_grad():
        assert torch.equal(loaded(batch), task.eval()(batch))
    # The longest of what is kept takes two bytes a token.
    kept = checkpoint["state_dict"]["network.branches.1._extra_state"]
    assert {known["holders"].dtype for known in kept["kernel"]["known"]} == {torch.int16}
    other = GraphTask(PLSTM(1, 16, 1, heads=2, branches=[GaussianProcess(radius=1)]), "regression")
    other.start_from(checkpoint)
    assert not other.network.branches[1].get_extra_state()  # it belongs to its own targets


@pytest.mark.parametrize(("tried", "known"), [(False, 10), (1, 4)])
def test_a_run_that_is_only_tried_out_takes_few_graphs(tried, known, tmp_path):
    _, task = trained(tmp_path, 4, max_epochs=1, fast_dev_run=tried)
    assert len(task.network.branches[1].get_extra_state()["weights"]) == known


@pytest.mark.parametrize(("task", "known"), [("regression", VALUES), ("classification", VALUES > 0)])
def test_of_a_target_that_no_graph_has_nothing_is_said(task, known):
    values = torch.cat([known.float(), torch.full_like(VALUES, torch.nan)], dim=1)
    process = fitted(values=values, task=task, outputs=2)
    predicted = process(graphs_of(SMILES))
    assert predicted.isfinite().all()
    assert (predicted[:, 1] == predicted[0, 1]).all()
