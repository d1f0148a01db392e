"""Presets: configuration files that come with the package, called by their names.

A file in a folder ``like_NAME`` holds what it has other than the preset NAME.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from plstm_graph.errors import InputError

_FOLDER = Path(__file__).parent.parent / "presets"
_LIKE = "like_"


def _files(path: Path) -> list[Path]:
    if path.parent == _FOLDER:
        return [path]
    return [_FOLDER / f"{path.parent.name.removeprefix(_LIKE)}.yaml", path]


#: The files of every preset, of which the last wins.
PRESETS = {path.stem: _files(path) for path in sorted(_FOLDER.rglob("*.yaml"), key=lambda path: path.stem)}


def read_preset(name: str) -> dict[str, Any]:
    """Read the settings of a preset.

    Raises:
        InputError: There is none of that name.
    """
    import yaml  # which the commands' help does not wait for

    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; presets are {', '.join(PRESETS)}.")
    return reduce(_merged, (yaml.safe_load(path.read_text(encoding="utf-8")) for path in PRESETS[name]))


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(first[key], value) for key, value in second.items() if isinstance(value, dict)}
    return first | second | both


def configuration_files(name: str) -> list[str]:
    """A configuration file, or the files of the preset of this name.

    Raises:
        InputError: It is neither.
    """
    if Path(name).is_file():
        return [name]
    if name in PRESETS:
        return [str(path) for path in PRESETS[name]]
    raise InputError(f"--config {name} is neither a file nor a preset; presets are {', '.join(PRESETS)}.")


def with_configuration_files(arguments: Iterable[str]) -> list[str]:
    """A command line with files in place of the presets that ``--config`` names."""
    resolved: list[str] = []
    waiting = False
    for argument in arguments:
        option, equals, name = argument.partition("=")
        if option == "--config" and equals:
            resolved += with_configuration_files([option, name])
        elif waiting:
            resolved += [part for file in configuration_files(argument) for part in ("--config", file)]
        elif argument not in ("--config", "-c"):
            resolved.append(argument)
        waiting = argument in ("--config", "-c") and not waiting
    return [*resolved, "--config"] if waiting else resolved


def classes_first(arguments: Sequence[str]) -> list[str]:
    """Options in their order, but files before all others, and a class before the options of that class.

    The parser reads an option of a class by the class that it knows at that point.
    """
    options: list[list[str]] = []  # each with its values
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([])
        options[-1].append(argument)
    options.sort(key=lambda option: _name(option) != "--config")
    ordered: list[list[str]] = []
    for option in options:
        name = _name(option)
        names = [_name(other) for other in ordered]
        own = [place for place, other in enumerate(names) if other.startswith(f"{name}.")]
        ordered.insert(own[0] if own and name not in names else len(ordered), option)
    return [part for option in ordered for part in option]


def _name(option: Sequence[str]) -> str:
    """The name, also of --name=value and --name+=value."""
    return option[0].partition("=")[0].removesuffix("+").removesuffix(".class_path")
