"""Ranges of the numbers that constructors and the command line take."""

import sys

from plstm_graph.errors import InputError

_LARGEST = sys.float_info.max

#: Of what is made one by one, such as blocks: who asks for more has mistyped, and would wait for ever.
MANY = 1000

#: Of what is as wide, such as a layer: more finds no memory.
WIDE = 1_000_000


def check_range(least: float, most: float = _LARGEST, /, **numbers: float | None) -> None:
    """Refuse numbers that are out of range; ``None`` stands for a default.

    Args:
        least, most: the range, both included.
        **numbers: arguments by their names.

    Raises:
        InputError: a number that is not within it, or not finite.
    """
    for name, number in numbers.items():
        if number is not None and not least <= number <= most:
            limit = "finite" if most == _LARGEST else f"at most {most}"
            raise InputError(
                f"{name} must be {f'at least {least}' if number < least else limit}, not {number}."
            )
