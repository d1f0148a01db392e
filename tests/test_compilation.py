"""What a first call costs, that a second process does not pay it again, and where what it made is kept."""

import ast
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from unwritable import forbid, power_is_lost, run

import plstm_graph
from plstm_graph import compiled

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


#: Prints the result, functions that were read from the cache, and where they are kept.
CALL = """
from small.caller import call
from small.callee import add
print(call(1))
print(sum(call.stats.cache_hits.values()))
print(call.stats.cache_path)
"""


@pytest.fixture
def packages(tmp_path):
    """A folder with a package of two functions, compiled as this package's are."""
    small = tmp_path / "packages" / "small"
    small.mkdir(parents=True)
    shutil.copy(compiled.__file__, small)
    (small / "__init__.py").touch()
    (small / "callee.py").write_text(
        "from small.compiled import structure_inner\n\n@structure_inner\ndef add(x):\n    return x + 1\n"
    )
    (small / "caller.py").write_text(
        "from small.callee import add\nfrom small.compiled import structure\n\n"
        "@structure\ndef call(x):\n    return add(x)\n"
    )
    return small.parent


def test_what_was_compiled_is_kept_beside_the_sources_until_one_of_them_changes(packages):
    beside = packages / "small" / "__pycache__"
    assert run(CALL, packages, []) == (["2", "0", str(beside)], "")
    assert run(CALL, packages, []) == (["2", "1", str(beside)], "")
    callee = packages / "small" / "callee.py"
    callee.write_text(callee.read_text().replace("x + 1", "x + 2"))
    assert run(CALL, packages, [])[0][:2] == ["3", "0"]
    assert run(CALL, packages, [])[0][:2] == ["3", "1"]
    assert sorted(path.name.split("-")[0] for path in beside.iterdir()) == ["callee.add", "caller.call"]


def test_a_damaged_file_is_made_anew(packages, tmp_path):
    place = {"NUMBA_CACHE_DIR": tmp_path / "given"}
    run(CALL, packages, [], **place)
    [callee], [caller] = ([*(tmp_path / "given").rglob(name)] for name in ("callee.*.nbc", "caller.*.nbc"))
    callee.write_bytes(callee.read_bytes()[:1000])
    content = bytearray(caller.read_bytes())
    content[len(content) // 2] ^= 1
    caller.write_bytes(content)
    assert run(CALL, packages, [], **place)[0] == ["2", "0", str(caller.parent)]
    assert run(CALL, packages, [], **place)[0] == ["2", "1", str(caller.parent)]
    caller.write_bytes(b"")
    assert run(CALL, packages, [], **place)[0][:2] == ["2", "0"]


def test_code_that_checks_bounds_is_kept_apart(packages):
    for settings in ({}, {"NUMBA_BOUNDSCHECK": "1"}):
        assert run(CALL, packages, [], **settings)[0][:2] == ["2", "0"]
    assert run(CALL, packages, [])[0][:2] == ["2", "1"]


def test_processes_that_start_at_once_share_what_they_compile(packages):
    calls = "from small.caller import call\nprint(*map(call, {}), sum(call.stats.cache_hits.values()))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", calls.format(numbers)],
            env=os.environ | {"PYTHONPATH": str(packages), "NUMBA_CACHE_DIR": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        for numbers in ([1], [1], [1.5], [1j])
    ]
    printed = [process.communicate()[0].split()[0] for process in started]
    assert printed == ["2", "2", "2.5", "(1+1j)"]
    assert run(calls.format([1, 1.5, 1j]), packages, [])[0] == ["2 2.5 (1+1j) 3"]
    kept = Counter(path.name.split("-")[0] for path in packages.rglob("*.nbc*"))
    assert kept == {"caller.call": 3, "callee.add": 3}


def test_a_full_disk_is_no_reason_not_to_compute(packages):
    pytest.importorskip("resource")
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
    [result, hits, _], complaint = run(limit + CALL, packages, [])
    assert (result, hits) == ("2", "0")
    assert complaint.count("plstm_graph cannot keep its compiled kernels in") == 1
    assert "File too large" in complaint
    assert not [*packages.rglob("*.nbc*")]


def test_the_users_cache_serves_a_package_that_cannot_be_written(packages, tmp_path):
    prefix = power_is_lost()
    forbid(packages)
    cache = tmp_path / "cache"
    (result, _, place), complaint = run(CALL, packages, prefix, XDG_CACHE_HOME=cache)
    assert (result, complaint) == ("2", "")
    assert Path(place).is_relative_to(cache)


@pytest.fixture
def nowhere(packages, tmp_path):
    """A call of a package that can write neither itself nor its user's home, and the temporary folder."""
    prefix = power_is_lost()
    forbid(packages)
    homes = {"HOME": forbid(tmp_path / "home"), "XDG_CACHE_HOME": tmp_path / "home" / "cache"}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)  # as /tmp is
    return lambda: run(CALL, packages, prefix, TMPDIR=temporary, **homes), temporary


def test_a_temporary_folder_of_ones_own_is_the_last_place(nowhere):
    call, temporary = nowhere
    (result, _, place), complaint = call()
    own = temporary / f"plstm_graph-{os.geteuid()}"
    assert result == "2"
    assert Path(place).parent == own
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert complaint.count("\n") == 1
    assert f"keeps its compiled kernels in {own}," in complaint
    assert "set NUMBA_CACHE_DIR" in complaint
    assert call()[0][1] == "1"


def open_to_all(own, temporary):
    own.mkdir()
    own.chmod(0o777)


def link(own, temporary):
    (temporary / "elsewhere").mkdir(mode=0o700)
    own.symlink_to("elsewhere")


def of_somebody_else(own, temporary):
    own.mkdir(mode=0o700)
    forbid(own)
    own.chmod(0o700)


def without_sticky_bit(own, temporary):
    temporary.chmod(0o777)


@pytest.mark.parametrize("spoil", [open_to_all, link, of_somebody_else, without_sticky_bit])
def test_nothing_is_loaded_from_a_folder_that_others_may_have_made(nowhere, spoil):
    call, temporary = nowhere
    if spoil is of_somebody_else and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    spoil(temporary / f"plstm_graph-{os.geteuid()}", temporary)
    lines, complaint = call()
    assert lines == ["2", "0", "None"]
    assert complaint.count("\n") == 1
    assert "every process compiles the kernels again; set NUMBA_CACHE_DIR to one." in complaint
    assert not [*temporary.rglob("*.nbc")]


def test_the_sources_that_count_hold_all_that_compiled_functions_refer_to():
    folder = Path(plstm_graph.__file__).parent
    assert {"compiled.py", "dag/levels.py", "kernels/cpu/solve.py"} <= set(compiled._SOURCES)
    for name in set(compiled._SOURCES) - {"compiled.py"}:
        tree = ast.parse((folder / name).read_bytes())
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("plstm_graph")
            for alias in node.names
        }
        functions = [  # that Numba compiles, by a decorator of this package's
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and any(isinstance(decorator, ast.Name) for decorator in node.decorator_list)
        ]
        used = {
            node.id
            for function in functions
            for statement in function.body
            for node in ast.walk(statement)
            if isinstance(node, ast.Name)
        }
        for module, attribute in (imported[variable] for variable in used & set(imported)):
            path = Path(*module.split(".")[1:])
            places = {f"{path}.py", f"{path / attribute}.py"}
            assert places & set(compiled._SOURCES), f"{name} takes {attribute} from {module}"
