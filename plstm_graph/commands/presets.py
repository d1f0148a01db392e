"""Presets: configuration files that come with the package, called by their names."""

from collections.abc import Iterable
from pathlib import Path

from plstm_graph.errors import InputError

_FOLDER = Path(__file__).parent.parent / "presets"

#: Files by name.
PRESETS = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def preset_file(name: str) -> Path:
    """The file of a preset.

    Raises:
        InputError: There is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; presets are {', '.join(PRESETS)}.")
    return PRESETS[name]


def configuration_file(name: str) -> str:
    """A configuration file, or that of the preset of this name.

    Raises:
        InputError: It is neither.
    """
    if Path(name).is_file():
        return name
    if name in PRESETS:
        return str(PRESETS[name])
    raise InputError(f"--config {name} is neither a file nor a preset; presets are {', '.join(PRESETS)}.")


def with_configuration_files(arguments: Iterable[str]) -> list[str]:
    """A command line with files in place of the presets that ``--config`` names."""
    resolved: list[str] = []
    for argument in arguments:
        option, equals, name = argument.partition("=")
        if resolved and resolved[-1] in ("--config", "-c"):
            argument = configuration_file(argument)
        elif option == "--config" and equals:
            argument = f"{option}={configuration_file(name)}"
        resolved.append(argument)
    return resolved
