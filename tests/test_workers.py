"""Calls in worker processes: their look-ahead, what they leave alone, and what is said when one ends."""

import itertools
import os
import signal
import subprocess
import sys

import psutil
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


#: Work that is done where it stands, by workers however few the molecules are.
SCRIPT = """
print("once", flush=True)
from plstm_graph.datasets import FreeSolv, featurise
featurise._MANY = 0
module = FreeSolv(cache="cache")
module.prepare_data()
module.setup("fit")
print(len(module.dataset))
"""


@pytest.mark.parametrize("on_standard_input", [False, True])
def test_workers_do_not_run_the_users_script_again(tmp_path, on_standard_input):
    (tmp_path / "mine.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "-" if on_standard_input else "mine.py"],
        input=SCRIPT if on_standard_input else "",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines.count("once") == 1
    assert lines[-1] == "642"


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import itertools, os, time\n"
        "from plstm_graph.datasets.workers import Workers\n"
        "workers = Workers(2, 'time')\n"
        "for _, process in workers.in_order(os.getpid, ((n, ()) for n in itertools.count())):\n"
        "    if process != os.getpid():\n"
        "        print(process, flush=True)\n"
        "        time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        processes = psutil.Process(parent.pid).children(recursive=True)
        assert worker in processes
        parent.kill()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def end_elsewhere(here: int) -> None:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_ended_from_outside_is_told_of():
    workers = Workers(1, __name__)
    with pytest.raises(InputError, match="ended from outside"):
        for _ in workers.in_order(end_elsewhere, ((n, (os.getpid(),)) for n in itertools.count())):
            pass
