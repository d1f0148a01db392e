"""Settings and fixtures shared by all tests."""

import os
import sys
from pathlib import Path

# Triton decides when it is imported: without a GPU, its interpreter runs the kernels on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# As train.py has it: on a machine with other work, tests whose threads spin take several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The checkout's root last, for benchmarks/: its folder datasets must not hide a package of that name.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]

import pytest
from hypothesis import settings

from plstm_graph.commands.main import main

# Compilation of the kernels makes a first example slow; the rest must be reproducible.
settings.register_profile("plstm_graph", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("plstm_graph")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(monkeypatch, capsys, cache, tmp_path):
    """Run the command line in this process; returns exit code, standard output and error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        places = ["--data.cache", str(cache), "--trainer.default_root_dir", str(tmp_path / "runs")]
        if arguments[0] == "predict":
            places = []
        monkeypatch.setattr(sys, "argv", ["plstm-graph"])
        code = main([*map(str, arguments), *places])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what tests recorded under ``trust``: what they tried and what became of it."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    ended = [report for report in reports if getattr(report, "when", None) == "call"]
    lines = [text for report in ended for name, text in report.user_properties if name == "trust"]
    if lines:
        terminalreporter.section("Trust")
    for line in lines:
        terminalreporter.line(line)
