"""What the verbs with command lines of their own share."""

import argparse
from typing import NoReturn

from plstm_graph.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong command line as an :class:`InputError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the message in one line."""
        raise InputError(f"{message}; see {self.prog} --help.")
