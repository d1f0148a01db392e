"""Files that somebody else has made hold data, never code, and nothing else is fetched in their place."""

import csv
import hashlib
import io
import math
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out
from cli_runs import finish, refusal, start

from benchmarks.speed.predict import save
from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.commands.main import main
from plstm_graph.datasets import OGB, TU, MoleculeNet
from plstm_graph.datasets.cache import UNREADABLE_COLUMNS, load_graphs
from plstm_graph.datasets.files import fetch, fetch_folder, write_rows
from plstm_graph.errors import InputError
from plstm_graph.models import PLSTM
from plstm_graph.task import GraphTask


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def kinds(value: object) -> set[type]:
    """All types within."""
    if isinstance(value, dict):
        return set().union(*map(kinds, value), *map(kinds, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(kinds, value))
    return {type(value)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def trained(tmp_path) -> Path:
    places = ["--trainer.default_root_dir", tmp_path / "run", "--data.cache", tmp_path / "cache"]
    carry_out("fit", "--config", "freesolv", "--trainer.max_epochs", 1, *SMALL, *places)
    [last] = (tmp_path / "run").glob("*/version_0/checkpoints/last.ckpt")
    return last


def test_a_checkpoint_holds_tensors_and_primitives_and_runs_no_code(trained, capsys, tmp_path):
    content = read_checkpoint(trained)
    assert kinds(content) - {torch.Tensor, str, int, float, bool, type(None)} == set()
    file, went_off = tmp_path / "bomb.ckpt", tmp_path / "went-off"
    torch.save(content | {"loops": Bomb(went_off)}, file)
    table = tmp_path / "in.csv"
    table.write_text("smiles\nCCO\n")
    files = ["-i", str(table), "--ckpt_path", str(file), "-o", str(tmp_path / "out.csv")]
    assert main(["predict", *files]) == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert "cannot be read as a checkpoint" in refusal(start("fit", tmp_path / "run", "--ckpt_path", file))
    with pytest.raises(InputError):
        GraphTask.load_from_checkpoint(file)
    assert not went_off.exists()


def test_prepared_graphs_run_no_code(tmp_path):
    file, went_off = tmp_path / "graphs.pt", tmp_path / "went-off"
    for content in ({"tensors": Bomb(went_off)}, {"tensors": {}}, [1, 2]):
        torch.save(content, file)
        with pytest.raises(InputError, match="delete the file and start again"):
            load_graphs(file)
    assert not went_off.exists()


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (
            "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {on_fit_start: os.abort}}]}",
            "on_fit_start names a function",
        ),
        ("data: {class_path: stranger.Data}", "data names stranger.Data"),
        ("trainer: {callbacks: [{class_path: stranger.Call}]}", "trainer.callbacks names stranger.Call"),
    ],
)
def test_a_configuration_names_no_code_of_others(tmp_path, config, part):
    (tmp_path / "stranger.py").write_text(
        "from lightning.pytorch import Callback\nfrom plstm_graph.datasets import FreeSolv\n"
        "class Call(Callback): pass\nclass Data(FreeSolv): pass\n"
    )
    file = tmp_path / "stranger.Data stranger.Call.yaml"  # whose own name is no leave
    file.write_text(config + "\n")
    mine = {"env": os.environ | {"PYTHONPATH": str(tmp_path)}}
    try_out = ["--config", file, "--trainer.fast_dev_run", "true"]
    assert part in refusal(start("fit", tmp_path / "run", *try_out, **mine))
    if "data" in config:
        finish(start("fit", tmp_path / "run", *try_out, "--data", "stranger.Data", **mine))


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "served" / "MUTAG.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MUTAG/MUTAG_A.txt", "1, 2\n")
        file.writestr("../../outside.txt", "text")
    return path


def test_what_is_fetched_has_the_checksum_or_is_not_there(archive, tmp_path):
    folder = tmp_path / "data" / "MUTAG" / "raw"
    wrong = hashlib.sha256(b"another file").hexdigest()
    for checksum, sentence in ((wrong, "not what the checksum asks for"), ("", "is no SHA-256")):
        with pytest.raises(InputError, match=sentence):
            fetch_folder(archive.as_uri(), checksum, "MUTAG", folder)
        with pytest.raises(InputError, match=sentence):
            fetch(archive.as_uri(), checksum, tmp_path / "file")
    with pytest.raises(InputError, match="could not be fetched"):
        fetch(archive.with_name("missing.zip").as_uri(), wrong, tmp_path / "file")
    assert not [path for path in (tmp_path / "data", tmp_path / "file") for path in path.rglob("*.*")]
    fetch_folder(archive.as_uri(), sha256(archive), "MUTAG", folder)
    assert [path.name for path in folder.iterdir()] == ["MUTAG_A.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["raw"]
    assert not list(tmp_path.glob("outside.txt"))
    assert not list(tmp_path.parent.glob("outside.txt"))


def test_data_modules_fetch_what_has_the_checksum(archive, tmp_path, monkeypatch):
    table = tmp_path / "served" / "delaney-processed.csv"
    table.write_text("Compound ID,measured log solubility in mols per litre,smiles\na,-1.5,CCO\n")
    esol = MoleculeNet("esol", root=tmp_path / "moleculenet", download=sha256(table))
    monkeypatch.setattr(esol, "url", table.as_uri())
    assert esol.path.parts[-2:] == ("raw", "delaney-processed.csv")
    assert esol.target_names == ["measured log solubility in mols per litre"]
    assert pd.read_csv(esol.path).equals(pd.read_csv(table))
    for module in (OGB("ogbg-molhiv", tmp_path / "ogb"), TU("MUTAG", root=tmp_path / "tu")):
        with pytest.raises(InputError, match="SHA-256 by --data"):
            list(module.contents())
    assert not (tmp_path / "ogb").exists()
    assert not (tmp_path / "tu").exists()


#: Cells that a spreadsheet calculates.
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)", "\t=1+1", "\r=1+1"]


def is_formula(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return False


def cells(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def test_rows_hold_no_formulas_and_numbers_stay():
    file = io.StringIO()
    write_rows(file, [[*FORMULAS, "-1.5", "+1e-3", "-inf", "C=C", "'=1", -2, 3.5, None]])
    [row] = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert row[len(FORMULAS) :] == ["-1.5", "+1e-3", "-inf", "C=C", "'=1", "-2", "3.5", ""]
    assert row[: len(FORMULAS)] == [f"'{formula}" for formula in FORMULAS]
    assert not any(map(is_formula, row))


def test_tables_that_are_written_hold_no_formulas(tmp_path, capsys):
    torch.manual_seed(0)
    task = GraphTask(PLSTM(1, 16, 1), target_names=["=cost"])
    task.target_scale_known.fill_(True)
    checkpoint = save(task, tmp_path / "model.ckpt")
    table = tmp_path / "in.csv"
    rows = ["CCO", "C=C", *FORMULAS]
    frame = pd.DataFrame({"smiles": rows, "=note": FORMULAS[0], "@number": [-1.5] * len(rows)})
    frame.to_csv(table, index=False)
    files = ["-i", str(table), "--ckpt_path", str(checkpoint)]
    assert main(["predict", *files, "-o", str(tmp_path / "out.csv")]) == 0
    assert main(["explain", *files, "-o", str(tmp_path / "folder")]) == 0
    written = pd.read_csv(tmp_path / "out.csv")
    assert len(written) == len(rows)
    assert written["'@number"].eq(-1.5).all()
    assert written["predicted_=cost"].notna().sum() == 2
    assert all(math.isfinite(value) for value in written["predicted_=cost"].dropna())
    for path in (tmp_path / "out.csv", *(tmp_path / "folder").glob("*.csv")):
        assert not [cell for cell in cells(path) if is_formula(cell)], path.name
    assert tuple(cells(tmp_path / "folder" / "unreadable.csv")[:3]) == UNREADABLE_COLUMNS
    capsys.readouterr()
