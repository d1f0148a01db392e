"""Settings shared by all tests."""

import os

# Triton decides when it is imported: without a GPU, its interpreter runs the kernels on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# As train.py has it: on a machine with other work, tests whose threads spin take several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings

# Compilation of the kernels makes a first example slow; the rest must be reproducible.
settings.register_profile("plstm_graph", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("plstm_graph")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what tests recorded under ``trust``: what they tried and what became of it."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    ended = [report for report in reports if getattr(report, "when", None) == "call"]
    lines = [text for report in ended for name, text in report.user_properties if name == "trust"]
    if lines:
        terminalreporter.section("Trust")
    for line in lines:
        terminalreporter.line(line)
