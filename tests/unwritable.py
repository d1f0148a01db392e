"""Folders that a process cannot write to, also where the tests run as root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Root writes everywhere; without this capability, not to what belongs to somebody else.
WITHOUT_POWER = ["setpriv", "--bounding-set", "-dac_override"]
SOMEBODY_ELSE = 65534


def power_is_lost() -> list[str]:
    """What a command of a process that obeys permissions begins with; else the test is skipped."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions of folders are those of POSIX")
    if os.geteuid() != 0:
        return []
    tool = shutil.which("setpriv")
    if tool is None or subprocess.run([*WITHOUT_POWER, "true"], capture_output=True).returncode:
        pytest.skip("root writes everywhere, which setpriv cannot change here")
    return WITHOUT_POWER


def forbid(folder: Path) -> Path:
    """Make a folder, if need be, and let nobody write to what is in it."""
    folder.mkdir(exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, SOMEBODY_ELSE, SOMEBODY_ELSE)
    return folder


def run(script: str, packages: Path, prefix: list[str], **environment: Path | str) -> tuple[list[str], str]:
    """Run a script with the packages of a folder: the lines that it prints, and what it complains of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    given = {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        env=kept | {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"} | given,
        cwd=packages,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr
