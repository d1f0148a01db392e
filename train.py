"""Train, test and use networks on molecular graphs: ``python train.py --help``."""

import os
import sys

# Small graphs give short parallel regions; threads that spin between them halt each other when the
# machine has other work. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from plstm_graph.errors import InputError


def main() -> int:
    """Run the command line and return its exit code."""
    # Imported here, since worker processes import this file too, and need none of it.
    try:
        match sys.argv[1:]:
            case ["compare", *arguments]:
                from training.compare import main as compare

                compare(arguments)
            case ["explain", *arguments]:
                from training.explain import main as explain

                explain(arguments)
            case ["predict" | "fingerprint" as verb, *arguments]:
                from training.predict import main as predict

                predict(verb, arguments)
            case _:
                from training.cli import GraphCLI

                GraphCLI()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
