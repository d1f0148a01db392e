"""The one exception for input a user can correct."""

from collections.abc import Sequence


class InputError(ValueError):
    """Input that the package refuses, with one sentence saying what is wrong and what to do.

    The command line prints the sentence and exits with 2. Every other exception is a bug: it exits with 1
    and a line that names the file of a report, which has the traceback.
    """


def counted(number: int, noun: str) -> str:
    """A number of things as a message has it."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[object], most: int = 8) -> str:
    """Names as a message has them: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
