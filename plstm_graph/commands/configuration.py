"""The parser of fit, validate and test, and what is refused of what they are told."""

import inspect
import re
import tempfile
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, NoReturn, get_args

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from plstm_graph.checkpoint import NETWORKS, read_checkpoint
from plstm_graph.commands.presets import PRESETS
from plstm_graph.datasets import __all__ as data_modules
from plstm_graph.datasets.seeds import check_seed
from plstm_graph.errors import InputError
from plstm_graph.ranges import MANY, check_range

_PACKAGES = ("plstm_graph", "lightning", "torch")

#: The least values of the trainer's numbers; Lightning computes with what is below some of them.
_LEAST = {
    "max_epochs": -1,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
}

# Defaults of Lightning's callbacks are written down, too, and some are members of an enumeration.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class Parser(LightningArgumentParser):
    """Reports a wrong command line as an :class:`InputError` in place of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message in one line."""
        where = re.match(r'Parser key "([\w.]+)":\s*(?:--([\w.]+): )?', message)
        key = ".".join(filter(None, where.groups())) if where else ""
        reason = _reasons(message[where.end() :].lstrip(" ") if where else message)
        known: dict[str, tuple[str, Iterable[str]]] = {
            "config": ("presets", PRESETS),
            "model.network": ("networks", NETWORKS),
            "data": ("data modules", [name for name in data_modules if not name.endswith("DataModule")]),
        }
        # Without a class, the parser may take the base class in its place.
        if re.search("required: mixers|network is missing|subclass of GraphNetwork. Got", reason):
            text = f"--model.network is missing; pass --config NAME; presets are {', '.join(PRESETS)}"
        elif re.search(r"required: \w+\.data$|GraphDataModule is abstract", reason):
            text = f"--data is missing; pass --config NAME; presets are {', '.join(PRESETS)}"
        elif key and (missing := re.search(r"arguments are required: (\w+)", reason)):
            text = f"--{key}.{missing[1]} is missing"
        elif key and (other := re.search(r"Option '([\w.]+)' is not accepted", reason)):
            text = f"there is no --{key}.{other[1]}; --{key}.help CLASS lists what a class has"
        elif unknown := re.search(r"[Uu]nrecognized arguments: (?:--(?:[\w.]*\.)?)?([\w-]+)", reason):
            remedy = f"there is {alike}" if (alike := self._alike(unknown[1])) else "see --help"
            text = f"{reason.removesuffix('.')}; {remedy}"
        else:
            text = f"--{key}: {reason}" if key else reason
            if key in known:
                kind, names = known[key]
                text = f"{text.removesuffix('.')}; {kind} are {', '.join(names)}"
        raise InputError(textwrap.shorten(text.removesuffix("."), 600) + ".") from ex

    def _alike(self, name: str) -> str:
        """The options whose last word has this in it, or is spelled much like it."""
        listed = [option for action in self._actions for option in action.option_strings]
        # What two parts share is listed as "data.metric --> model.metric".
        typed = [f"--{option.partition(' -->')[0].lstrip('-')}" for option in listed]
        last = {option: option.rpartition(".")[2].lstrip("-") for option in typed}
        wanted = name.replace("-", "_")
        spelled = get_close_matches(wanted, last.values())
        found = [option for option, word in last.items() if wanted in word]
        found += [option for option, word in last.items() if word in spelled and option not in found]
        return ", ".join(found[:3])

    def instantiate_classes(self, *arguments: Any, **options: Any) -> Namespace:
        """Build data, model and callbacks; what torch, Lightning or others do not take is one sentence."""
        with in_one_sentence(ValueError, TypeError, RuntimeError, ImportError):
            return super().instantiate_classes(*arguments, **options)

    def save(self, cfg: Namespace, path: str | Path, *_: Any, **__: Any) -> None:
        """Write a configuration with all its settings, in UTF-8 whatever the locale has."""
        Path(path).write_text(self.dump(cfg, skip_none=False), encoding="utf-8")


@contextmanager
def in_one_sentence(*refusals: type[Exception]) -> Iterator[None]:
    """Have others refuse as this package does.

    Args:
        *refusals: Errors by which they do, beside those of the system and what Lightning itself raises.

    Raises:
        InputError: One of them.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith("lightning."):
            refusals += (RuntimeError, ValueError, TypeError, ImportError)
        if not isinstance(error, (MisconfigurationException, torch.OutOfMemoryError, OSError, *refusals)):
            raise
        text = textwrap.shorten(_reasons(str(error)), 500)
        raise InputError(text.rstrip(".!") + ".") from error


def _reasons(message: str) -> str:
    """Why a value fits none of its kinds, where jsonargparse lists the reasons; else the message."""
    listed, _, value = (message.partition("Errors:")[2] or message).partition("Given value")
    value = value.rpartition("Given value:")[2].strip()
    listed = re.sub(r"\s*Subclass types expect one of:(\n\s*- a .*)*", "", listed)  # the same for every class
    head, *reasons = re.split(r"\n\s*- |^\s*- ", listed)
    plain = []
    for reason in [listed] if head.strip() else reasons:
        text = " ".join(reason.split()).removesuffix(".")
        text = re.sub(r"Expected a dot import path string: (\S+)", r"there is no class \1", text)
        text = text.replace("Import path does", f"{value} does").replace("Import path ", "")
        text = text.replace("does not correspond to a subclass of", "is no")
        text = re.sub(r"Expected a typing.Literal\[([^]]*)\]", r"Expected one of \1", text)
        plain.append(re.sub(r"Expected a <class '(\w+)'>", r"Expected \1", text))
    wanted = [reason for reason in dict.fromkeys(plain) if not re.search("NoneType|a path but", reason)]
    choices = [reason for reason in wanted if reason.startswith("Expected one of")]
    return "; ".join(choices or [reason for reason in wanted if "Expected" not in reason] or wanted)


def check_names(value: Any, command_line: set[str], key: str = "") -> None:
    """Refuse code that a configuration file names and that belongs to none of the packages used here.

    A class of one's own is named on the command line, which is not a stranger's.

    Raises:
        InputError: A function, or a class of another package that is not on the command line.
    """
    if isinstance(value, Namespace | dict):
        name = value.get("class_path", "")
        if name and name.partition(".")[0] not in _PACKAGES and name not in command_line:
            raise InputError(
                f"{key} names {name}, and a configuration file may name classes of {', '.join(_PACKAGES)} "
                f"only; if you trust this one, name it on the command line: --{key} {name}."
            )
        if name and value.get("init_args") is not None:
            _check_nulls(resolve_name(name), value["init_args"], key)
        for part, inner in vars(value).items() if isinstance(value, Namespace) else value.items():
            check_names(inner, command_line, f"{key}.{part}".strip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_names(inner, command_line, key)
    elif inspect.isroutine(value) or inspect.isclass(value):
        raise InputError(f"{key} names a function, {value!r}; a configuration cannot hold functions.")


def _check_nulls(built: Any, arguments: Namespace | dict[str, Any], key: str) -> None:
    """Refuse null where an argument of a class is never None: jsonargparse lets it through.

    Raises:
        InputError: There is one.
    """
    seen = set()
    for part in inspect.getmro(built) if inspect.isclass(built) else ():
        for name, parameter in inspect.signature(vars(part).get("__init__", object)).parameters.items():
            kind = parameter.annotation
            known = isinstance(kind, type) or (get_args(kind) and NoneType not in get_args(kind))
            if known and name not in seen and name in arguments and arguments[name] is None:
                raise InputError(f"--{key}.{name} needs a value, not null.")
            seen.add(name)


def check_model(asked: dict[str, Any], trained: dict[str, Any], command_line: set[str]) -> None:
    """Refuse a model's option on the command line that Lightning would replace by the checkpoint's.

    Raises:
        InputError: An option that differs from the checkpoint's.
    """
    for name, value in asked.items():
        if name in command_line and trained.get(name, value) != value:
            raise InputError(
                f"{name} is {value}, but the checkpoint's model has {trained[name]}, which it keeps: "
                "leave the option out, or train again without --ckpt_path."
            )


def model_options(model: Namespace) -> dict[str, Any]:
    """A model's settings by the names of their options, classes without their packages."""
    options = {short_name(f"--model.{key}"): value for key, value in vars(model.as_flat()).items()}
    options["--model.network"] = str(options.get("--model.network")).rpartition(".")[2]
    return options


def short_name(option: str) -> str:
    return option.replace(".init_args", "").removesuffix(".class_path")


def check_options(config: Namespace, verb: str) -> None:
    """Refuse options that cannot work, before anything is built.

    Raises:
        InputError: One of them.
    """
    check_seed(config.seed_everything, "--seed_everything")
    check_range(1, MANY, **{"--threads": config.threads})
    check_range(1, **{"--patience": config.patience})
    for name, least in _LEAST.items():
        check_range(least, **{f"--trainer.{name}": config.trainer[name]})
    if config.trainer.val_check_interval == 0:
        raise InputError(
            "--trainer.val_check_interval must be above 0, not 0; --trainer.limit_val_batches 0 turns "
            "validation off."
        )
    unvalidated = config.trainer.barebones or config.trainer.limit_val_batches == 0
    if config.patience is not None and unvalidated:
        raise InputError(
            "--patience needs validation, which --trainer.barebones or limit_val_batches turns off."
        )
    if config.init_from is not None:
        read_checkpoint(config.init_from)
    elif config.freeze:
        raise InputError("--freeze needs --init_from FILE, which gives what is frozen.")
    if config.ckpt_path is None and verb != "fit":
        raise InputError(
            f"{verb} needs a trained model: pass --ckpt_path FILE, the best checkpoint of a run lies in its "
            "folder under checkpoints/."
        )


def check_run_folder(folder: str | Path | None) -> None:
    """Refuse a folder for runs that nothing can be written into; it is made if it is missing."""
    if folder is None or "://" in str(folder):
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=str(folder)).close()
    except OSError as error:
        raise InputError(
            f"--trainer.default_root_dir {folder} is no folder to write into: {error.strerror}."
        ) from error
