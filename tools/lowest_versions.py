"""Print the lowest releases that pyproject.toml admits, as constraints for pip.

Usage: python tools/lowest_versions.py [EXTRA ...] > constraints
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def main() -> None:
    file = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in sys.argv[1:] for line in extras[extra])]:
        requirement = Requirement(line)
        [floor] = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        print(f"{requirement.name}=={floor}")


if __name__ == "__main__":
    main()
