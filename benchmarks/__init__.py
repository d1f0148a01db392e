"""What the package is measured by: times, accuracies and their results; run with ``python -m``."""

import sys
from pathlib import Path

# ``python -m`` puts the checkout first on the path, where its folder datasets would hide another package's.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT] + [str(_ROOT)]
