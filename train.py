"""The command ``plstm-graph`` from a checkout: ``python train.py --help``."""

import sys
from pathlib import Path

# This folder holds one named datasets, which is plstm_graph.datasets; another package owns that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from plstm_graph.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
