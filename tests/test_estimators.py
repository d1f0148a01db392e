"""The estimators: what scikit-learn asks of them, and what they leave as it was."""

import copy
import io
import json
import logging
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import joblib
import lightning.pytorch  # noqa: F401 - what its own import sets is not the estimators' doing
import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import check_array, estimator_checks

from benchmarks.speed.predict import save
from plstm_graph import PLSTM, estimators
from plstm_graph.commands.main import main
from plstm_graph.commands.presets import read_preset
from plstm_graph.errors import InputError
from plstm_graph.estimators import PLSTMClassifier, PLSTMRegressor
from plstm_graph.task import GraphTask

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("O", "N", "c1ccccc1", "C(=O)O")
SMILES = ["C" * n + end for n in range(1, 11) for end in ENDS]
CARBONS = [text.upper().count("C") / 3 for text in SMILES]
KIND = [["alcohol", "amine", "arene", "acid"][n % 4] for n in range(40)]
TINY = {"hidden_channels": 8, "num_layers": 2, "batch_size": 16, "max_epochs": 1, "verbose": False}

pytestmark = pytest.mark.filterwarnings("ignore")  # scikit-learn's, of metrics of few rows


@pytest.fixture(scope="module")
def regressor() -> PLSTMRegressor:
    return PLSTMRegressor(**TINY | {"max_epochs": 3}, ensemble_size=2).fit(
        SMILES, pd.Series(CARBONS, name="size")
    )


# What is left as it was


def state_of_this_process() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "arguments": (sys.argv, list(sys.argv)),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in ("", "lightning.pytorch", "lightning.fabric")],
        "streams": (sys.stdout, sys.stderr),
        "folder": os.getcwd(),
    }


def test_a_run_in_this_process_leaves_it_as_it_was(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    before = state_of_this_process()
    estimator = PLSTMRegressor(**TINY, ensemble_size=2).fit(SMILES, CARBONS)
    estimator.predict(SMILES)
    with pytest.raises(InputError):  # in the middle of a run
        PLSTMRegressor(**TINY, init_from="missing.ckpt").fit(SMILES, CARBONS)
    assert state_of_this_process() == before
    assert capfd.readouterr() == ("", "")
    assert not any(tmp_path.iterdir())


def test_what_stops_a_run_is_an_interrupt_and_ctrl_c_goes_on_to_work(monkeypatch):
    """Lightning answers Ctrl-C by an exit, and would ignore all that follow."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT), state_of_this_process()
    monkeypatch.setattr(GraphTask, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        PLSTMRegressor(**TINY).fit(SMILES, CARBONS)
    assert (signal.getsignal(signal.SIGINT), state_of_this_process()) == before


#: A script without a guard, which multiprocessing's "spawn" would run in every process again.
SCRIPT = f"""
print("once", flush=True)
from plstm_graph.estimators import PLSTMRegressor
smiles = {SMILES!r}
settings = {TINY!r} | {{"ensemble_size": 2}}
print(*PLSTMRegressor(**settings, n_jobs=2).fit(smiles, {CARBONS!r}).predict(smiles))
"""


def test_processes_side_by_side_train_the_same_networks_and_do_not_run_the_script_again():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=SCRIPT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    once, predicted = done.stdout.splitlines()
    assert once == "once"
    estimator = PLSTMRegressor(**TINY, ensemble_size=2).fit(SMILES, CARBONS)
    np.testing.assert_allclose(np.float64(predicted.split()), estimator.predict(SMILES), rtol=1e-5)


# What can be fitted


@pytest.mark.parametrize(
    "molecules",
    [
        tuple(SMILES),
        np.array(SMILES),
        pd.Series(SMILES, index=range(100, 140)),
        [[text] for text in SMILES],
        pd.DataFrame({"whatever": SMILES}),
        [Chem.MolFromSmiles(text) for text in SMILES],
        [Chem.AddHs(Chem.MolFromSmiles(text)) for text in SMILES],
    ],
    ids=["tuple", "array", "series", "n by 1", "frame", "molecules", "molecules with hydrogen"],
)
def test_molecules_may_come_in_many_ways(regressor, molecules):
    np.testing.assert_allclose(regressor.predict(molecules), regressor.predict(SMILES), rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (KIND, ["acid", "alcohol", "amine", "arene"]),
        ([kind == "arene" for kind in KIND], ["y"]),
        (pd.Series([("no", "yes")[kind == "arene"] for kind in KIND], name="ring"), ["ring"]),
        ([(2, 10, 1, 10)[n % 4] for n in range(40)], ["1", "2", "10"]),
        # Of which a table would read the first as missing, or the last two as the same.
        ([("none", "a", "b", "b")[n % 4] for n in range(40)], ["0", "1", "2"]),
        ([("1", "01", "2", "2")[n % 4] for n in range(40)], ["0", "1", "2"]),
    ],
)
def test_labels_of_any_kind(labels, names):
    # As few steps as these teach nothing to weights that are averaged.
    settings = TINY | {"max_epochs": 20, "learning_rate": 2e-2, "options": {"trainer.callbacks": "null"}}
    estimator = PLSTMClassifier(**settings, validation_fraction=0.2).fit(SMILES, labels)
    labels = np.asarray(labels)
    assert estimator.classes_.tolist() == np.unique(labels).tolist()
    assert estimator.ensemble_.targets == names
    probabilities = estimator.predict_proba(SMILES)
    assert probabilities.shape == (40, len(estimator.classes_))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    predicted = estimator.predict(SMILES)
    assert (predicted == estimator.classes_[probabilities.argmax(1)]).all()
    # Classes that were mixed up would be below what the most frequent one gives.
    assert estimator.score(SMILES, labels) > np.unique(labels, return_counts=True)[1].max() / 40
    # Each class has its share of the eight validation rows.
    held = estimator.ensemble_.reference.val_targets[:, 0].astype(int)
    shares = np.unique(labels, return_counts=True)[1] / 5
    assert (abs(np.bincount(held, minlength=len(shares)) - shares) < 1).all()
    assert estimator.predict_set(SMILES, 0.5).shape == probabilities.shape
    # Sets of the likeliest class alone, by the networks' order of the classes, name what is predicted.
    likeliest = SimpleNamespace(
        probabilities=lambda shares: shares, sets=lambda shares, confidence: _likeliest(shares)
    )
    with patch.object(estimator.ensemble_, "calibration", likeliest):
        chosen = estimator.predict_set(SMILES, 0.5)
        assert (estimator.classes_[chosen.argmax(1)] == estimator.predict(SMILES)).all()


def _likeliest(shares):
    """Sets of one class, for probabilities of the second of two [n, 1] or of all [n, classes]."""
    if shares.shape[1] == 1:
        return np.concatenate([shares <= 0.5, shares > 0.5], 1)[:, None]
    return shares == shares.max(1, keepdims=True)


def test_several_targets_of_two_classes():
    labels = pd.DataFrame(
        {"ring": [kind == "arene" for kind in KIND], "acid": [kind == "acid" for kind in KIND]}
    )
    labels = labels.astype(float)
    labels.iloc[3, 1] = np.nan
    estimator = PLSTMClassifier(**TINY).fit(SMILES, labels)
    assert estimator.target_names_ == estimator.ensemble_.targets == ["ring", "acid"]
    probabilities = estimator.predict_proba(SMILES)
    assert probabilities.shape == (40, 2)
    np.testing.assert_array_equal(estimator.predict(SMILES), (probabilities > 0.5).astype(int))
    assert estimator.predict_set(SMILES, 0.5).shape == (40, 2, 2)


def test_several_targets_with_missing_values():
    targets = np.stack([CARBONS, np.arange(40.0)], 1)
    targets[::3, 1] = np.nan
    estimator = PLSTMRegressor(**TINY).fit(SMILES, targets)
    assert estimator.predict(SMILES).shape == (40, 2)
    lower, upper = estimator.predict_interval(SMILES, 0.5)
    assert lower.shape == upper.shape == (40, 2)
    assert estimator.target_names_ == ["y", "y1"]


def test_descriptors_beside_molecules():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"dose": rng.normal(size=40), "smiles": SMILES})
    table.loc[3, "dose"] = np.nan
    settings = TINY | {"max_epochs": 5, "learning_rate": 1e-2}
    estimator = PLSTMRegressor(**settings, descriptors="rdkit").fit(
        table, table["dose"].fillna(0).rename("effect")
    )
    assert estimator.ensemble_.descriptor_names[0] == "dose"
    assert "rdkit.MolWt" in estimator.ensemble_.descriptor_names
    moved = estimator.predict(table.assign(dose=5.0)) - estimator.predict(table.assign(dose=-5.0))
    assert (abs(moved) > 1e-3).all()
    flags, numbers = (table.assign(dose=np.array([True, False] * 20, kind)) for kind in (bool, float))
    np.testing.assert_array_equal(estimator.predict(flags), estimator.predict(numbers))
    with pytest.raises(InputError, match=r"X has \[\] beside the molecules, but fit had \['dose'\]"):
        estimator.predict(SMILES)


DESCRIBED = pd.DataFrame({"smiles": SMILES, "b": CARBONS})

REFUSED = [
    (["C(C", *SMILES[1:]], CARBONS, {}, r"1 of 40 SMILES cannot be read.*Row 0: .*open parentheses"),
    ([None, 5.0, *SMILES[2:]], CARBONS, {}, r"2 of 40 SMILES cannot be read.*Row 0: .*Row 1: "),
    (SMILES, CARBONS[1:], {}, r"\[40, 39\]"),
    ([], [], {}, "X has no molecules"),
    ("CCO", CARBONS, {}, r"not of shape \[\]"),
    (np.array(SMILES).reshape(20, 2), CARBONS[:20], {}, r"not of shape \[20, 2\]"),
    (pd.DataFrame({"a": SMILES, "b": CARBONS}), CARBONS, {}, "no column 'smiles'; it has 'a', 'b'"),
    (pd.DataFrame({"smiles": SMILES, "b": KIND}), CARBONS, {}, "column 'b': 'alcohol'"),
    (DESCRIBED, pd.Series(CARBONS, name="b"), {}, "'b' is the name of two"),
    (SMILES, pd.DataFrame([[1, 2]] * 40, columns=["a", "a"]), {}, "'a' is the name of two"),
    (SMILES, pd.Series(CARBONS, name="smiles"), {}, "'smiles' is the name of two"),
    (SMILES, [math.inf, *CARBONS[1:]], {}, "infinite values"),
    (SMILES, [1e39, *CARBONS[1:]], {}, "too large for float32"),
    (SMILES, KIND, {}, "must be numbers"),
    (SMILES, [math.nan] * 40, {}, "no value in the training split"),
    (SMILES, CARBONS, {"max_epochs": 0}, "max_epochs must be at least 1"),
    (SMILES, CARBONS, {"ensemble_size": 0}, "ensemble_size must be at least 1"),
    (SMILES, CARBONS, {"validation_fraction": 1.5}, "above 0 and below 1, not 1.5"),
    (SMILES, CARBONS, {"patience": 0}, "patience must be at least 1"),
    (SMILES, CARBONS, {"random_state": "a"}, "cannot be used to seed"),
    (SMILES, CARBONS, {"dropout": "high"}, "dropout.*high"),
    (SMILES, CARBONS, {"hidden_channels": 0}, "hidden_channels must be at least 1"),
    (SMILES, CARBONS, {"options": {"model.foo": 1}}, "model.foo"),
    (SMILES, CARBONS, {"init_from": "missing.ckpt"}, "missing.ckpt"),
    (SMILES, CARBONS, {"options": {"data.split": "random"}}, "cannot have 'data.split', which the estimator"),
    (SMILES[:1], CARBONS[:1], {}, "There is one sample, which is too few"),
    (pd.DataFrame({"smiles": SMILES, "dose": ["a lot"] * 40}), CARBONS, {}, "^X: 40 cells are not numeric"),
]


@pytest.mark.parametrize(("molecules", "targets", "settings", "sentence"), REFUSED)
def test_what_cannot_be_learned_is_refused_with_one_sentence(molecules, targets, settings, sentence):
    estimator = PLSTMRegressor(**TINY | settings)
    with pytest.raises(ValueError, match=sentence) as refusal:
        estimator.fit(molecules, targets)
    assert "\n" not in str(refusal.value)
    with pytest.raises(NotFittedError):
        estimator.predict(SMILES)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a"] * 40, "y has one class, a; a classifier needs two"),
        ([None, *KIND[1:]], "no label in row 0"),
        ([*CARBONS[:-1], math.nan], "no label in row 39"),
        (np.linspace(0, 1, 40), "continuous"),
        (np.stack([np.arange(40.0)] * 2, 1), "must be 0, 1, or NaN"),
    ],
)
def test_what_are_no_classes_is_refused(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        PLSTMClassifier(**TINY).fit(SMILES, labels)


def test_options_are_those_of_fit_and_defaults_those_of_the_preset():
    preset, defaults = read_preset("table"), PLSTMRegressor()
    network = preset["model"]["network"]["init_args"]
    for name in ("hidden_channels", "num_layers", "dropout"):
        assert getattr(defaults, name) == network[name]
    assert defaults.learning_rate == preset["model"]["learning_rate"]
    for name in ("batch_size", "descriptors"):
        assert getattr(defaults, name) == preset["data"]["init_args"][name]
    options = {"model.network.mode": "D", "model.network": "PLSTM", "trainer.max_epochs": 2}
    estimator = PLSTMRegressor(**TINY | {"max_epochs": None}, options=options).fit(SMILES, CARBONS)
    [found] = estimator.ensemble_.predictors
    assert (found.network.mode, found.network.hidden_channels) == ("D", 8)
    checkpoint = torch.load(io.BytesIO(estimator.checkpoints_[0]), weights_only=True)
    assert checkpoint["epoch"] in (0, 1)  # and not up to 99


def test_none_is_a_value_of_its_own():
    """Though the preset has another: no descriptors, not RDKit's."""
    model = PLSTMRegressor(**TINY, descriptors=None).fit(SMILES, CARBONS)
    assert model.ensemble_.descriptor_names == []


def test_a_fit_that_is_refused_leaves_the_estimator_as_it_was():
    model = PLSTMClassifier(**TINY)
    with pytest.raises(InputError):
        model.fit(["not a molecule"] * 40, KIND)
    with pytest.raises(NotFittedError):
        model.predict(SMILES)
    predicted = model.fit(SMILES, KIND).predict(SMILES)
    for y in ([0, 1] * 20, np.eye(4)[np.arange(40) % 4]):
        with pytest.raises(InputError):
            model.fit(["not a molecule"] * 40, y)
        assert (model.predict(SMILES) == predicted).all()


def test_random_states():
    def fit(state):
        return PLSTMRegressor(**TINY, random_state=state).fit(SMILES, CARBONS).predict(SMILES)

    state = np.random.RandomState(0)
    first, second = fit(state), fit(state)
    np.testing.assert_array_equal(first, fit(0))
    assert (first != second).any()
    np.random.seed(1)  # noqa: NPY002  # from which None draws; other tests leave it at 0
    assert (first != fit(None)).any()


# What is predicted


def test_intervals_are_the_conformal_ones(regressor):
    reference = regressor.ensemble_.reference
    mean = regressor.predict(SMILES)
    assert len(reference.val_targets) == 4
    widths = []
    for confidence in (0.2, 0.5, 0.8):
        lower, upper = regressor.predict_interval(SMILES, confidence)
        np.testing.assert_allclose((lower + upper) / 2, mean, rtol=1e-9)
        widths.append(upper - lower)
    assert (np.diff(widths, axis=0) >= 0).all()
    assert (widths[-1] > 0).all()
    with pytest.raises(InputError, match=r"4 validation values.*at most 0\.8, not 0\.9"):
        regressor.predict_interval(SMILES)


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 90, "a", None])
def test_a_confidence_is_between_0_and_1(regressor, confidence):
    with pytest.raises(InputError, match="confidence must be a number between 0 and 1"):
        regressor.predict_interval(SMILES, confidence)


def test_the_interval_of_one_network_is_a_quantile_of_its_errors():
    estimator = PLSTMRegressor(**TINY, validation_fraction=0.5).fit(SMILES, CARBONS)
    trained = {Chem.CanonSmiles(text) for text in estimator.ensemble_.reference.train_smiles}
    held = [n for n, text in enumerate(SMILES) if Chem.CanonSmiles(text) not in trained]
    assert len(held) == 20
    errors = np.sort(abs(estimator.predict([SMILES[n] for n in held]) - np.array(CARBONS)[held]))
    lower, upper = estimator.predict_interval(SMILES, 0.75)
    np.testing.assert_allclose(upper - lower, 2 * errors[math.ceil(21 * 0.75) - 1], rtol=1e-4)


def test_embeddings_feed_a_pipeline(regressor):
    embedded = regressor.transform(SMILES)
    assert embedded.shape == (40, sum(p.network.embedding_channels for p in regressor.ensemble_.predictors))
    table = regressor.set_output(transform="pandas").transform(SMILES)
    np.testing.assert_array_equal(table.to_numpy(), embedded)
    assert table.columns.tolist() == [f"plstmregressor{number}" for number in range(embedded.shape[1])]
    regressor.set_output(transform="default")
    pipeline = make_pipeline(clone(regressor), Ridge(1e-3)).fit(SMILES, CARBONS)
    assert pipeline.score(SMILES, CARBONS) > 0.9


def test_rows_that_cannot_be_read_are_named(regressor):
    with pytest.raises(InputError, match=r"2 rows of X cannot be read.*Row 1: .*Row 3: "):
        regressor.predict(["CC", "C(C", "CCO", None])


def test_rows_are_counted_over_all_molecules(regressor, monkeypatch):
    monkeypatch.setattr(estimators, "_CHUNK", 2)
    with pytest.raises(InputError, match=r"1 row of X cannot be read.*Row 5: "):
        regressor.predict(["C", "CC", "CCO", "CN", "CCN", "C(C"])


# What scikit-learn does with estimators


def test_searches_and_cross_validation():
    grid = [{"hidden_channels": [4, 8]}, {"options": [{"model.mixup": 1}]}]
    search = GridSearchCV(PLSTMRegressor(**TINY), grid, cv=[(range(30), range(30, 40))])
    search.fit(SMILES, CARBONS)
    assert len(set(search.cv_results_["mean_test_score"])) == 3
    [best] = search.best_estimator_.ensemble_.predictors
    assert best.network.hidden_channels == search.best_params_.get("hidden_channels", 8)
    table = pd.DataFrame({"mass": CARBONS, "structure": SMILES})
    chosen = ColumnTransformer([("smiles", "passthrough", ["structure"])])
    pipeline = make_pipeline(chosen, PLSTMClassifier(**TINY))
    scores = cross_val_score(pipeline, table, [kind == "arene" for kind in KIND], cv=2, scoring="roc_auc")
    assert ((scores >= 0) & (scores <= 1)).all()


def test_copies_predict_the_same(regressor, tmp_path):
    wanted = regressor.predict(SMILES)
    joblib.dump(regressor, tmp_path / "estimator.joblib")
    copies = [
        pickle.loads(pickle.dumps(regressor)),
        copy.deepcopy(regressor),
        joblib.load(tmp_path / "estimator.joblib"),
    ]
    for other in copies:
        np.testing.assert_array_equal(other.predict(SMILES), wanted)
    assert len(pickle.dumps(regressor)) < 1.1 * sum(map(len, regressor.checkpoints_))  # and nothing else
    assert not hasattr(clone(regressor), "checkpoints_")


# Folders


def test_a_folder_has_the_networks_that_were_trained(regressor, tmp_path):
    """Whatever the next fit shall have."""
    other = copy.deepcopy(regressor).set_params(ensemble_size=3)
    other.save(tmp_path / "model")
    loaded = PLSTMRegressor.load(tmp_path / "model")
    assert loaded.ensemble_size == 3
    np.testing.assert_array_equal(loaded.predict(SMILES), regressor.predict(SMILES))


def test_a_saved_folder_is_one_for_the_command_line(regressor, tmp_path, monkeypatch):
    folder, out = tmp_path / "model", tmp_path / "out.csv"
    regressor.save(folder)
    assert {path.name for path in folder.iterdir()} == {"model_0.ckpt", "model_1.ckpt", "estimator.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    pd.DataFrame({"smiles": SMILES}).to_csv(tmp_path / "mine.csv", index=False)
    command = [
        "predict",
        "-i",
        tmp_path / "mine.csv",
        "--model-paths",
        folder,
        "-o",
        out,
        "--interval",
        "0.5",
    ]
    assert main(list(map(str, command))) == 0
    table = pd.read_csv(out)
    np.testing.assert_allclose(table["predicted_size"], regressor.predict(SMILES), rtol=1e-5)
    lower, upper = regressor.predict_interval(SMILES, 0.5)
    np.testing.assert_allclose(table["lower_size"], lower, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["upper_size"], upper, rtol=1e-4, atol=1e-5)
    loaded = PLSTMRegressor.load(folder)
    assert loaded.get_params() == regressor.get_params()
    np.testing.assert_array_equal(loaded.predict(SMILES), regressor.predict(SMILES))
    with pytest.raises(InputError, match=r"holds networks already.*overwrite=True"):
        regressor.save(folder)
    with pytest.raises(InputError, match="is of a PLSTMRegressor"):
        PLSTMClassifier.load(folder)
    regressor.save(folder, overwrite=True)
    (folder / "model_1.ckpt").unlink()
    with pytest.raises(InputError, match=r"is no folder of an estimator's save.*model_1"):
        PLSTMRegressor.load(folder)
    with pytest.raises(InputError, match="holds other files"):
        regressor.save(tmp_path)


@pytest.mark.parametrize("labels", [KIND, [kind == "arene" for kind in KIND], np.eye(4)[np.arange(40) % 4]])
def test_a_classifier_is_saved_with_its_classes(labels, tmp_path):
    settings = TINY | {"learning_rate": np.float64(1e-3), "options": {"model.mixup": 1}}
    estimator = PLSTMClassifier(**settings, random_state=np.random.RandomState(0)).fit(SMILES, labels)
    estimator.save(tmp_path / "model")
    json.loads((tmp_path / "model" / "estimator.json").read_text())
    loaded = PLSTMClassifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == estimator.classes_.tolist()
    np.testing.assert_array_equal(loaded.predict(SMILES), estimator.predict(SMILES))
    assert loaded.random_state is None
    loaded.fit(SMILES, labels)


def test_classes_of_a_folder_of_train_are_numbers_where_they_were(tmp_path):
    network = PLSTM(hidden_channels=8, num_layers=1)
    task = GraphTask(network, "classification", target_names=["y"], class_names=[["-1", "1"]])
    save(task, tmp_path / "model_0.ckpt")
    loaded = PLSTMClassifier.load(tmp_path)
    assert loaded.classes_.tolist() == [-1, 1]
    assert set(loaded.predict(SMILES)) <= {-1, 1}


def test_a_share_that_leaves_nothing_is_refused_and_one_block_is_enough():
    for share in (0, 1, 1.5):
        with pytest.raises(InputError, match="validation_fraction must be above 0 and below 1"):
            PLSTMRegressor(**TINY, validation_fraction=share).fit(SMILES, range(40))
    one = PLSTMRegressor(**TINY | {"num_layers": 1}).fit(SMILES, range(40))
    [network] = [predictor.network for predictor in one.ensemble_.predictors]
    assert (network.num_layers, network.scan_every) == (1, 1)


def test_nothing_is_left_of_a_folder_that_could_not_be_written(regressor, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        regressor.save(tmp_path / "model")
    assert not any(tmp_path.iterdir())


# scikit-learn's own checks, which have numbers for molecules

LEFT_OUT = {
    "check_transformer_general": "it asks for as many columns as in training, which SMILES do not have",
    "check_methods_subset_invariance": "sums in float32 differ in the last digit with the graphs of a batch",
    "check_methods_sample_order_invariance": "and with the place of a graph in a batch",
    "check_array_api_input": "SMILES are in no array namespace; it skips itself without SCIPY_ARRAY_API",
}

#: Checks that fit more than a few times, or ask what others do too.
SLOW = {
    *("check_dont_overwrite_parameters", "check_readonly_memmap_input", "check_estimators_overwrite_params"),
    *("check_positive_only_tag_during_fit", "check_f_contiguous_array_estimator", "check_regressors_int"),
    *("check_classifier_multioutput", "check_fit2d_1feature", "check_regressors_no_decision_function"),
    *("check_fit_score_takes_y", "check_estimators_dtypes", "check_pipeline_consistency"),
    *("check_regressors_train", "check_classifiers_train", "check_classifier_data_not_an_array"),
    *("check_regressor_data_not_an_array", "check_classifiers_classes", "check_transformer_preserve_dtypes"),
    *("check_fit_idempotent", "check_estimators_pickle"),
}


class OfNumbers:
    """Takes rows of numbers for molecules."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        for part in (tags.regressor_tags, tags.classifier_tags):
            if part is not None:
                part.poor_score = True  # after an epoch
        return tags


class Regressor(OfNumbers, PLSTMRegressor):
    pass


class Classifier(OfNumbers, PLSTMClassifier):
    pass


def molecules_of(read, X):
    rows = np.asarray(check_array(X, ensure_min_features=0), float)
    return read(["C" * (1 + int(7 * abs(row[0])) % 11) + ENDS[int(5 * abs(row[-1])) % 4] for row in rows])


def name_of(check) -> str:
    while isinstance(check, partial):
        check = check.func
    return check.__name__


def own_checks():
    generate = getattr(estimator_checks, "estimator_checks_generator", None)  # scikit-learn 1.6
    generate = generate or partial(estimator_checks.check_estimator, generate_only=True)
    seen = set()
    for kind in (Classifier, Regressor):
        for estimator, check in generate(kind(**TINY | {"hidden_channels": 4, "batch_size": 64})):
            name = name_of(check)
            if name in LEFT_OUT:
                continue
            settings = "-".join(map(str, getattr(check, "keywords", {}).values()))
            slow = [pytest.mark.slow] if name in SLOW or (kind, name) in seen else []
            seen.add((Regressor, name))  # what holds of the one will hold of the other
            yield pytest.param(estimator, check, id=f"{kind.__name__}-{name}-{settings}", marks=slow)


@pytest.mark.parametrize(("estimator", "check"), list(own_checks()))
def test_the_checks_of_scikit_learn(estimator, check, monkeypatch):
    """All but those left out, so that a new one is run as soon as scikit-learn has it."""
    monkeypatch.setattr(estimators, "_molecules", partial(molecules_of, estimators._molecules))
    check(estimator)


def test_what_is_left_out_is_there():
    assert all(hasattr(estimator_checks, name) for name in LEFT_OUT.keys() | SLOW)
