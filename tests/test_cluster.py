"""The verb predict on Ray, started on this machine with two workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.dataset as pads
import pytest
import torch
from cli_runs import ROOT

from benchmarks.speed.predict import save
from plstm_graph.chem import smiles_to_data
from plstm_graph.commands.main import main
from plstm_graph.models import PLSTM
from plstm_graph.task import GraphTask

ray = pytest.importorskip("ray")
SMILES = ["CCO", "c1ccccc1O", "C(C", "CC(=O)[O-].[Na+]", "", "C", "CC(=O)Nc1ccc(O)cc1", None]
BROKEN = (2, 4, 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    torch.manual_seed(0)
    return save(GraphTask(PLSTM(1, 16, 2), target_names=["expt"]), path)


@pytest.fixture
def table(tmp_path) -> tuple[Path, pd.DataFrame]:
    """A folder of three files; what a careless reader would change is among the cells."""
    frame = pd.DataFrame({"smiles": SMILES * 2000, "row": range(16000), "note": ["007", "NA"] * 8000})
    folder = tmp_path / "table"
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[rows].to_parquet(folder / f"part-{number}.parquet", index=False)
    return folder, frame


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "train.py", "predict", "--ray", "local", *map(str, arguments)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """Processes that are predicting."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "Predictor" in " ".join(child.cmdline()) and child.cpu_times().user > 1:
                found.append(child)
        except psutil.Error:
            pass
    return found


def test_every_row_is_predicted_once_though_a_worker_is_killed(model, table, tmp_path):
    folder, frame = table
    output = tmp_path / "out"
    process = start("-i", folder, "-o", output, "--ckpt_path", model)
    deadline = time.monotonic() + 300
    while not (alive := workers(process)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not output.exists()
    alive[0].send_signal(signal.SIGKILL)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    assert "16,000 rows" in text

    files = sorted(map(str, output.glob("*.parquet")))
    found = pads.dataset(files).to_table().to_pandas()
    assert list(found) == ["smiles", "row", "note", "predicted_expt", "error"]
    pd.testing.assert_frame_equal(found[list(frame)], frame)
    task = GraphTask.load_from_checkpoint(model).eval()
    for row, smiles in enumerate(SMILES):
        values, reasons = (found[name][row :: len(SMILES)] for name in ("predicted_expt", "error"))
        if row in BROKEN:
            assert values.isna().all()
            assert reasons.notna().all()
        else:
            assert np.allclose(values, task(smiles_to_data(smiles)).item(), atol=1e-5)
            assert reasons.isna().all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "table"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-i", "nothing"], "neither"),
        (["-i", "mols.csv"], "neither"),
        (["-i", "broken"], "cannot be read"),
        (["-i", "mixed"], "different columns"),
        (["-i", "empty.parquet"], "empty.parquet has no rows"),
        (["-s", "structure"], "no column 'structure'; it has 'smiles', 'row', 'note'"),
        (["-o", "table"], "is there already"),
        (["-o", "nowhere/out"], "no folder"),
        (["--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["--resume"], "--resume has no meaning with --ray"),
        (["--trainer.devices", "2"], "--trainer.devices has no meaning with --ray"),
    ],
)
def test_wrong_inputs_get_one_sentence_before_ray_starts(
    model, table, tmp_path, monkeypatch, capsys, arguments, part
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    (tmp_path / "mols.csv").write_text("smiles\nC\n")
    for folder in ("broken", "mixed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "a.parquet").write_text("smiles")
    pd.DataFrame({"smiles": ["C"]}).to_parquet(tmp_path / "mixed" / "a.parquet")
    pd.DataFrame({"smiles": pd.Series([], dtype=str)}).to_parquet(tmp_path / "empty.parquet")
    pd.DataFrame({"structure": ["C"]}).to_parquet(tmp_path / "mixed" / "b.parquet")
    given = ["-i", "table", "-o", "out", "--ckpt_path", str(model)]
    monkeypatch.setattr(sys, "argv", ["plstm-graph", "predict", "--ray", "local", *given, *arguments])
    assert main() == 2
    message = capsys.readouterr().err
    assert part in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_does_not_answer_is_named(model, table, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(ray, "init", refuse)
    arguments = ["-i", table[0], "-o", tmp_path / "out", "--ckpt_path", model, "--ray", "10.0.0.1:6379"]
    monkeypatch.setattr(sys, "argv", ["plstm-graph", "predict", *map(str, arguments)])
    assert main() == 2
    assert "No Ray cluster answers at '10.0.0.1:6379'" in capsys.readouterr().err
