"""Calls in worker processes: their look-ahead, and what is said when a worker ends or cannot start."""

import itertools
import os
import signal
import subprocess
import sys

import pytest
from cli_runs import ROOT

from plstm_graph.datasets.workers import Workers
from plstm_graph.errors import InputError


def test_workers_look_ahead_by_a_few_calls_only():
    asked = 0

    def calls():
        nonlocal asked
        for asked in itertools.count(1):
            yield asked, ()

    workers = Workers(1, __name__)
    results = workers.in_order(os.getpid, calls())
    elsewhere = 0
    for number, (key, process) in enumerate(results, 1):
        assert key == number
        assert asked - number <= 3
        elsewhere += process != os.getpid()
        if elsewhere == 50:
            break
    results.close()
    workers.close()


def test_a_script_that_its_workers_cannot_import_is_told_why(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import time\n"
        "from plstm_graph.datasets.workers import Workers\n"
        "list(Workers(1, 'time').in_order(time.sleep, ((second, (1,)) for second in range(60))))\n"
    )
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode != 0
    assert 'must do its work under if __name__ == "__main__".' in result.stderr.splitlines()[-1]


def end_elsewhere(here: int) -> None:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_ended_from_outside_is_told_of():
    workers = Workers(1, __name__)
    with pytest.raises(InputError, match="ended from outside"):
        for _ in workers.in_order(end_elsewhere, ((n, (os.getpid(),)) for n in itertools.count())):
            pass
