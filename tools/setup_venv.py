"""Create the virtual environment and install the package, its extras and the pinned releases.

Safe to run again, to kill midway, and to run twice at once: a mark beside the environment tells an
unfinished one, which is then built anew, and a lock makes the second run wait for the first.

Usage: python tools/setup_venv.py VENV STAMP [auto|default|cpu]
    STAMP  touched when everything is installed
    auto   how torch is chosen, see tools/install_torch.py
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "train,cluster,dev"


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(command: list[str], lock: int) -> None:
    # The lock is handed on: should this script be killed alone, it holds until pip has ended too.
    code = subprocess.run(command, cwd=ROOT, pass_fds=(lock,)).returncode
    if code != 0:
        sys.exit(f"[setup] stopped: `{' '.join(command)}` failed; its own message is above.")


def take_lock(file) -> bool:
    """Lock the file; return whether another run had to be waited for."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        say("another run is setting up the same checkout; waiting for it.")
        fcntl.flock(file, fcntl.LOCK_EX)
        return True


def install(folder: Path, torch_build: str, lock: int) -> None:
    python = str(folder / "bin" / "python")
    # Twice quiet: errors only, without the build tool's remarks on editable installs.
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    pinned = ["--constraint", str(CONSTRAINTS)]
    # setuptools and wheel also build torch-scatter, which cannot be built in isolation.
    run([*pip, *pinned, "pip", "setuptools", "wheel"], lock)
    say("torch")
    run([python, str(ROOT / "tools" / "install_torch.py"), torch_build], lock)
    say("everything else, about a minute")
    run([*pip, *pinned, "--editable", f".[{EXTRAS}]"], lock)


def main() -> None:
    # This script runs on whatever python3 the machine has.
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(
            f"plstm_graph needs Python 3.11 or newer, and {sys.executable} is "
            f"{sys.version.split()[0]}; name a newer one: make BASE_PYTHON=python3.12 ..."
        )
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    folder, stamp = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    torch_build = sys.argv[3] if len(sys.argv) == 4 else "auto"
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    with CONSTRAINTS.open() as file:
        if take_lock(file) and stamp.exists():
            return
        start = time.monotonic()
        stamp.unlink(missing_ok=True)
        # Packages of an interrupted install can look whole and not be.
        anew = unfinished.exists() or not (folder / "bin" / "python").exists()
        unfinished.touch()
        if anew:
            say(f"virtual environment {folder.name}")
            venv.create(folder, clear=True, symlinks=True, with_pip=True)
        install(folder, torch_build, file.fileno())
        stamp.touch()
        unfinished.unlink()
        say(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
