"""The one exception for input a user can correct."""


class InputError(ValueError):
    """Input that the package refuses, with one sentence saying what is wrong and what to do.

    The command line prints the sentence and exits with 2. Every other exception is a bug: it exits with 1
    and a line that names the file of a report, which has the traceback.
    """
