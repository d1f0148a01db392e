"""What the command line says of a bug: one line, and a file with the rest."""

import shlex
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from plstm_graph.commands.options import PROGRAM

#: Packages whose versions matter.
_PACKAGES = ("plstm-graph", "torch", "torch_geometric", "rdkit", "lightning", "numpy", "numba")


def report_bug(error: Exception, arguments: Sequence[str]) -> str:
    """Write a report into the folder for temporary files; return a line on what happened and where that is.

    Args:
        error: What escaped.
        arguments: The command line.
    """
    lines = [shlex.join([PROGRAM, *arguments]), f"python {sys.version}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    lines += ["", *traceback.format_exception(error)]
    try:
        number, name = tempfile.mkstemp(".txt", f"{PROGRAM}-")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines))
        where = f"a report for the authors is in {name}"
    except OSError as unwritten:
        where = f"no report could be written ({unwritten.strerror})"
    what = textwrap.shorten(f"{type(error).__name__}: {error}", 300).rstrip(".")
    return f"{what}; {where}"
