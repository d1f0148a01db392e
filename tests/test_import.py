"""What ``import plstm_graph`` does to a process, and where it works."""

import ast
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from unwritable import forbid, power_is_lost, run

import plstm_graph
from plstm_graph import datasets

ROOT = Path(plstm_graph.__file__).resolve().parent.parent

#: What stays out of a process that imports the layer: what reads data, trains, draws or asks a network.
STRANGERS = [
    "datasets",
    "plstm_graph.datasets",
    "plstm_graph.commands",
    "ogb",
    "outdated",
    "sklearn",
    "lightning",
    "torchmetrics",
    "datamol",
    "matplotlib",
]

WATCHED = f"""
import sys, threading
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork")
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)) if event in watched else None)
threading.Thread.start = lambda thread: seen.append(thread)
import plstm_graph
assert not {{"torch", "pandas", *{STRANGERS}}} & sys.modules.keys()
from plstm_graph import LineGraphDAG, PLSTMConv, ToLineGraphDAG, stm
print(seen, [name for name in {STRANGERS} if name in sys.modules])
"""

LAYER = """
import sys, torch
from plstm_graph import PLSTMConv
from plstm_graph.chem import smiles_to_data
data = smiles_to_data("CC(=O)Oc1ccccc1C(=O)O")
results = []
for mode in ("P", "D"):
    torch.manual_seed(0)
    conv, x = PLSTMConv(9, 8, heads=2, mode=mode).double(), data.x.double().requires_grad_()
    output = conv(x, data.edge_index)
    results += [output, *torch.autograd.grad(output.square().sum(), [x, *conv.parameters()])]
torch.save([result.detach() for result in results], sys.argv[1])
"""


def test_it_starts_no_thread_asks_no_network_and_loads_no_stranger():
    assert run(WATCHED, ROOT, [])[0] == ["[] []"]


def test_names_are_loaded_when_they_are_asked_for():
    for name in plstm_graph.__all__:
        assert name in dir(plstm_graph)
        assert getattr(plstm_graph, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'PLTSM'"):
        plstm_graph.PLTSM  # noqa: B018


def test_a_checkout_leaves_the_name_datasets_to_its_owner(tmp_path):
    owner = tmp_path / "datasets"
    owner.mkdir()
    (owner / "__init__.py").write_text("OWNER = 'another package'\n")
    script = """
import runpy, sys
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit:
    import datasets, plstm_graph.datasets
    print(datasets.OWNER, plstm_graph.datasets.OGB.__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["another package OGB"], done.stderr


def test_without_compilation_the_numbers_are_the_same(tmp_path):
    files = {name: tmp_path / f"{name}.pt" for name in ("compiled", "python")}
    for name, settings in (("compiled", {}), ("python", {"NUMBA_DISABLE_JIT": "1"})):
        script = f"import sys\nsys.argv.append({str(files[name])!r})\n{LAYER}"
        assert run(script, ROOT, [], **settings)[1].count("RuntimeWarning") == 0
    for one, other in zip(*(torch.load(file) for file in files.values()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture
def installed(tmp_path):
    """The package in a folder that nobody can write to."""
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "plstm_graph", tmp_path / "packages" / "plstm_graph", ignore=left_out)
    return forbid(tmp_path / "packages")


def test_neither_its_folder_nor_a_home_need_be_writable(installed, tmp_path):
    prefix = power_is_lost()
    home = forbid(tmp_path / "home")
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o700)
    script = "from plstm_graph import PLSTMConv\nimport plstm_graph\nprint(plstm_graph.__file__)"
    lines, complaint = run(script, installed, prefix, HOME=home / "missing", TMPDIR=temporary)
    assert Path(lines[0]).is_relative_to(installed)
    assert complaint.count(f"keeps its compiled kernels in {temporary / f'plstm_graph-{os.geteuid()}'},") == 1


@pytest.mark.parametrize("package", [plstm_graph, datasets])
def test_what_is_loaded_when_asked_for_is_what_is_promised(package):
    source = ast.parse(Path(package.__file__).read_text())
    typed = [
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.If)
        for part in node.body
        for alias in part.names
    ]
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    [modules] = [call.args[1] for call in calls if getattr(call.func, "id", "") == "lazy_names"]
    loaded = [key.value for key in modules.keys]
    assert sorted(package.__all__) == sorted(typed) == sorted(loaded)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'PLSTN'"):
        package.PLSTN  # noqa: B018


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("plstm_graph.datasets.featurise", {"lightning", "sklearn", "torchmetrics", "ogb"}),
        ("plstm_graph.commands.predict", {"torch", "torch_geometric", "lightning"}),
        ("plstm_graph.ensemble", {"lightning", "sklearn", "torchmetrics"}),
    ],
)
def test_prediction_and_its_workers_start_without_what_they_do_not_need(module, strangers):
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not strangers & set(loaded)


def _imports(tree):
    """What a module imports, in functions too, but for what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "one way to name a module"
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _imports(node)


def test_imports_run_one_way():
    """From file to file and from room to room, a folder or a file beside it; those inside functions count."""
    folders = {"plstm_graph": ROOT / "plstm_graph", "plstm_graph.datasets": ROOT / "datasets"}
    folders["benchmarks"] = ROOT / "benchmarks"
    files = {
        ".".join([package, *file.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): file
        for package, folder in folders.items()
        for file in folder.rglob("*.py")
    }
    of_files, of_rooms = defaultdict(set), defaultdict(set)
    for name, file in files.items():
        for module, part in _imports(ast.parse(file.read_text())):
            found = f"{module}.{part}" if f"{module}.{part}" in files else module
            if found in files and found != name:
                of_files[name].add(found)
                room, other = (".".join(each.split(".")[:2]) for each in (name, found))
                if room != other:
                    of_rooms[room].add(other)
    order = [*TopologicalSorter(of_files).static_order()]  # raises CycleError, which names the circle
    assert len(order) > 100
    order = [*TopologicalSorter(of_rooms).static_order()]
    floors = [f"plstm_graph.{name}" for name in ("dag", "kernels", "conv", "models", "commands")]
    assert sorted(floors, key=order.index) == floors
