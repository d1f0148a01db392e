"""PLSTMConv in OGB's network: through the command, once more, and what makes it fail."""

import json
import math

import numpy as np
import pytest
from cli_calls import serially

from benchmarks.accuracy import drop_in, running
from benchmarks.accuracy.drop_in import CONVS, Network, Run, failures, main, markdown, train
from plstm_graph.datasets import MoleculeDataModule
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError

ROW = {"epoch": 1, "val": 1.0, "test": 2.0, "largest": 3.0, "finite": True, "parameters": 7, "seconds": 5.0}


class Few(MoleculeDataModule):
    """Twenty molecules: 16 for training, in a batch of 15 and one of a single graph."""

    @property
    def target_names(self):
        return ["value"]

    def read_table(self):
        smiles = [f"{'C' * n}O" for n in range(1, 11)] + [f"{'C' * n}c1ccccc1" for n in range(10)]
        return Table(smiles, np.arange(20, dtype=np.float32).reshape(-1, 1) / 10)


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.fixture
def _small(monkeypatch):
    """Few graphs and channels, in this process."""

    def data_of(dataset, root, cache):
        return Few(split="random", cache=cache, batch_size=15, orientation=None)

    monkeypatch.setattr(drop_in, "data_of", data_of)
    monkeypatch.setattr(running, "side_by_side", serially)
    monkeypatch.setattr(drop_in, "_WIDTH", 12)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which runs change


@pytest.mark.usefixtures("_small")
def test_every_row_is_trained_once(tmp_path, capsys, monkeypatch):
    arguments = ["--datasets", "molesol", "--seeds", "1", "--cache", str(tmp_path), "--out", str(tmp_path)]
    failed = main([*arguments, "--epochs", "2"])
    records = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("molesol/*.json"))]
    assert len(records) == 4 * 2
    for record in records:
        result, scores = record["result"], record["result"]["scores"]
        assert result["val"] == pytest.approx(min(scores["val"]), abs=1e-4)
        assert result["test"] == pytest.approx(scores["test"][result["epoch"]], abs=1e-4)
        assert result["finite"]
    assert len({record["result"]["val"] for record in records}) == len(records)
    table = rows_of(capsys.readouterr().out)
    assert len(table) == 2 + 4 * 2
    for name in CONVS.values():
        assert sum(row.startswith(f"| molesol | {name} | ") for row in table) == 2

    [kept] = (
        record["result"]
        for record in records
        if record["run"] == {"dataset": "molesol", "conv": "plstm-pd", "virtual": True, "seed": 0}
    )
    again, other = (train(Run("molesol", "plstm-pd", True, seed), 2, tmp_path, tmp_path) for seed in (0, 1))
    assert again | {"seconds": 0} == kept | {"seconds": 0}
    assert other["scores"] != kept["scores"]

    monkeypatch.setattr(drop_in, "train", None)
    assert main([*arguments, "--epochs", "2"]) == failed
    assert rows_of(capsys.readouterr().out) == table
    with pytest.raises(InputError, match="was made with other settings"):
        main([*arguments, "--epochs", "3"])


def test_the_network_is_ogbs():
    """In its leaderboard, GIN has so many parameters for molecules; a category of chirality came later."""
    for virtual, leaderboard in ((False, 1_885_206), (True, 3_336_306)):
        network = Network("gin", virtual)
        assert sum(parameter.numel() for parameter in network.parameters()) == leaderboard + 300


def test_a_row_behind_ginconv_or_not_finite_fails():
    good = {("molesol", conv, virtual): [ROW, ROW] for conv in CONVS for virtual in (False, True)}
    assert failures(good) == []
    bad = {row: [dict(run) for run in runs] for row, runs in good.items()}
    bad["molesol", "plstm-d", True][1] |= {"val": 1.1}
    bad["molesol", "plstm-p", False][0] |= {"finite": False, "largest": math.nan, "val": math.nan}
    behind = "the RMSE on validation graphs is 1.050, GINConv's 1.000."
    assert failures(bad) == [
        "molesol, PLSTMConv, P-mode, without a virtual node: not all scores are finite.",
        f"molesol, PLSTMConv, D-mode, with a virtual node: {behind}",
    ]
    rows = rows_of(markdown(bad))
    assert "| molesol | PLSTMConv, P-mode | no | 2 |  |  | nan | 1 of 2 | 7 | 5 |" in rows
    assert (
        "| molesol | PLSTMConv, D-mode | yes | 2 | 1.050 ± 0.071 | 2.000 ± 0.000 | 3 | all | 7 | 5 |" in rows
    )
