"""``python -m plstm_graph``: the command ``plstm-graph``."""

import sys

from plstm_graph.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
