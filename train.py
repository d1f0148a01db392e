"""Train, test and use networks on molecular graphs: ``python train.py --help``."""

import os
import sys

# Small graphs give short parallel regions; threads that spin between them halt each other when the
# machine has other work. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from plstm_graph.errors import InputError
from training.cli import GraphCLI
from training.compare import main as compare


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        if sys.argv[1:2] == ["compare"]:
            compare(sys.argv[2:])
        else:
            GraphCLI()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
