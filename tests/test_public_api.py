"""The public names, their signatures and defaults, as they were last decided on.

``python tests/test_public_api.py`` writes them down again: a change of tests/data/public_api.txt belongs into
the changelog.
"""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import plstm_graph

WRITTEN = Path(__file__).parent / "data" / "public_api.txt"
MODULES = [
    "plstm_graph", "plstm_graph.chem", "plstm_graph.drawing", "plstm_graph.conv", "plstm_graph.dag",
    "plstm_graph.estimators", "plstm_graph.explain", "plstm_graph.kernels", "plstm_graph.models",
    "plstm_graph.task", "plstm_graph.testing",
]  # fmt: skip


def public_names(module):
    """``__all__``, or what a module without one defines itself."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = vars(module).items()
        names = [n for n, v in own if n[0] != "_" and getattr(v, "__module__", None) == module.__name__]
    return sorted(names)


def signature(value):
    """Arguments with defaults, of what this package defines; annotations are for mypy."""
    made = value.__init__ if inspect.isclass(value) else getattr(value, "__func__", value)
    if not inspect.isfunction(made) or not made.__module__.startswith("plstm_graph"):
        return ""  # a value, a type of arguments, or a class that is made as its parent of another package
    found, empty = inspect.signature(value), inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=empty))


def ours_privately(base):
    return base.__name__[0] == "_" and base.__module__.startswith("plstm_graph")


def describe():
    """One line for every public name and for every public method of a public class."""
    lines = []
    for name in MODULES:
        module = importlib.import_module(name)
        for public in public_names(module):
            value = getattr(module, public)
            lines.append(f"{name}.{public}{signature(value)}")
            if inspect.isclass(value) and value.__module__.startswith("plstm_graph"):
                ours = [value, *(base for base in value.__mro__ if ours_privately(base))]
                for method in sorted({name for part in ours for name in vars(part)}):
                    function = getattr(value, method)
                    # PyG adds methods of modules that it makes to a layer when it is first built.
                    own = getattr(function, "__module__", None) in {part.__module__ for part in ours}
                    if method[0] != "_" and callable(function) and own:
                        lines.append(f"{name}.{public}.{method}{signature(function)}")
    return "\n".join(lines) + "\n"


def test_the_public_api_is_the_one_that_was_written_down(record_property):
    found = describe()
    assert found == WRITTEN.read_text()
    record_property(
        "trust", f"public API: {found.count(chr(10))} names, signatures and defaults as written down"
    )


def public_functions():
    """Public functions, classes and methods of this package by their names; fields are no arguments."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for public in public_names(module):
            value = getattr(module, public)
            made = dataclasses.is_dataclass(value) or hasattr(value, "_fields") or hasattr(value, "__total__")
            if not callable(value) or made or not signature(value):
                continue
            found[f"{name}.{public}"] = value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    if method[0] != "_" and inspect.isfunction(function):
                        found[f"{name}.{public}.{method}"] = function
    return found


def test_no_function_takes_more_than_twelve_arguments():
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    functions = public_functions()
    assert len(functions) > 50
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        taken = [p.name for p in parameters if p.name != "self" and p.kind not in several]
        # A network's arguments are those of all its parts.
        assert len(taken) <= 12 + name.endswith("GraphNetwork"), f"{name} takes {len(taken)}"


def test_no_call_passes_more_than_five_by_position():
    names = {name.rpartition(".")[2] for name in public_functions()}
    root = Path(__file__).parents[1]
    seen = 0
    for folder in ("plstm_graph", "datasets", "benchmarks", "examples"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call) or isinstance(node.func, ast.Call):
                    continue
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                given = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
                if called in names:
                    seen += 1
                    assert len(given) <= 5, f"{file}:{node.lineno}"
    assert seen > 100


def test_the_package_tells_its_version_and_that_it_is_typed():
    assert re.fullmatch(r"\d+\.\d+\.\d+", plstm_graph.__version__)
    assert (Path(plstm_graph.__file__).parent / "py.typed").is_file()


if __name__ == "__main__":
    WRITTEN.write_text(describe())
