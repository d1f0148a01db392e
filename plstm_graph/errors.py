"""The one exception for input a user can correct."""


class InputError(ValueError):
    """Input that the package refuses, with one sentence saying what is wrong and what to do.

    The command line prints the sentence and exits; every other exception is a bug and keeps its
    traceback.
    """
