import copy
import math
import re

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from tasks import training_loss
from torch import nn
from torch.utils.data import IterableDataset
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from plstm_graph.checkpoint import FORMAT, read_checkpoint
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import Root
from plstm_graph.errors import InputError
from plstm_graph.metrics import PerTask, metrics_of, regression_metrics
from plstm_graph.models import GIN, GINE, PLSTM, CircularFingerprint
from plstm_graph.predictor import Predictor
from plstm_graph.task import GraphTask

SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "CCN", "C", "CC(C)C", "C1CC1", "O=C=O"]


class Constant(nn.Module):
    """Predicts the same outputs for all graphs."""

    def __init__(self, *outputs: float):
        super().__init__()
        self.out_channels = len(outputs)
        self.outputs = nn.Parameter(torch.tensor(outputs))

    def forward(self, batch):
        return self.outputs.expand(batch.num_graphs, -1)


def graphs(targets: torch.Tensor) -> list:
    molecules = []
    for smiles, target in zip(SMILES, targets, strict=False):
        molecules.append(smiles_to_data(smiles))
        molecules[-1].y = target.view(1, -1)
    return molecules


def trainer(path, **kwargs) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return lightning.Trainer(default_root_dir=path, max_epochs=2, accelerator="cpu", **(quiet | kwargs))


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_missing_labels_take_no_part_in_the_loss(task):
    torch.manual_seed(0)
    module = GraphTask(Constant(0.3, -0.2, 0.1), task)
    output = torch.randn(8, 3, requires_grad=True)
    targets = torch.randint(0, 2, (8, 3)).float()
    missing = torch.rand(8, 3) < 0.4
    masked = targets.masked_fill(missing, math.nan)
    loss = module._loss(output, masked)
    (gradient,) = torch.autograd.grad(loss, output)
    kept, labels = output[~missing], targets[~missing]
    if task == "regression":
        expected = (kept - labels).square().mean()
    else:
        expected = nn.functional.binary_cross_entropy_with_logits(kept, labels)
    torch.testing.assert_close(loss, expected)
    assert gradient[missing].eq(0).all()
    assert gradient[~missing].ne(0).all()


def test_a_batch_without_labels_has_zero_loss_and_gradient():
    module = GraphTask(Constant(0.3))
    loss = module._loss(module.network.outputs.expand(4, 1), torch.full((4, 1), math.nan))
    loss.backward()
    assert loss.item() == 0
    assert module.network.outputs.grad.item() == 0


def test_classification_metrics_equal_scikit_learn_on_the_labelled_graphs():
    torch.manual_seed(0)
    targets = torch.randint(0, 2, (200, 4)).float()
    targets[torch.rand(200, 4) < 0.3] = math.nan
    targets[:, 2] = torch.where(targets[:, 2].isnan(), math.nan, 1.0)  # one class: no ROC curve
    scores = torch.rand(200, 4)
    module = GraphTask(Constant(0.0, 0.0, 0.0, 0.0), "classification")
    for part in range(0, 200, 32):
        module.val_metrics.update(scores[part : part + 32], targets[part : part + 32])
    values = module.val_metrics.compute()
    for name, reference in (
        ("roc_auc", roc_auc_score),
        ("average_precision", average_precision_score),
    ):
        expected = []
        for column in (0, 1, 3):
            labelled = ~targets[:, column].isnan()
            expected.append(reference(targets[labelled, column], scores[labelled, column]))
        assert values[f"val/{name}"].item() == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_classes_are_learned_by_cross_entropy_and_judged_by_accuracy():
    module = GraphTask(Constant(2.0, 0.0, 1.0), "multiclass")
    assert module.monitor == ("val/accuracy", "max")
    output = module.network.outputs.expand(5, 3)
    targets = torch.tensor([[0.0], [2.0], [0.0], [1.0], [math.nan]])
    shares = torch.tensor([2.0, 0.0, 1.0]).softmax(0)
    torch.testing.assert_close(module._loss(output, targets), -shares[[0, 2, 0, 1]].log().mean())
    torch.testing.assert_close(module._finish(output)[0], shares)
    module.val_metrics.update(module._finish(output), targets)
    assert module.val_metrics.compute()["val/accuracy"].item() == 0.5
    common = torch.tensor([[1.0], [1.0], [0.0], [2.0]])  # class 1 is the commonest
    baseline = module.baseline_metrics(common, torch.tensor([[1.0], [2.0], [1.0]]))
    assert baseline["test/accuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "target", "sentence"),
    [
        ("multiclass", 3.0, "The class has the value 3 in graph 0, but classes are numbered from 0 to 2"),
        ("multiclass", 0.5, r"The class has the value 0\.5 in graph 0, .* from 0 to 2"),
        ("classification", 2.0, "Target 0 has the value 2 in graph 0, .* from 0 to 1"),
    ],
)
def test_classes_that_do_not_exist_are_refused(task, target, sentence):
    columns = 1 if task == "multiclass" else 3
    with pytest.raises(InputError, match=sentence):
        GraphTask(Constant(0.0, 0.0, 0.0), task).fit_target_scale(torch.full((4, columns), target))


def test_regression_metrics_are_averaged_over_tasks():
    metrics = GraphTask(Constant(0.0, 0.0)).test_metrics
    metrics.update(torch.tensor([[1.0, 4.0], [3.0, 0.0]]), torch.tensor([[2.0, math.nan], [0, 5]]))
    values = metrics.compute()
    assert values["test/rmse"].item() == pytest.approx((math.sqrt((1 + 9) / 2) + 5) / 2)
    assert values["test/mae"].item() == pytest.approx((2 + 5) / 2)


def test_spearman_is_scipys_averaged_over_tasks():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(9, (200, 3), generator=generator).float()  # with ties
    preds = targets + 4 * torch.randn(200, 3, generator=generator)
    preds[:, 1] = preds[:, 1].round()
    targets[torch.rand(200, 3, generator=generator) < 0.2] = math.nan
    metric = regression_metrics()["spearman"]
    for part in range(0, 200, 50):
        metric.update(preds[part : part + 50], targets[part : part + 50])
    known = [~column.isnan() for column in targets.T]
    wanted = [spearmanr(p[k], t[k])[0] for p, t, k in zip(preds.T, targets.T, known, strict=True)]
    assert metric.compute().item() == pytest.approx(np.mean(wanted), abs=1e-6)


def test_spearman_of_constants_is_0_and_of_nan_is_nan():
    targets = torch.arange(7.0)[:, None]
    spearman = lambda preds, targets: regression_metrics()(preds, targets)["spearman"].item()  # noqa: E731
    assert spearman(torch.full((7, 1), 0.1), targets) == 0
    assert spearman(targets, torch.full((7, 1), 0.1)) == 0
    assert spearman(-targets.exp(), targets) == pytest.approx(-1, abs=1e-6)
    assert math.isnan(spearman(targets.log() * math.nan, targets))
    baseline = GraphTask(Constant(0.0)).baseline_metrics(targets, targets)  # the training mean
    assert baseline["test/spearman"] == 0


@pytest.mark.parametrize(
    ("val", "monitor"),
    [([[1], [2]], ("val/spearman", "max")), ([[1], [1]], ("val/loss", "min"))],
)
def test_the_highest_rank_correlation_selects_epochs_if_there_are_ranks(val, monitor):
    module = GraphTask(Constant(0.0), metric="spearman")
    warnings = module.heed_labels(torch.tensor([[0.0], [1.0]]), torch.tensor(val).float())
    assert module.monitor == monitor
    assert all("has one value in the validation graphs, which leaves spearman" in text for text in warnings)
    assert len(warnings) == (monitor[1] == "min")


def test_a_metric_without_labels_is_nan():
    metric = PerTask(nn.functional.mse_loss)
    metric.update(torch.zeros(3, 1), torch.full((3, 1), math.nan))
    assert metric.compute().isnan()


def test_standardisation_uses_mean_and_deviation_of_the_training_targets(tmp_path):
    targets = torch.tensor([[-3.0], [1.0], [4.0], [10.0], [2.0], [0.0], [-1.0], [math.nan]])
    module = GraphTask(Constant(0.0), learning_rate=0.0)
    loader = DataLoader(graphs(targets), batch_size=3)
    trainer(tmp_path, enable_checkpointing=False).fit(module, loader)
    known = targets[:-1]
    torch.testing.assert_close(module.target_mean, known.mean(0))
    torch.testing.assert_close(module.target_std, known.std(0, correction=0))
    batch = next(iter(loader))
    torch.testing.assert_close(module(batch), known.mean(0).expand(3, 1))  # the unit is back
    # The loss of predicting the mean of standardised targets is their variance.
    loss = module._loss(module.network(Batch.from_data_list(graphs(known))), known)
    assert loss.item() == pytest.approx(1.0, abs=1e-6)


def test_the_scale_is_fitted_once_and_survives_equal_targets():
    module = GraphTask(Constant(0.0))
    module.fit_target_scale(torch.tensor([[5.0], [5.0]]))
    module.fit_target_scale(torch.tensor([[1.0], [9.0]]))
    assert (module.target_mean.item(), module.target_std.item()) == (5.0, 1.0)


def test_baseline_predicts_the_training_mean():
    values = GraphTask(Constant(0.0)).baseline_metrics(
        torch.tensor([[1.0], [3.0], [math.nan]]), torch.tensor([[2.0], [5.0]])
    )
    assert values["test/rmse"].item() == pytest.approx(math.sqrt(4.5))


@pytest.mark.parametrize(
    ("network", "task", "weight"),
    [
        (PLSTM(out_channels=2, hidden_channels=16, num_layers=2, heads=2), "regression", 0.0),
        (GINE(out_channels=2, hidden_channels=16, num_layers=1), "classification", 5.0),
    ],
)
def test_checkpoint_holds_data_only_and_rebuilds_the_task(tmp_path, network, task, weight):
    targets = torch.randint(0, 2, (8, 2), generator=torch.Generator().manual_seed(0)).float()
    loader = DataLoader(graphs(targets), batch_size=4)
    module = GraphTask(network, task, target_names=["a", "b"], unit="eV", fingerprint_weight=weight)
    run = trainer(tmp_path)
    run.fit(module, loader, loader)
    path = run.checkpoint_callback.best_model_path
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["unit"] == "eV"

    loaded = GraphTask.load_from_checkpoint(path).eval()
    assert type(loaded.network) is type(network)
    assert loaded.target_names == ["a", "b"]
    batch = next(iter(loader))
    torch.testing.assert_close(loaded(batch), module.eval()(batch), rtol=0, atol=0)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_mixup_teaches_mixed_targets_for_mixed_embeddings(task):
    torch.manual_seed(0)
    network = PLSTM(out_channels=2, hidden_channels=16, num_layers=2, heads=2)
    targets = torch.randint(0, 2, (8, 2)).float()
    batch = Batch.from_data_list(graphs(targets))
    module = GraphTask(network, task, mixup=0.4)
    mixed = torch.autograd.grad(training_loss(module, batch, seed=3), list(network.parameters()))

    torch.manual_seed(3)
    share = torch.distributions.Beta(0.4, 0.4).sample()
    other = torch.randperm(8)
    assert 0.05 < share < 0.95
    assert (other != torch.arange(8)).any()
    embedding = network.embed(batch)
    output = network.predict((1 - share) * embedding + share * embedding[other])
    wanted = (1 - share) * targets + share * targets[other]
    loss = nn.functional.mse_loss if task == "regression" else nn.functional.binary_cross_entropy_with_logits
    gradients = torch.autograd.grad(loss(output, wanted), list(network.parameters()))
    torch.testing.assert_close(mixed, gradients, rtol=1e-4, atol=1e-6)
    module.eval()
    torch.testing.assert_close(module(batch), module._finish(network(batch)), rtol=0, atol=0)


def test_graphs_mixed_with_their_like_teach_as_they_do_alone():
    torch.manual_seed(0)
    network = PLSTM(out_channels=3, hidden_channels=16, num_layers=2, heads=2)
    one = graphs(torch.tensor([2.0]))[0]
    batch = Batch.from_data_list([one] * 4)
    tasks = [GraphTask(network, "multiclass", mixup=alpha) for alpha in (0.0, 1.0)]
    alone, mixed = (training_loss(task, batch, seed=3) for task in tasks)
    torch.testing.assert_close(mixed, alone)


def test_mixup_is_at_least_zero_and_for_networks_of_the_package():
    with pytest.raises(InputError, match=r"mixup must be at least 0, not -0\.5"):
        GraphTask(GINE(hidden_channels=16), mixup=-0.5)
    with pytest.raises(InputError, match="mixup is for networks of this package; set it to 0"):
        GraphTask(Constant(0.0), mixup=1.0)


def test_a_network_of_ones_own_is_passed_when_loading(tmp_path):
    loader = DataLoader(graphs(torch.arange(8.0).view(-1, 1)), batch_size=4)
    run = trainer(tmp_path)
    run.fit(GraphTask(Constant(0.7)), loader)
    path = run.checkpoint_callback.best_model_path
    with pytest.raises(InputError, match="network="):
        GraphTask.load_from_checkpoint(path)
    loaded = GraphTask.load_from_checkpoint(path, network=Constant(0.0))
    assert loaded.network.outputs.item() != 0


def test_unreadable_checkpoints_are_named(tmp_path):
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": {}, "network": Constant(0.0)}, tmp_path / "pickled.ckpt")
    for name in ("missing.ckpt", "text.ckpt", "other.ckpt", "list.ckpt", "pickled.ckpt"):
        with pytest.raises(InputError, match=name):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(("found", "age"), [(None, "An older"), (FORMAT + 1, "A newer")])
def test_checkpoints_of_other_formats_are_refused(tmp_path, found, age):
    path = tmp_path / "other.ckpt"
    trainer = lightning.Trainer(barebones=True, accelerator="cpu")
    trainer.strategy.connect(GraphTask(GIN(1, 8, 1)))
    trainer.save_checkpoint(path, weights_only=True)
    content = torch.load(path, weights_only=True)
    assert content.pop("plstm_graph_format") == FORMAT
    torch.save(content | ({} if found is None else {"plstm_graph_format": found}), path)
    with pytest.raises(InputError, match=rf"{age} release .*other\.ckpt.* this release reads {FORMAT}"):
        GraphTask.load_from_checkpoint(path)


def test_a_task_that_there_is_not_is_refused():
    with pytest.raises(InputError, match=r"task must be 'regression', .*, not 'binary'"):
        GraphTask(Constant(0.0), task="binary")


def test_a_checkpoint_cannot_name_another_class(tmp_path):
    description = {"class_path": "os.system", "init_args": {"command": "true"}}
    path = tmp_path / "evil.ckpt"
    content = {"state_dict": {}, "hyper_parameters": {"network": description}, "plstm_graph_format": FORMAT}
    torch.save(content, path)
    with pytest.raises(InputError, match="'system'"):
        GraphTask.load_from_checkpoint(path)


def test_learning_rate_warms_up_and_falls_to_zero(tmp_path):
    rates = []

    class Record(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    loader = DataLoader(graphs(torch.arange(8.0).view(-1, 1)), batch_size=1)
    module = GraphTask(Constant(0.0), learning_rate=0.5, warmup=0.25)
    trainer(tmp_path, enable_checkpointing=False, callbacks=[Record()]).fit(module, loader)
    assert len(rates) == 16
    assert rates.index(max(rates)) == 2  # the rate of step 4, set after step 3
    assert max(rates) == 0.5
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_only_matrices_decay():
    module = GraphTask(GINE(hidden_channels=16, num_layers=1), weight_decay=0.1)
    module.trainer = trainer(None, enable_checkpointing=False)
    module.trainer.fit_loop._data_source.instance = [0]
    module.trainer.strategy.connect(module)
    [optimizer], _ = module.configure_optimizers()
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    embeddings = [m.weight for m in module.modules() if isinstance(m, nn.Embedding)]
    assert {id(weight) for weight in embeddings} <= {id(p) for p in free["params"]}
    total = len(decayed["params"]) + len(free["params"])
    assert total == len(list(module.parameters()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(bad):
    molecules = graphs(torch.zeros(8, 1))
    for row, molecule in enumerate(molecules):
        molecule.edge_attr = molecule.edge_attr.float()
        molecule.row = torch.tensor([row + 10])
    molecules[2].edge_attr[0, 0] = bad
    batch = Batch.from_data_list(molecules)
    with pytest.raises(InputError, match="edge_attr of row 12"):
        GraphTask(Constant(0.0))(batch)
    del batch.row
    with pytest.raises(InputError, match="edge_attr of graph 2"):
        GraphTask(Constant(0.0))(batch)


def test_targets_that_cannot_be_learned_are_refused():
    module = GraphTask(Constant(0.0, 0.0), target_names=["a", "b"])
    with pytest.raises(InputError, match="'b' has no value"):
        module.fit_target_scale(torch.tensor([[1.0, math.nan], [2.0, math.nan]]))
    for much in (math.inf, 1e39):
        with pytest.raises(InputError, match=r"Target 'a' has the value inf in graph 1, .*write NaN"):
            module.fit_target_scale(torch.tensor([[1.0, 1.0], [much, 2.0]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"\[2, 3\].*predicts 2"):
        module.fit_target_scale(torch.zeros(2, 3))
    with pytest.raises(InputError, match="no targets"):
        module._targets(Batch.from_data_list([smiles_to_data("CC")]))


def test_a_target_that_is_too_large_is_found_in_its_table(tmp_path):
    """In a batch, and among all training graphs of a data module of one's own."""
    module = GraphTask(Constant(0.0, 0.0), target_names=["a", "b"])
    targets = torch.zeros(8, 2).index_put((torch.tensor(5), torch.tensor(1)), torch.tensor(1e39))
    molecules = graphs(targets)
    for row, molecule in enumerate(molecules):
        molecule.row = torch.tensor([row + 10])
    with pytest.raises(InputError, match="Target 'b' has the value inf in row 15 of the table"):
        module._targets(Batch.from_data_list(molecules))

    class Own(lightning.LightningDataModule):
        train_targets, train_rows = targets.double(), torch.arange(8) + 10

        def train_dataloader(self):
            return DataLoader(molecules)

    with pytest.raises(InputError, match="Target 'b' has the value inf in row 15 of the table"):
        trainer(tmp_path, enable_checkpointing=False).fit(module, Own())


NAN, BOTH = math.nan, [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("task", "train", "val", "monitor", "sentence"),
    [
        ("classification", BOTH, [[1, 1], [0, NAN]], ("val/roc_auc", "max"), None),
        ("classification", BOTH, [[1, NAN], [1, 0]], ("val/loss", "min"), "'a', 'b' have one class in"),
        ("classification", BOTH, [[1, NAN]], ("val/loss", "min"), "one class or no label .* validation loss"),
        ("classification", BOTH, [[NAN, NAN]], ("train/loss", "min"), "roc_auc undefined: the training loss"),
        ("classification", [[0, 1], [0, NAN]], BOTH, ("val/roc_auc", "max"), "'a', 'b' have one value in"),
        ("regression", [[0, 5], [1, 5]], [[1, 5]], ("val/rmse", "min"), "^Target 'b' has one value in all"),
        ("regression", BOTH, [[NAN, NAN]], ("train/loss", "min"), "no label .* leaves rmse undefined"),
        ("multiclass", [[0], [1]], [[1]], ("val/accuracy", "max"), None),
        ("multiclass", [[0], [1]], [[NAN]], ("train/loss", "min"), "^The class has no label"),
    ],
)
def test_labels_that_cannot_select_epochs_leave_that_to_a_loss(task, train, val, monitor, sentence):
    metric = {"classification": "roc_auc", "regression": "rmse"}.get(task)
    module = GraphTask(Constant(0.0, 0.0), task, metric, target_names=["a", "b"])
    warnings = module.heed_labels(torch.tensor(train).float(), torch.tensor(val).float())
    assert module.monitor == monitor
    assert len(warnings) == (sentence is not None)
    assert all(re.search(sentence, warning) for warning in warnings)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (GraphTask(GIN(2, 8, 1), target_names=["a", "c"]), "on targets 'a', 'b', this run has 'a', 'c'"),
        (GraphTask(GIN(2, 8, 1), "classification"), "for regression, this run is for classification"),
        (GraphTask(GIN(2, 8, 1, in_channels=3)), "on graphs with in_channels None, this run's have 3"),
        (GraphTask(GIN(2, 16, 1)), r"with another network, whose network\.\S+ has shape \["),
        (GraphTask(GINE(2, 8, 1)), "with the network GIN, this run has GINE"),
    ],
)
def test_a_checkpoint_of_another_task_is_refused_in_one_sentence(tmp_path, other, sentence):
    loader = DataLoader(graphs(torch.rand(8, 2)), batch_size=4)
    run = trainer(tmp_path)
    run.fit(GraphTask(GIN(2, 8, 1), target_names=["a", "b"]), loader)
    path = run.checkpoint_callback.best_model_path
    with pytest.raises(InputError, match=f"{sentence}.*; leave --ckpt_path out"):
        trainer(tmp_path).fit(other, loader, ckpt_path=path)
    with pytest.raises(InputError, match=f"{sentence}.*; pass another checkpoint"):
        trainer(tmp_path).test(other, loader, ckpt_path=path)
    renamed = GraphTask.load_from_checkpoint(path, target_names=["c", "d"])
    trainer(tmp_path).test(renamed, loader)


@pytest.mark.parametrize("orientation", [lambda data: data.x[:, 0], Root(), Root(0.3)])
def test_a_network_that_no_file_can_describe_is_one_of_your_own(tmp_path, orientation):
    torch.manual_seed(0)
    batch = Batch.from_data_list(graphs(torch.randn(8, 1)))
    network = PLSTM(hidden_channels=8, num_layers=1, orientation=orientation)
    module, fit = GraphTask(network), trainer(tmp_path)
    fit.fit(module, DataLoader(batch.to_data_list(), batch_size=8))
    fit.save_checkpoint(tmp_path / "own.ckpt")
    again = GraphTask.load_from_checkpoint(tmp_path / "own.ckpt", network=copy.deepcopy(network))
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(InputError, match="a network of your own"):
        Predictor.from_checkpoint(tmp_path / "own.ckpt")


def test_a_loader_without_a_length_trains(tmp_path):
    """Of a stream of graphs, which is read twice: for the targets' scale, and for the training."""

    class Stream(IterableDataset):
        def __iter__(self):
            yield from graphs(torch.arange(8.0)[:, None])

    module = GraphTask(PLSTM(hidden_channels=8, num_layers=1))
    trainer(tmp_path).fit(module, DataLoader(Stream(), batch_size=4))
    assert module.target_mean.item() == pytest.approx(3.5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_loss_counts_labels_whatever_the_batches(tmp_path, batch_size):
    """Half of eight values are missing, and some batches have none."""
    targets = torch.tensor([[0.0, 1.0, math.nan, math.nan, 5.0, math.nan, 2.0, math.nan]]).T
    loader = DataLoader(graphs(targets), batch_size=batch_size)
    [scores] = trainer(tmp_path).test(GraphTask(Constant(1.0)), loader, verbose=False)
    assert scores["test/loss"] == pytest.approx((1 + 0 + 16 + 1) / 4)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_scores_of_a_network_that_diverged_are_undefined(task):
    targets = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    metrics = metrics_of(task, 1)
    metrics.update(torch.tensor([[0.1], [torch.nan], [0.3], [0.2]]), targets)
    assert all(value.isnan() for value in metrics.compute().values())


def test_a_batch_without_classes_counts_for_nothing():
    metrics = metrics_of("multiclass", 3)
    outputs, missing = torch.eye(3), torch.full((3, 1), torch.nan)
    metrics.update(outputs, missing)
    metrics.update(outputs, torch.tensor([[0.0], [2.0], [torch.nan]]))
    assert metrics.compute()["accuracy"] == 0.5


def test_every_head_is_trained_by_its_own_loss_and_the_mean_is_logged():
    torch.manual_seed(0)
    network = PLSTM(
        hidden_channels=16, num_layers=1, dropout=0.0, branches=[CircularFingerprint(size=64, channels=8)]
    )
    batch, logged = Batch.from_data_list(graphs(torch.randn(8, 1))), {}
    task = GraphTask(network)
    task.log = lambda name, value, **options: logged.update({name: value.item()} | options)
    torch.manual_seed(1)
    total = task.training_step(batch, 0).item()
    torch.manual_seed(1)
    losses = [task._loss(output, batch.y).item() for output in network.outputs(network.embed(batch))]
    assert len(losses) == 3
    assert total == pytest.approx(sum(losses), rel=1e-5)
    assert logged["train/loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    # An epoch's loss is the mean over its graphs, of all processes.
    assert logged["batch_size"] == 8
    assert logged["sync_dist"]


@pytest.mark.parametrize("settings", [{}, {"mixup": 1.0}])
def test_training_refuses_features_that_are_not_finite(settings):
    batch = Batch.from_data_list(graphs(torch.randn(8, 1)))
    batch.x, batch.edge_attr = torch.randn(len(batch.x), 2), None
    batch.x[-1, 0] = math.inf
    task = GraphTask(GIN(in_channels=2, hidden_channels=8, num_layers=1), **settings)
    with pytest.raises(InputError, match="Features x of graph 7 of the batch"):
        training_loss(task, batch, 0)


def test_means_of_large_targets_lose_no_digits():
    """Sums in float32 would: the mean of a million values near 4,096 is off by more than their deviation."""
    targets = 4096 + torch.linspace(-1, 1, 1_000_001).unsqueeze(1) / 64
    task = GraphTask(Constant(0.0))
    task.fit_target_scale(targets)
    assert task.target_mean.item() == pytest.approx(4096, abs=1e-3)
    assert task.target_std.item() == pytest.approx(1 / 64 / math.sqrt(3), rel=0.02)
