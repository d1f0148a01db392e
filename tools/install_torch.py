"""Install the pinned torch into the environment that runs this script.

The package index serves Linux a CUDA build of torch whose libraries weigh several GB, whether or
not the machine has a GPU to use them. So:

- an NVIDIA GPU is visible: pip installs torch as it finds it;
- none is: pip is asked what it would install. If that is free of CUDA libraries (macOS, Windows, a
  CPU wheel in a folder that pip searches), pip installs it; if not, uv, which knows where the CPU
  builds are served, installs one.

Usage: python tools/install_torch.py [auto|default|cpu]
    auto     decide as above
    default  whatever pip finds, CUDA libraries included
    cpu      through uv, without asking pip
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
# With -qq, pip prints errors only: its warnings would bury what this script says.
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
PINNED = ["--constraint", str(CONSTRAINTS), "torch"]
BUILDS = ("auto", "default", "cpu")


def pinned_version() -> str:
    found = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{CONSTRAINTS} pins no torch; add a line such as torch==2.13.0.")
    return found[1]


def installed_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_visible() -> bool:
    """Whether the driver's own tool lists a GPU: the tool alone may come without one."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


def cuda_packages() -> list[str]:
    """The CUDA libraries that pip would install beside the pinned torch."""
    command = [*PIP, "install", "--dry-run", "-qq", "--report", "-", *PINNED]
    report = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if report.returncode != 0:
        sys.exit("pip could not tell what torch needs; its own message is above.")
    names = [item["metadata"]["name"].lower() for item in json.loads(report.stdout)["install"]]
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def install_by_pip() -> None:
    if subprocess.run([*PIP, "install", "-qq", *PINNED]).returncode != 0:
        sys.exit("pip could not install torch; its own message is above.")


def install_by_uv(version: str) -> None:
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    commands = [
        [*PIP, "install", "-qq", "--constraint", str(CONSTRAINTS), "uv"],
        [*uv, "--torch-backend=cpu", *PINNED],
    ]
    for command in commands:
        if subprocess.run(command).returncode != 0:
            sys.exit(
                f"The CPU build of torch {version} could not be installed (the message is above), "
                "and pip alone would take the CUDA build of several GB. Put a CPU wheel of that "
                "release into a folder and run `PIP_FIND_LINKS=that/folder make ...`, or accept "
                "the CUDA build with `make TORCH_BUILD=default ...`."
            )


def main() -> None:
    build = sys.argv[1] if len(sys.argv) > 1 else "auto"
    if build not in BUILDS:
        sys.exit(f"Unknown torch build {build!r}; choose one of {', '.join(BUILDS)}.")
    version, installed = pinned_version(), installed_version()
    # "2.13.0+cpu" is 2.13.0 as far as the pin is concerned.
    if installed is not None and installed.partition("+")[0] == version:
        print(f"torch {installed} is there already.", flush=True)
        return
    if build == "auto" and gpu_visible():
        print("An NVIDIA GPU is visible: torch is installed as pip finds it.", flush=True)
        build = "default"
    if build == "auto":
        cuda = cuda_packages()
        if cuda:
            print(
                f"No NVIDIA GPU is visible, and pip's torch {version} comes with {len(cuda)} CUDA "
                "packages: uv installs the CPU build in its place.",
                flush=True,
            )
        build = "cpu" if cuda else "default"
    if build == "cpu":
        install_by_uv(version)
    else:
        install_by_pip()


if __name__ == "__main__":
    main()
