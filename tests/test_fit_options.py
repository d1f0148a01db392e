"""Whatever is typed after ``plstm-graph fit``, it is done, or refused in one sentence."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from cli_calls import refused, torch_as_before

from plstm_graph.commands.fit import GraphCLI
from plstm_graph.commands.main import main
from plstm_graph.commands.presets import classes_first

#: No value of one option or another.
VALUES = [
    "-1",
    "0",
    "-0.5",
    "1e300",
    "1000000000000",
    ".nan",
    "null",
    "true",
    "text",
    "[]",
    "[1, b]",
    "{a: 1}",
]

#: Options that start other processes.
OTHERS = {"trainer.devices", "trainer.num_nodes", "data.num_workers"}

SAMPLE = 30


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Arguments that train a small network for one step on a table of twenty molecules."""
    monkeypatch.chdir(tmp_path)  # text is a name of a folder, too
    rows = [f"{'C' * n}{end},{n}" for n in range(1, 11) for end in "ON"]
    (tmp_path / "mine.csv").write_text("\n".join(["smiles,y", *rows]))

    def arguments(network: str = "PLSTM") -> list[str]:
        data = ["--data", "CSV", "--data.path", "mine.csv", "--data.target_columns", "[y]"]
        model = ["--model.network", network, "--model.network.hidden_channels", "8"]
        run = ["--trainer.max_epochs", "1", "--trainer.max_steps", "1", "--trainer.default_root_dir", "runs"]
        quiet = ["--trainer.enable_progress_bar", "false", "--data.split", "random", "--data.cache", "cache"]
        return ["fit", *data, *quiet, *model, "--model.network.num_layers", "1", *run]

    return arguments


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process; returns exit code, standard output and error."""

    def result(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plstm-graph"])
        with torch_as_before():
            code = main(arguments)
        return code, *capsys.readouterr()

    return result


def options(arguments: list[str]) -> list[str]:
    """Names of the options that the parser has for these classes."""

    class Parsed(GraphCLI):
        def instantiate_classes(self) -> None: ...

        def _run_subcommand(self, subcommand: str) -> None: ...

    sys.argv[1:] = []
    config = Parsed(arguments).config["fit"].as_flat()
    names = [name.replace("init_args.", "") for name in vars(config)]
    return [name for name in names if not name.endswith(("class_path", "config"))]


def too_long(*_: object) -> None:
    raise TimeoutError


@pytest.mark.parametrize("sample", [SAMPLE, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", ["PLSTM", "GIN"])
def test_every_option_takes_a_value_or_says_why_not(table, call, network, sample):
    """No value of any option is a bug's."""
    names = options(table(network))
    assert len(names) > 60
    cases = [(name, value) for name in names for value in VALUES if name not in OTHERS or value < "0"]
    if sample:
        cases = random.Random(network).sample(cases, sample)
    signal.signal(signal.SIGALRM, too_long)
    strange = []
    for name, value in cases:
        signal.alarm(60)
        code, _, err = call(*table(network), f"--{name}={value}")
        signal.alarm(0)
        sentences = [line for line in err.splitlines() if line.startswith("error: ")]
        if code not in (0, 2) or len(sentences) != (code == 2) or max(map(len, sentences), default=0) > 620:
            strange.append((name, value, code, err))
    assert not strange


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--data.batch_size 0", "batch_size must be at least 1, not 0."),
        ("--data.num_workers -1", "num_workers must be at least 0, not -1."),
        ("--data.batch_size null", "--data.batch_size needs a value, not null."),
        ("--model.network.hidden_channels -4", "hidden_channels must be at least 1, not -4."),
        ("--model.network.num_layers 1000000000", "num_layers must be at most 1000, not 1000000000."),
        ("--model.network.dropout 2", "dropout must be at most 1, not 2.0."),
        ("--model.network.heads 0", "heads must be at least 1, not 0."),
        ("--model.network.readout [mean,foo]", "without arguments, such as mean"),
        ("--model.network.readout lstm", "not 'lstm'."),
        ("--model.network.readout []", "readout is empty"),
        ("--model.learning_rate .nan", "learning_rate must be at most 1000, not nan."),
        ("--model.weight_decay -1", "weight_decay must be at least 0, not -1.0."),
        ("--model.warmup 3", "warmup must be at most 1, not 3.0."),
        ("--epochs 3", "unrecognized arguments: --epochs 3; there is --trainer.max_epochs, --trainer.min_ep"),
        ("--metric mae", "unrecognized arguments: --metric mae; there is --data.metric."),
        ("--max_epoch 3", "there is --trainer.max_epochs, "),
        ("--data.metrc mae", "there is no --data.metrc; --data.help CLASS lists what a class has."),
        ("--model.network GNN", "--model.network: there is no class GNN; networks are PLSTM, "),
        ("--foo 3", "unrecognized arguments: --foo 3; see --help."),
        (
            "--data Lipid",
            "--data: there is no class Lipid; data modules are CSV, OGB, TDC, TU, FreeSolv, Lipids, ",
        ),
        ("--trainer.max_epochs -5", "--trainer.max_epochs must be at least -1, not -5."),
        ("--trainer.max_epochs -1 --trainer.max_steps -1", "set max_epochs or max_steps."),
        ("--trainer.gradient_clip_val -1", "--trainer.gradient_clip_val must be at least 0, not -1."),
        (
            "--trainer.check_val_every_n_epoch 0",
            "--trainer.check_val_every_n_epoch must be at least 1, not 0.",
        ),
        ("--trainer.val_check_interval 0", "--trainer.limit_val_batches 0 turns validation off."),
        ("--trainer.accelerator tpu", "torch_xla"),
        ("--trainer.devices 0", "devices='0'"),
        ("--trainer.precision foo", "--trainer.precision: Expected one of "),
        ("--trainer.max_time soon", "duration='soon'"),
        (
            "--trainer.default_root_dir mine.csv",
            "--trainer.default_root_dir mine.csv is no folder to write into",
        ),
        ("--trainer.logger CSVLogger --trainer.logger.save_dir mine.csv", "mine.csv"),
        ("--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor foo", "metric `foo`"),
        ("--seed_everything -1", "--seed_everything must be from 0 to 4294967295, not -1."),
        ("--seed_everything null", "--seed_everything: Expected"),
        ("--threads 0", "--threads must be at least 1, not 0."),
        ("--patience 0", "--patience must be at least 1, not 0."),
        ("--patience 2 --trainer.limit_val_batches 0", "--patience needs validation"),
        ("--trainer.max_steps null", "--trainer.max_steps: Expected int"),
    ],
)
def test_a_value_out_of_range_gets_one_sentence(table, call, typed, sentence):
    """The sentence is about the option that was typed."""
    assert sentence in refused(call(*table(), *typed.split()))


def test_a_logger_that_is_not_installed_is_said(table, call, monkeypatch):
    """Lightning raises ModuleNotFoundError for it."""
    monkeypatch.setattr("lightning.pytorch.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "logs"]
    assert "`tensorboard`" in refused(call(*table(), *logger))


@pytest.mark.parametrize(
    ("typed", "said", "kept"),
    [
        ("--trainer.enable_checkpointing false", ["the last one was tested", "No checkpoint was kept"], 0),
        ("--trainer.barebones true", ["Nothing was measured or kept"], 0),
        ("--trainer.logger false", ["best validation rmse", "Run: runs\n"], 2),
        ("--trainer.fast_dev_run true", ["A few batches were tried"], 0),
        ("--trainer.limit_train_batches 0", ["Nothing was trained"], 0),
        ("--trainer.max_epochs 0", ["Nothing was trained"], 0),
        ("--trainer.max_time 00:00:00:00", ["Nothing was trained"], 0),
        ("--trainer.limit_test_batches 0", ["Nothing was tested", "Best checkpoint: "], 2),
        (
            "--trainer.limit_val_batches 0",
            ["no validation\n", "the last one was tested", "Last checkpoint: "],
            1,
        ),
        ("--trainer.check_val_every_n_epoch 5", ["last validation rmse", "the last one was tested"], 0),
        ("--trainer.callbacks+=ModelCheckpoint", ["last validation rmse", "Last checkpoint: "], 1),
        ("--trainer.callbacks+=Timer", ["best validation rmse"], 2),
        (
            "--trainer.callbacks+=TQDMProgressBar --trainer.enable_progress_bar true",
            ["best validation rmse"],
            2,
        ),
        ("--test_epoch last", ["last validation rmse", "Last checkpoint: "], 2),
    ],
)
def test_a_run_without_one_of_its_parts_says_so(table, call, typed, said, kept):
    """Also what comes last is said: which epoch was tested, and where it is."""
    code, out, err = call(*table(), *typed.split())
    assert code == 0, err
    assert all(part in out for part in said), out
    assert len(list(Path().rglob("*.ckpt"))) == kept
    assert ("training mean" in out) != any(part.startswith(("Nothing", "A few")) for part in said)


def test_a_checkpoint_that_another_metric_chose_has_its_own_value(table, call):
    """The value that is printed is the validation metric's, not the loss by which the epoch was chosen."""
    chosen = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    code, out, err = call(*table(), *chosen)
    assert code == 0, err
    [log] = Path().rglob("metrics.csv")
    assert f"best validation rmse {pd.read_csv(log)['val/rmse'].dropna().iloc[0]:.3f}" in out


def test_an_allocation_of_slurm_is_no_launch(table, call, monkeypatch):
    """Without srun there is one process, whatever the allocation has room for."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = call(*table())
    assert code == 0, err
    assert "Best checkpoint: " in out


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("--data.split random --data CSV", "--data CSV --data.split random"),
        ("--a 1 --m.n.x=1 --b [2, 3] --m.n=G --c", "--a 1 --m.n=G --m.n.x=1 --b [2, 3] --c"),
        ("--m.n.x 1 --m.n.class_path G", "--m.n.class_path G --m.n.x 1"),
        ("--m.network 1 --m.net A --m.net.x -1", "--m.network 1 --m.net A --m.net.x -1"),
        ("--t.c+=A --t.c.x 1 --t.c+=B --t.c.y 2", "--t.c+=A --t.c.x 1 --t.c+=B --t.c.y 2"),
        ("--t.c.x 1 --config a --t.c+=A --config b", "--config a --config b --t.c+=A --t.c.x 1"),
    ],
)
def test_a_class_comes_before_its_options(typed, ordered):
    """All else keeps its order."""
    assert classes_first(typed.split()) == ordered.split()


def test_options_may_come_before_their_class(table, call):
    """The network has the dropout that was typed before it."""
    code, _, err = call("fit", "--model.network.dropout=0.5", "--data.split_seed", "3", *table("GIN")[1:])
    assert code == 0, err
    [config] = Path().rglob("config.yaml")
    assert "dropout: 0.5" in config.read_text()
    assert "split_seed: 3" in config.read_text()


def test_names_with_umlauts_are_no_matter_in_an_ascii_locale(table, tmp_path):
    """Every file is read and written, and a second run reads the first one's configuration."""
    folder = tmp_path / "ä"
    folder.mkdir()
    (tmp_path / "mine.csv").rename(folder / "ü.csv")
    settings = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    typed = [*table(), "--data.path", "ä/ü.csv", "--trainer.default_root_dir", "ä/runs"]
    for arguments in (typed, ["fit", "--config", "ä/runs/ü-plstm/version_0/config.yaml"]):
        command = [sys.executable, "-m", "plstm_graph", *arguments]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    assert "ä/runs/ü-plstm/version_1/checkpoints/best-0.ckpt" in done.stdout
    assert "path: ä/ü.csv" in (folder / "runs/ü-plstm/version_1/config.yaml").read_text(encoding="utf-8")


def test_what_a_locale_lacks_is_printed_all_the_same(tmp_path):
    """Also of a file that is not there."""
    settings = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "plstm_graph", "fit", "--config", "Öl"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config \\xd6l is neither a file nor a preset")
