"""A new branch or data set is one file and one line of a list."""

import sys

import pandas as pd
import pytest
import torch
from cli_calls import SMALL, refused

from plstm_graph.checkpoint import BRANCHES
from plstm_graph.task import GraphTask

# A branch that reads the elements of a graph out, and a data set of alcohols.
FILE = """
import numpy as np
import torch

from plstm_graph.datasets import MoleculeDataModule
from plstm_graph.datasets.table import Table
from plstm_graph.models import Branch


class Elements(Branch):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.vectors = torch.nn.Embedding(120, channels)

    def forward(self, graphs, passes):
        vectors = self.vectors(graphs.x[:, 0])
        return vectors.new_zeros(graphs.num_graphs, self.channels).index_add(0, graphs.batch, vectors)


class Alcohols(MoleculeDataModule):
    target_names = ["carbons"]

    def __init__(self, **kwargs) -> None:
        super().__init__(split="random", **kwargs)

    def read_table(self) -> Table:
        lengths = np.arange(1, 61)
        return Table(["C" * n + "O" for n in lengths], lengths[:, None].astype(np.float32))
"""


@pytest.fixture
def new_parts(tmp_path, monkeypatch):
    """The file, from which the command line imports."""
    (tmp_path / "new_parts.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "new_parts"
    sys.modules.pop("new_parts", None)


def test_a_branch_and_a_data_set_of_ones_own(new_parts, run, tmp_path, monkeypatch):
    arguments = ["fit", "--config", "freesolv", "--data", f"{new_parts}.Alcohols"]
    arguments += ["--model.network.init_args.branches+", f"{new_parts}.Elements"]
    arguments += ["--model.network.init_args.branches.channels", "4", "--trainer.max_epochs", "2", *SMALL]
    code, _, err = run(*arguments)
    assert code == 0, err
    [last] = tmp_path.rglob("last.ckpt")
    # A branch that is in no list is a network of one's own, which has to be handed over.
    assert "a network of your own" in refused(run("predict", "--ckpt_path", last, *table(tmp_path)))
    from new_parts import Elements

    monkeypatch.setitem(BRANCHES, "Elements", Elements)
    code, _, err = run(*arguments)
    assert code == 0, err
    last = max(tmp_path.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    code, _, err = run("predict", "--ckpt_path", last, *table(tmp_path))
    assert code == 0, err
    predicted = pd.read_csv(tmp_path / "out.csv")["predicted_carbons"]
    network = GraphTask.load_from_checkpoint(last).network
    assert [type(branch).__name__ for branch in network.branches] == ["NodeReadout", "Elements"]
    assert network.branches[1].channels == 4
    assert len(network.predictors) == 2
    assert predicted.notna().all()
    assert torch.tensor(predicted).std() > 0


def table(folder):
    """Options for predicting a few alcohols."""
    pd.DataFrame({"smiles": ["CO", "CCCO", "CCCCCCCCO"]}).to_csv(folder / "table.csv", index=False)
    return "--data.path", folder / "table.csv", "--output", folder / "out.csv"
