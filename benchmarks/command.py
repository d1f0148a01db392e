"""The command line of a benchmark: described by its module's docstring, and refusing in one sentence."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plstm_graph.errors import InputError


def parser_of(name: str, text: str | None, **settings: Any) -> ArgumentParser:
    """A parser for ``python -m benchmarks.NAME``.

    Args:
        name: Of the module.
        text: Its docstring.
        **settings: Further ones of the parser.
    """
    description, _, details = (text or "").partition("\n")
    return ArgumentParser(
        f"python -m benchmarks.{name}",
        description=description,
        epilog=details,
        formatter_class=RawDescriptionHelpFormatter,
        **settings,
    )


def add_data(parser: ArgumentParser) -> None:
    """Where public data lie and what is prepared of them."""
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")


def launch(main: Callable[[], int | None]) -> None:
    """Run a benchmark and exit with what it returns, or with a sentence where it cannot be run."""
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
