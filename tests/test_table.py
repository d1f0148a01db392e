"""Tables of suites: through the command, then once more, then continued."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cli_calls import SMALL, serially, torch_as_before
from cli_runs import ROOT
from sklearn.ensemble import RandomForestRegressor

from benchmarks.accuracy import table
from benchmarks.accuracy.chemprop import fit_chemprop
from benchmarks.accuracy.forest import features_of, fingerprints, fit_forest, forest_predictions
from benchmarks.accuracy.table import FOREST, MODELS, Run, command, data_of
from benchmarks.accuracy.with_forest import measure, model_of
from plstm_graph import PLSTM
from plstm_graph.chem import smiles_to_data
from plstm_graph.commands.fit import GraphCLI
from plstm_graph.commands.presets import read_preset
from plstm_graph.datasets import TU, FreeSolv
from plstm_graph.errors import InputError
from plstm_graph.models import CircularFingerprint
from plstm_graph.task import GraphTask


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture
def make(place, monkeypatch, capsys):
    """Make the table in this process, run after run, and return what it prints."""

    def call(*more: str) -> str:
        arguments = ["--suite", "moleculenet", "--datasets", "freesolv", "--models", "plstm,gin"]
        arguments += ["--seeds", "2", "--out", place / "out", "--runs", place / "runs"]
        arguments += ["--cache", place / "cache", "--trainer.max_epochs", "2", *SMALL, *more]
        monkeypatch.setattr(sys, "argv", ["table"])
        table.main(list(map(str, arguments)))
        return capsys.readouterr().out

    monkeypatch.setattr(table, "side_by_side", serially)
    with torch_as_before():
        yield call


def test_a_table_is_made_kept_and_continued(place, make):
    make()
    files = sorted((place / "out").rglob("*.json"))
    assert [path.stem for path in files] == [
        f"{model}-seed{seed}" for model in ("forest", "gin", "plstm") for seed in (0, 1)
    ]
    records = {path.stem: json.loads(path.read_text()) for path in files}
    assert records["gin-seed0"]["result"]["network"] == "GIN"
    assert records["gin-seed0"]["settings"]["preset"]["data"]["class_path"] == "FreeSolv"
    assert {"torch", "torch-geometric"} <= records["gin-seed0"]["environment"]["versions"].keys()
    first = (place / "out" / "freesolv" / "table.md").read_text()
    tests = [records[f"plstm-seed{seed}"]["result"]["test"] for seed in (0, 1)]
    assert f"| PLSTM | {np.mean(tests):.3f} ± {np.std(tests, ddof=1):.3f} |" in first
    assert "| Morgan fingerprint, 300 trees |" in first
    assert "| training mean | 4.482 ± 0.000 |" in first
    assert f"Made with commit {records['gin-seed0']['environment']['commit']}, plstm-graph" in first

    # As if the run of one seed had been killed after its last epoch, before it could report.
    lost = place / "out" / "freesolv" / "plstm-seed1.json"
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in files if path != lost}
    printed = make()
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not trained again
    assert "plstm-seed1" in printed
    assert "plstm-seed0" not in printed
    again = json.loads(lost.read_text())["result"]
    for key in ("val", "test", "epochs"):
        assert again[key] == records["plstm-seed1"]["result"][key]
    [last] = place.glob("runs/freesolv/plstm-seed1-*/*/version_1/metrics.csv")
    assert "train/loss" not in pd.read_csv(
        last
    )  # went on from the last checkpoint, and there was no more to do
    second = (place / "out" / "freesolv" / "table.md").read_text()
    assert second.splitlines()[:9] == first.splitlines()[:9]
    with pytest.raises(InputError, match="was made with other settings"):
        make("--model.learning_rate", "0.01")


@pytest.mark.parametrize("name", MODELS)
def test_every_row_is_the_network_that_it_says(name, capsys):
    """What a row changes is an argument of its network, and differs from the preset."""
    arguments = command(Run("freesolv", name, 3, None), Path("data"), Path("cache"), MODELS[name].options)
    with pytest.raises(SystemExit):
        GraphCLI(["fit", *arguments, "--print_config"])
    network = yaml.safe_load(capsys.readouterr().out)["model"]["network"]
    preset = read_preset("freesolv")["model"]["network"]["init_args"]
    assert network["class_path"].rpartition(".")[2] == MODELS[name].network
    for argument, text in MODELS[name].changes.items():
        assert network["init_args"][argument] == yaml.safe_load(text)
    for argument, value in preset.items():
        if argument not in MODELS[name].changes and argument in network["init_args"]:
            assert network["init_args"][argument] == value


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--suite", "tu", "--models", "plstm,foo"], "'foo' is no model of this table: plstm, plstm-p"),
        (["--suite", "tu", "--cross-validate"], "--cross-validate is for --suite ogb"),
        (["--suite", "tu", "--datasets", "esol"], "'esol' is no data set of this table: mutag, nci1"),
    ],
)
def test_unknown_names_get_one_sentence(arguments, part):
    with pytest.raises(InputError, match=re.escape(part)):
        table.main(arguments)


def test_the_command_ends_with_the_sentence():
    command = [sys.executable, "-m", "benchmarks.accuracy.table", "--suite", "tu", "--models", "foo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: 'foo' is no model of this table")
    assert result.stderr.count("\n") == 1


def test_the_forest_is_scikit_learns_on_the_training_rows(place):
    module = FreeSolv(cache=place / "cache")
    result = fit_forest(module, seed=1)
    bits, targets = fingerprints(module.dataset.smiles), module.dataset.tensors["y"].flatten().numpy()
    train, test = module.rows.train.numpy(), module.rows.test.numpy()
    forest = RandomForestRegressor(300, min_samples_leaf=2, random_state=1).fit(bits[train], targets[train])
    wanted = np.sqrt(np.mean((forest.predict(bits[test]) - targets[test]) ** 2))
    assert result.test == pytest.approx(wanted, rel=1e-5)


def test_a_forest_has_the_fold_of_its_run():
    assert data_of(Run("mutag", FOREST, seed=0, fold=3), Path("data"), Path("cache")).fold == 3


@pytest.mark.parametrize(("dataset", "orientation"), [("molhiv", None), ("molfreesolv", "center")])
def test_a_forest_reads_the_graphs_that_were_prepared_for_the_network(dataset, orientation):
    """molhiv's preset draws its roots, and the graphs of such a network are prepared without DAGs."""
    run = Run(dataset, FOREST, seed=0, fold=None)
    assert data_of(run, Path("data"), Path("cache")).orientation == orientation


def test_graphs_that_are_no_molecules_have_a_forest_on_their_environments(place):
    """Rings of 3 to 8 nodes against paths of as many, all nodes alike: environments at the ends tell them."""
    folder = place / "tu" / "SHAPES" / "raw"
    folder.mkdir(parents=True)
    edges, graph_of, classes = [], [], []
    for number in range(120):
        size, ring = 3 + number // 2 % 6, number % 2
        first = len(graph_of) + 1
        pairs = [(first + i, first + i + 1) for i in range(size - 1)] + [(first + size - 1, first)] * ring
        edges += [f"{a}, {b}" for pair in pairs for a, b in (pair, pair[::-1])]
        graph_of += [number + 1] * size
        classes.append(2 * ring - 1)
    for name, lines in (("A", edges), ("graph_indicator", graph_of), ("graph_labels", classes)):
        (folder / f"SHAPES_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "SHAPES_node_labels.txt").write_text("0\n" * len(graph_of))
    result = fit_forest(TU("SHAPES", root=place / "tu", cache=place / "cache"), seed=0)
    assert (result.network, result.metric) == ("Circular fingerprint, 300 trees", "accuracy")
    assert (result.val, result.test, result.baseline) == (1.0, 1.0, 0.5)


def test_the_mean_with_a_forest_is_of_both_predictions(place):
    module = FreeSolv(cache=place / "cache")
    module.prepare_data()
    module.setup()
    tasks = []
    for seed in range(2):
        torch.manual_seed(seed)
        task = GraphTask(PLSTM(hidden_channels=16, num_layers=2)).eval()
        task.fit_target_scale(module.train_targets)
        tasks.append(task)
    found = {(row["predictions"], row["seed"]): row["test"] for row in measure(tasks, module)}
    features, test = features_of(module.dataset), module.rows.test.tolist()
    with torch.inference_mode():
        networks = [
            torch.cat([task(smiles_to_data(module.dataset.smiles[row])) for row in test]) for task in tasks
        ]
    forests = [forest_predictions(module, features, seed)[test] for seed in range(2)]
    assert found["forest", 1] == pytest.approx(fit_forest(module, seed=1).test, rel=1e-6)
    wanted = {"forest, mean of 2": sum(forests) / 2, "PLSTM, mean of 2": sum(networks) / 2}
    wanted["PLSTM and forest, mean of 2"] = sum(forests + networks) / 4
    wanted = {(label, None): predictions for label, predictions in wanted.items()}
    for seed, (network, forest) in enumerate(zip(networks, forests, strict=True)):
        wanted |= {("forest", seed): forest, ("PLSTM", seed): network}
        wanted["PLSTM and forest", seed] = (network + forest) / 2
    assert found.keys() == wanted.keys()
    targets = module.dataset.tensors["y"][test]
    for row, predictions in wanted.items():
        assert found[row] == pytest.approx((predictions - targets).square().mean().sqrt().item(), rel=1e-5)
    assert MODELS[model_of(GraphTask(PLSTM(branches=[CircularFingerprint()])))].label == "PLSTM + fingerprint"
    stranger = torch.nn.Linear(1, 1)
    stranger.out_channels = 1
    with pytest.raises(InputError, match=r"A Linear is no network of benchmarks\.accuracy.table"):
        model_of(GraphTask(stranger))


def test_fingerprints_of_unreadable_smiles_are_empty():
    with pytest.warns(UserWarning, match="cannot read 1 of 3 SMILES"):
        bits = fingerprints(["CCO", "C(C", "c1ccccc1"])
    assert bits.sum(1).astype(bool).tolist() == [True, False, True]


#: Stands for chemprop: predicts the mean of the rows that it was told to train on.
PROGRAM = """#!{python}
import sys
from pathlib import Path
import pandas as pd
sys.argv.append("")
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if sys.argv[1] == "--version":
    print("chemprop 2.0.0")
elif sys.argv[1] == "train":
    table = pd.read_csv(given["--data-path"])
    mean = table[given["--target-columns"]][table[given["--splits-column"]] == "train"].mean()
    Path(given["--output-dir"]).write_text(f"{{float(mean)!r}} {{given['--pytorch-seed']}}")
else:
    value, seed = map(float, Path(given["--model-paths"]).read_text().split())
    table = pd.read_csv(given["--test-path"]).assign(target0=value + seed)
    table.to_csv(given["--preds-path"], index=False)
"""


def test_chemprop_is_given_the_tables_own_rows(tmp_path):
    program = tmp_path / "chemprop"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    module = FreeSolv(cache=tmp_path / "cache")
    results = [fit_chemprop(module, seed, program, tmp_path / f"run{seed}") for seed in (0, 1)]
    targets = module.dataset.tensors["y"].double().flatten()
    errors = targets[module.rows.test] - targets[module.rows.train].mean()
    for seed, result in enumerate(results):
        assert result.test == pytest.approx((errors - seed).square().mean().sqrt().item())
        assert result.network == "chemprop 2.0.0"
    assert results[0].test == pytest.approx(results[0].baseline)


def test_a_missing_chemprop_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="pass chemprop's executable with --chemprop"):
        fit_chemprop(FreeSolv(cache=tmp_path / "cache"), 0, tmp_path / "missing", tmp_path / "run")
