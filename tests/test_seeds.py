"""Seeds, epochs and processes draw different numbers; the same ones draw the same numbers again."""

import ast
import os
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from cli_calls import refused
from cli_runs import ROOT, finish, start
from data_modules import prepared
from drawn import Drawn
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from plstm_graph.commands.resumption import SeedEpochs
from plstm_graph.datasets import FreeSolv
from plstm_graph.datasets.base import Shuffled
from plstm_graph.datasets.seeds import seed_of
from plstm_graph.datasets.splits import random_split
from plstm_graph.errors import InputError
from plstm_graph.models import GINE
from plstm_graph.task import GraphTask

SEEDS, EPOCHS = (0, 1, 7), 4
CODE = ("plstm_graph", "datasets", "benchmarks", "examples", "tools")


@pytest.fixture(autouse=True)
def _own_seed(monkeypatch):
    """Lightning keeps a run's seed in the environment: the next test finds what the last one found."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")


def all_differ(drawn: list[torch.Tensor]) -> bool:
    return not any(torch.equal(one, other) for one, other in combinations(drawn, 2))


def equal(one: dict, other: dict) -> bool:
    """Whether two dictionaries hold the same tensors, in lists or not, to the bit."""
    if one.keys() != other.keys():
        return False
    pairs = [(one[key], other[key]) for key in one]
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else all(map(torch.equal, a, b)) for a, b in pairs
    )


def test_torch_draws_differ_with_seed_epoch_process_and_purpose(monkeypatch):
    drawn = {}
    for run in (0, 1, 2, 7, 2**31, 2**32 - 1):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(run))
        for epoch, rank, purpose in product(range(4), range(3), ("order", "training", "loaders")):
            seed = seed_of(purpose, epoch, rank)
            assert 0 <= seed < 2**32
            assert seed == seed_of(purpose, epoch, rank)
            drawn[run, epoch, rank, purpose] = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    assert all_differ(list(drawn.values()))


def test_every_seed_and_epoch_has_its_order_alike_on_all_processes(monkeypatch):
    orders = []
    for run, epoch in product(SEEDS, range(EPOCHS)):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(run))
        alone, first, second = (Shuffled(range(30), count, rank) for count, rank in ((1, 0), (2, 0), (2, 1)))
        for sampler in (alone, first, second):
            sampler.set_epoch(epoch)
        orders.append(torch.tensor(list(alone)))
        assert sorted(alone) == list(range(30))
        assert list(alone) == [row for pair in zip(first, second, strict=True) for row in pair]
    assert all_differ(orders)


def test_loader_processes_of_two_seeds_draw_different_numbers(monkeypatch, cache):
    module = prepared(FreeSolv(cache=cache))
    numbers = {}
    for run in ("0", "1", "0"):
        monkeypatch.setenv("PL_GLOBAL_SEED", run)
        # An iterator takes the seeds of its processes from here.
        drawn = torch.randint(2**62, (), generator=module.train_dataloader().generator)
        assert drawn == numbers.setdefault(run, drawn)
    assert numbers["0"] != numbers["1"]


def trained(seed: int, cache: Path, folder: Path, ckpt_path: Path | None = None) -> tuple[Drawn, dict]:
    """What a run draws, and the weights it ends with; with a checkpoint of every epoch in the folder."""
    seed_everything(seed, verbose=False)
    noted = Drawn()
    checkpoints = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    task = GraphTask(GINE(hidden_channels=8, num_layers=1, dropout=0.5, norm="batch"), mixup=1.0)
    trainer = Trainer(
        max_epochs=EPOCHS, limit_train_batches=2, limit_val_batches=1, default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        callbacks=[SeedEpochs(), noted, checkpoints],
    )  # fmt: skip
    trainer.fit(task, datamodule=FreeSolv(cache=cache), ckpt_path=ckpt_path, weights_only=True)
    return noted, task.state_dict()


def test_runs_of_other_seeds_differ_in_all_they_draw_and_those_of_one_seed_in_nothing(cache, tmp_path):
    runs = {seed: trained(seed, cache, tmp_path / str(seed)) for seed in SEEDS}
    noted = [drawn for drawn, _ in runs.values()]
    for name in noted[0].weights:
        if name.endswith("emb.weight") or (name.startswith("network.predictors") and "weight" in name):
            assert all_differ([drawn.weights[name] for drawn in noted]), name
    for epoch in range(EPOCHS):
        assert all(len(drawn.rows[epoch]) == 2 for drawn in noted)
    assert all_differ([first for drawn in noted for first, _ in drawn.rows.values()])
    assert all_differ([mask for drawn in noted for masks in drawn.masks.values() for mask in masks])

    again, ended = trained(1, cache, tmp_path / "again")
    resumed, ended_too = trained(1, cache, tmp_path / "resumed", tmp_path / "1" / "epoch=1.ckpt")
    first, wanted = runs[1]
    assert equal(again.weights, first.weights)
    assert equal(again.rows, first.rows)
    assert equal(again.masks, first.masks)
    assert resumed.rows.keys() == {2, 3}
    assert equal(resumed.rows, {epoch: first.rows[epoch] for epoch in (2, 3)})
    assert equal(resumed.masks, {epoch: first.masks[epoch] for epoch in (2, 3)})
    assert equal(ended, wanted)
    assert equal(ended_too, wanted)


def test_two_processes_draw_other_dropout_for_other_rows_from_the_same_weights(tmp_path):
    folder = tmp_path / "run"
    options = ["--config", "freesolv_gine", "--trainer.callbacks+", "drawn.Drawn"]
    options += ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    options += ["--trainer.max_epochs", 2, "--trainer.limit_train_batches", 2]
    finish(start("fit", folder, *options, env=os.environ | {"PYTHONPATH": str(ROOT / "tests")}))
    noted = [torch.load(folder / f"drawn{rank}.pt", weights_only=True) for rank in range(2)]
    first, second = noted
    assert equal(first["weights"], second["weights"])
    assert all_differ([mask for run in noted for masks in run["masks"].values() for mask in masks])
    for epoch, rows in first["rows"].items():
        assert not set(torch.cat(rows).tolist()) & set(torch.cat(second["rows"][epoch]).tolist())


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_torch_would_cut_are_refused(run, seed):
    arguments = ["fit", "--config", "freesolv", "--seed_everything", seed]
    sentence = f"must be from 0 to 4294967295, not {seed}."
    assert f"--seed_everything {sentence}" in refused(run(*arguments))
    with pytest.raises(InputError, match=f"split_seed {sentence}"):
        random_split(10, seed)


def test_no_seed_in_the_code_is_a_shifted_or_multiplied_one():
    """Those of runs are mixed in one place."""
    calls = 0
    for path in (path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        assert "PL_GLOBAL_SEED" not in text or path.name == "seeds.py", path
        for call in ast.walk(ast.parse(text)):
            name = getattr(call, "func", None)
            if getattr(name, "attr", getattr(name, "id", None)) not in ("manual_seed", "seed_everything"):
                continue
            calls += 1
            inside = {type(part) for argument in call.args for part in ast.walk(argument)}
            assert not inside & {ast.LShift, ast.Mult}, f"{path}, line {call.lineno}"
    assert calls > 10
