"""The benchmarks of the GPU kernels, as far as they run without a GPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed here")

# The interpreter is slow, so there is one head, and molecules of five atoms go by level already.
TINY = """
import torch
from benchmarks.speed import gpu, roofline, workload
import plstm_graph.kernels.triton as kernels
from plstm_graph.chem import smiles_to_data
from plstm_graph.kernels import cost

gpu.HEADS = workload.HEADS = 1
cost._SMALLEST_GATING_BLOCK = cost._LARGEST_GATING_BLOCK = 4
MOLECULES = [smiles_to_data("CCO"), smiles_to_data("CCCCC")]

def check():
    lines = gpu.check_backends(MOLECULES, 4, torch.device("cpu"), ("triton",))
    print(*lines, sep="\\n")
"""

PASSES = """
check()

launched = []
kernel_type = type(kernels.gating.forward_kernel)
launch = kernel_type.__getitem__
kernel_type.__getitem__ = lambda self, grid: launched.append(self) or launch(self, grid)
dag = workload.build_dag(gpu.Batch.from_data_list(MOLECULES))
op = workload.OpInputs.random(dag, 4, torch.float32)
op.call(op.tensors, dag, "P", "triton")
forward = len(launched)
workload.output_and_gradients(op.tensors, dag, "P", "triton")
counted = {"forward": 0, "backward": 0}
for kernel in roofline.count(MOLECULES)["kernels"]:
    counted[kernel["direction"]] += kernel["launches"]
assert counted == {"forward": forward, "backward": len(launched) - 2 * forward}, (counted, len(launched))
print("launches agree")
"""

FAILS = """
backward, forward = kernels.triton_backward, kernels.triton_forward
calls = []

def noisy(*args):
    calls.append(args)
    return forward(*args) * (1 + 1e-14 * len(calls))

def wrong(*args):
    gradients = backward(*args)
    gradients[5][0, 0] += 1e-3
    return gradients

kernels.triton_forward = noisy
try:
    check()
except SystemExit as message:
    print(message)
kernels.triton_forward, kernels.triton_backward = forward, wrong
check()
"""


def run(*command: str, interpret: bool = False) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="times the GPU for minutes")
def test_without_a_gpu_it_says_what_can_be_done():
    done = run("-m", "benchmarks.speed.gpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("There is no CUDA device here")
    assert "make test" in done.stdout


@needs_triton
def test_kernels_pass_the_check_and_launches_are_as_counted():
    done = run("-c", TINY + PASSES, interpret=True)
    assert done.returncode == 0, done.stderr
    assert "stm triton agrees with reference, torch.float64" in done.stdout
    assert "stm triton agrees with reference, torch.float32" in done.stdout
    assert done.stdout.count("the same bits twice") == 2
    assert "gating tiles of 4 nodes and the level kernels" in done.stdout
    assert "launches agree" in done.stdout


@needs_triton
def test_the_check_ends_at_a_wrong_gradient_and_at_other_bits():
    done = run("-c", TINY + FAILS, interpret=True)
    assert "gives other bits when it runs again (output)" in done.stdout
    assert done.returncode == 1
    assert "differs from reference" in done.stderr
    assert "gradient of transition" in done.stderr
    assert "Traceback" not in done.stderr


@needs_triton
def test_counts_are_those_made_by_hand(tmp_path):
    molecules, figures = tmp_path / "molecules.csv", tmp_path / "roofline.json"
    molecules.write_text("\n".join(["name,smiles", "ethanol,CCO", "hexane,CCCCCC", "long," + "C" * 150]))
    table = ["--data", str(molecules), "--smiles", "smiles"]
    done = run("-m", "benchmarks.speed.roofline", "--batches", "3", "--json", str(figures), *table)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(figures.read_text())["results"]
    # Away from the centre, a chain of n atoms has n - 1 edges, n - 3 lines and n // 2 levels.
    sizes = [result[name] for name in ("molecules", "nodes", "edges", "lines", "depth")]
    assert sizes == [3, 159, 2 + 5 + 149, 0 + 3 + 147, 75]
    kernels = {(k["direction"], k["kernel"]): k for k in result["kernels"]}

    gating = kernels["forward", "gating, 16 nodes"]
    assert gating["feature_bytes"] == 4 * (3 + 6) * 4 * 24 * 4  # query, key, value and output
    # direct; source, mark and transition both ways; all of them by 4 heads of 4 bytes
    assert gating["gate_bytes"] == ((3 + 6) + 2 * (2 * (2 + 5) + 3)) * 4 * 4
    # The sweep, and for every pair of nodes 24 channels there and back and one product, by 4 heads
    assert gating["flops"] == 4 * (2 * 2 * (2 * 3 + 8 * 6) + (3 * 3 + 6 * 6) * (2 * 24 + 2 * 24 + 1))
    assert gating["padded_flops"] == 4 * 16 * (2 * 2 * (2 + 8) + (3 + 6) * (2 * 32 + 2 * 32 + 1))
    # Rows of 16 that are swept, continued and marked; scores there and back twice, weights for attention
    assert gating["scratch_bytes"] == 4 * 16 * 4 * (2 * (2 + 3 + 2 * 5 + 2) + 4 * (3 + 6))
    assert gating["floor_us"] == pytest.approx(1e6 * gating["compulsory_bytes"] / 3.0e12)
    backward = kernels["backward", "gating, 16 nodes"]
    assert backward["feature_bytes"] == 7 * (3 + 6) * 4 * 24 * 4  # the output's gradient, not the output
    assert backward["gate_bytes"] == 2 * gating["gate_bytes"]

    sweep = kernels["forward", "states, outputs"]
    assert sweep["feature_bytes"] == (3 * 150 + 2 * 149) * 96 * 4  # to the nodes' three, what edges bring
    # A chain does not branch outside its centre: a walk stores each state that is continued, and has it still
    # when it continues it.
    assert sweep["scratch_bytes"] == 2 * 147 * 4 * 24 * 24 * 4
    launches = {"forward": 0, "backward": 0}
    for kernel in result["kernels"]:
        launches[kernel["direction"]] += kernel["launches"]
    assert launches == {"forward": 1 + 2, "backward": 1 + 5}
    long = json.loads(figures.read_text())["long"]
    assert [(row["forward launches"], row["backward launches"]) for row in long] == [(2, 5), (2, 5)]

    (comparison,) = result["comparisons"]
    assert comparison["state_bytes"] == 2 * (2 + 0 + 5 + 3) * 4 * 24 * 24 * 4
    assert comparison["sweep_flops"] == 2 * 4 * 2 * (2 * 3 + 8 * 6)
    # Ethanol has one level and takes no product, hexane three and takes two.
    assert comparison["dense_product_flops"] == 2 * 4 * 2 * 2 * 5**3
