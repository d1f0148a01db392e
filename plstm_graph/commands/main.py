"""The command ``plstm-graph``: finds out which verb is meant, and only then loads what carries it out."""

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence

from plstm_graph.commands.options import PROGRAM, VERBS, lightning_help, overview, parser_of
from plstm_graph.commands.presets import classes_first, with_configuration_files
from plstm_graph.errors import InputError

_HELP = ("-h", "--help")

#: Packages of the extra ``train``, which the layer does without.
_EXTRA = ("datamol", "jsonargparse", "matplotlib", "ogb", "pandas", "pyarrow", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for what was wrong, 1 for a bug, 130 if stopped.

    Args:
        arguments: Verb and options; by default those that were typed.
    """
    # Small graphs give short parallel regions; threads that spin between them halt each other when the
    # machine has other work. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # At the end Python looks twice for garbage among all that torch and Lightning hold: a second for nothing.
    atexit.register(gc.freeze)
    if arguments is None and sys.getfilesystemencoding() == "ascii":
        # In such a locale neither YAML nor torch takes the name of a file that has other characters.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a locale lacks is no reason to fail
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(typed)
    except InputError as error:
        print("error:", *str(error).splitlines(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except Exception as error:  # whoever typed the command shall not have to read a traceback
        missing = str(getattr(error, "name", "")).partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and missing in _EXTRA:
            install = 'pip install "plstm-graph[train]", in a checkout ".[train]"'
            print(f"error: {missing} is not installed: {install}.", file=sys.stderr)
            return 2
        from plstm_graph.commands.failure import report_bug

        print(f"error: {report_bug(error, typed)}.", file=sys.stderr)
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help", *_]:
            print(overview(), end="")
        case ["--version"]:
            from plstm_graph import __version__

            print(PROGRAM, __version__)
        case ["fit" | "validate" | "test" as verb, *options]:
            if any(option in _HELP for option in options):
                print(lightning_help(verb), end="")
                return
            files = with_configuration_files(
                "--help" if option == "--help-all" else option for option in options
            )
            from plstm_graph.commands.fit import GraphCLI

            # Which Lightning reads, and hands to the processes that it starts.
            sys.argv[1:] = [verb, *classes_first(files)]
            GraphCLI()
        case ["train", *options]:
            parsed, overrides = parser_of("train").parse_known_args(options)
            from plstm_graph.commands.train import train

            train(parsed, overrides)
        case ["compare", *options]:
            parsed, overrides = parser_of("compare").parse_known_args(options)
            from plstm_graph.commands.compare import compare

            compare(parsed, overrides)
        case ["predict" | "fingerprint" as verb, *options]:
            parsed = parser_of(verb).parse_args(options)
            from plstm_graph.commands.predict import predict

            predict(verb, parsed)
        case ["explain", *options]:
            parsed = parser_of("explain").parse_args(options)
            from plstm_graph.commands.explain import explain

            explain(parsed)
        case [verb, *_]:
            raise InputError(f"There is no verb {verb!r}; verbs are {', '.join(VERBS)}.")
