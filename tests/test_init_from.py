"""Starting from another run's weights: what is taken, what is frozen, what is said."""

import pytest
import torch
from cli_calls import SMALL, carry_out, fit, refused

from plstm_graph import PLSTM
from plstm_graph.errors import InputError
from plstm_graph.models import GIN
from plstm_graph.predictor import Predictor
from plstm_graph.task import GraphTask


def network(**arguments):
    return PLSTM(**{"hidden_channels": 16, "num_layers": 2} | arguments)


def checkpoint(task):
    return {"state_dict": task.state_dict()}


def test_all_but_the_heads_is_taken_whatever_the_targets():
    source = GraphTask(network(out_channels=3), "classification")
    task = GraphTask(network(out_channels=1, descriptors=2))
    heads = {name: weight.clone() for name, weight in task.network.predictors.state_dict().items()}
    [counted] = task.start_from(checkpoint(source))
    for name, weight in source.network.state_dict().items():
        if not name.startswith("predictors."):
            assert torch.equal(task.network.state_dict()[name], weight)
    for name, weight in task.network.predictors.state_dict().items():
        assert torch.equal(weight, heads[name])
    kept = sum(not name.startswith("predictors.") for name in source.network.state_dict())
    assert counted == f"Taken from the other run: {kept} of its {kept} tensors beside the heads."


def test_what_fits_nowhere_and_what_is_new_is_listed():
    task = GraphTask(network(num_layers=1, walk_length=4))
    sentences = task.start_from(checkpoint(GraphTask(network())))
    assert any(text.startswith("What fits nowhere here: 'blocks.1.") for text in sentences)
    assert "What starts from nothing: 'encoder.walks.weight'." in sentences


def test_nothing_that_fits_is_refused():
    with pytest.raises(InputError, match=r"Of that network's \d+ tensors \d fit into this one"):
        GraphTask(network(hidden_channels=24, in_channels=5)).start_from(
            checkpoint(GraphTask(GIN(hidden_channels=16)))
        )


def groups(task, steps=10):
    task._trainer = type("Trainer", (), {"estimated_stepping_batches": steps})()
    [optimizer], _ = task.configure_optimizers()
    return {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}


def test_what_was_taken_is_trained_at_a_tenth_of_the_rate():
    task = GraphTask(network(), learning_rate=1e-3)
    task.start_from(checkpoint(GraphTask(network())))
    rates = groups(task)
    assert {rates[id(p)] for p in task.network.predictors.parameters()} == {1e-3}
    assert {rates[id(p)] for p in task.network.blocks.parameters()} == {1e-4}


@pytest.fixture(scope="module")
def solvation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solvation")
    places = [
        "--trainer.max_epochs",
        1,
        "--trainer.default_root_dir",
        folder,
        "--data.cache",
        folder / "cache",
    ]
    carry_out("fit", "--config", "freesolv", *SMALL, *places)
    [best] = folder.rglob("best*.ckpt")
    return best


def weights(path):
    return Predictor.from_checkpoint(path).network.state_dict()


def test_frozen_parts_are_those_of_the_other_run(run, solvation, tmp_path):
    _, out, _ = fit(
        run,
        "solubility",
        1,
        "--init_from",
        solvation,
        "--freeze",
        "true",
        "--model.network.readout",
        "sum",
        "--model.network.head_dim",
        "8",
        "--model.network.scan_every",
        "2",
        "--model.network.bidirectional",
        "false",
    )
    assert "Taken from the other run" in out
    [best] = (tmp_path / "runs").rglob("best*.ckpt")
    before, after = weights(solvation), weights(best)
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) != name.startswith("predictors."), name


def test_a_run_that_was_begun_from_weights_goes_on(run, solvation, tmp_path):
    more = ["--init_from", str(solvation), "--seed_everything", "1"]
    whole = tmp_path / "whole"
    fit(run, "freesolv", 3, *more)
    [last] = (tmp_path / "runs").rglob("last.ckpt")
    (tmp_path / "runs").rename(whole)
    fit(
        run, "freesolv", 3, *more, "--trainer.max_time", "00:00:10:00", "--trainer.limit_train_batches", "1.0"
    )
    [other] = (tmp_path / "runs").rglob("last.ckpt")
    first = torch.load(whole / last.relative_to(tmp_path / "runs"), weights_only=True)["state_dict"]
    again = torch.load(other, weights_only=True)["state_dict"]
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--freeze", "true"], "--freeze needs --init_from FILE"),
        (["--init_from", "nowhere.ckpt"], "There is no checkpoint 'nowhere.ckpt'"),
    ],
)
def test_options_that_lack_something_are_refused(run, more, message):
    assert message in refused(run("fit", "--config", "freesolv", *SMALL, *more))
