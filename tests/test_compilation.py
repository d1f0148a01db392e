"""What a first call costs, and that a second process does not pay it again."""

import os
import subprocess
import sys

import pytest

FIRST_CALLS = """
import time, torch
from plstm_graph import LineGraphDAG, stm
start = time.process_time()
dag = LineGraphDAG.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
node, gate = torch.rand(3, 2, 4, requires_grad=True), torch.rand(dag.num_edges, 2)
line = torch.rand(dag.num_lines, 2)
output = stm(node, node, node, gate, line, gate, torch.rand(3, 2), dag, reverse=(gate, line, gate))
output.sum().backward()
print(time.process_time() - start)
"""


@pytest.mark.slow
def test_compilation_takes_seconds_once(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def first_calls():
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALLS], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    # Processor seconds, which a busy machine stretches less than those of the clock.
    assert first_calls() < 20
    assert first_calls() < 2
