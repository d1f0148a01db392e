"""The verbs fit, validate and test: LightningCLI with this project's defaults."""

import inspect
import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import Namespace, dict_to_namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import plstm_graph.datasets as datasets
from plstm_graph.checkpoint import NETWORKS, read_checkpoint
from plstm_graph.commands.options import PROGRAM
from plstm_graph.commands.presets import PRESETS
from plstm_graph.commands.report import LearningCurve, print_table
from plstm_graph.commands.resumption import MovableCheckpoint, SeedEpochs, WholeFiles
from plstm_graph.dag import Preparation
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.seeds import check_seed
from plstm_graph.errors import InputError
from plstm_graph.models import GraphNetwork
from plstm_graph.task import GraphTask

_PACKAGES = ("plstm_graph", "lightning", "torch")

# The parser finds a class by its name alone among those that are loaded.
for name in datasets.__all__:
    getattr(datasets, name)

# What remains of Lightning's messages concerns its own internals, or loader processes, which small
# graphs held in memory do not need.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
warnings.filterwarnings("ignore", message=".*does not have many workers")
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")


class Parser(LightningArgumentParser):
    """Reports a wrong command line as an :class:`InputError` in place of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message in one line."""
        key = message.partition(":")[0]
        presets = f"presets are {', '.join(PRESETS)}"
        # Of a value that fits no member of a union, the message gives one reason per member.
        lines = [line.strip() for line in message.partition("Errors:")[2].splitlines()]
        reasons = [line[2:] for line in lines if line[:2] == "- " and "NoneType" not in line]
        if "value: None" in message or "is abstract" in message:
            text = f"{key} is missing; pass --config NAME; {presets}"
        elif reasons:
            text = f"{key}: {'; '.join(reasons)}"
        else:
            text = " ".join(message.split())
        if key == 'Parser key "config"':
            text += f"; {presets}"
        if key == 'Parser key "model.network"':
            text = f"{text.removesuffix('.')}; networks are {', '.join(NETWORKS)}"
        raise InputError(text.removesuffix(".") + ".") from ex


@dataclass(frozen=True)
class Result:
    """Outcome of one training run; ``val``, ``test`` and ``baseline`` are values of ``metric``."""

    dataset: str
    network: str
    metric: str
    unit: str
    val: float
    test: float
    baseline: float
    parameters: int
    epochs: int
    seconds: float


class GraphCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` for molecular graphs.

    ``fit`` ends with a test of the best checkpoint or the last, a picture of the learning curve and a table.

    Args:
        args: Command line; ``None`` takes ``sys.argv``.
    """

    datamodule: GraphDataModule
    model: GraphTask
    result: Result

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            GraphTask,
            GraphDataModule,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 100,
                "deterministic": True,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 1,
                "default_root_dir": "runs",
                "enable_model_summary": False,
            },
            parser_kwargs={"prog": PROGRAM},
            auto_configure_optimizers=False,
            # GraphTask writes down how to build itself, without the data module's classes.
            load_from_checkpoint_support=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's but ``predict``, which takes no data module (:mod:`plstm_graph.commands.predict`)."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Say everything once: the data decide on features and targets, the network on the orientation."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of torch; small graphs train fastest with one.",
        )
        parser.add_argument(
            "--patience",
            type=PositiveInt | None,
            default=None,
            help="Stop after this many epochs in which the validation metric did not improve.",
        )
        parser.add_argument(
            "--test_epoch",
            type=Literal["best", "last"],
            default="best",
            help="Which epoch fit tests: the best on validation graphs, or the last, where these are few or "
            "unlike the test graphs and single one out by chance.",
        )
        for source, target in (
            ("num_tasks", "out_channels"),
            ("in_channels", "in_channels"),
            ("edge_dim", "edge_dim"),
        ):
            parser.link_arguments(
                f"data.{source}", f"model.network.init_args.{target}", apply_on="instantiate"
            )
        for name in ("task", "metric", "target_names", "unit"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for name in Preparation._fields:
            wanted = partial(_prepared, name)
            parser.link_arguments("model.network", f"data.init_args.{name}", wanted)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse what cannot work before anything is built."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        arguments = map(str, sys.argv[1:] if args is None else args)
        typed = {part for argument in arguments for part in argument.split("=")}
        _check_names(config, typed)
        check_seed(config.seed_everything, "--seed_everything")
        config.weights_only = True  # a checkpoint never runs code
        if config.ckpt_path is not None:
            trained = dict_to_namespace(read_checkpoint(config.ckpt_path)["hyper_parameters"])
            _check_model(_model_options(config.model), _model_options(trained), set(map(_short, typed)))
        elif self.config.subcommand != "fit":
            raise InputError(
                f"{self.config.subcommand} needs a trained model: pass --ckpt_path FILE, the best "
                "checkpoint of a run lies in its folder under checkpoints/."
            )

    def before_instantiate_classes(self) -> None:
        """Set the number of threads."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            torch.set_num_threads(threads)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add logger, progress bar and checkpoints unless the configuration names its own."""
        config = self._get(self.config_init, "trainer")
        if config.logger is None:
            name = f"{self.datamodule.name}-{type(self.model.network).__name__.lower()}"
            kwargs["logger"] = CSVLogger(config.default_root_dir, name=name)
        chosen = config.callbacks or []
        callbacks = [chosen] if isinstance(chosen, Callback) else list(chosen)
        if self.subcommand != "fit":
            callbacks = _without_averaging(callbacks)
        if config.enable_progress_bar is not False:
            callbacks.append(RichProgressBar(leave=False))
        if self.subcommand == "fit":
            callbacks += self._fit_callbacks(callbacks)
        if config.plugins is None:
            kwargs["plugins"] = [WholeFiles()]
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _fit_callbacks(self, chosen: list[Callback]) -> list[Callback]:
        monitor, mode = self.model.monitor
        self.timer = Timer()  # counts on when a run is resumed
        self.curve = LearningCurve(monitor, ", ".join(filter(None, (self.model.metric, self.model.unit))))
        callbacks: list[Callback] = [SeedEpochs(), self.timer, self.curve]
        patience = self._get(self.config, "patience")
        if patience is not None:
            callbacks.append(EarlyStopping(monitor, mode=mode, patience=int(patience)))
        if any(isinstance(callback, ModelCheckpoint) for callback in chosen):
            if self._get(self.config, "test_epoch") == "last":
                raise InputError(
                    "--test_epoch last is for the checkpoints that fit writes itself: leave ModelCheckpoint "
                    "out of trainer.callbacks."
                )
            return callbacks
        resumed = self._get(self.config, "ckpt_path")
        # A resumed run goes on with its own best and last checkpoint.
        folder = Path(resumed).parent if resumed else None
        best = MovableCheckpoint(
            dirpath=folder,
            monitor=monitor,
            mode=mode,
            filename="best-{epoch}",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        # Lightning's save_last follows the best; a run resumes from the last epoch, good or bad. It is
        # written after the best one, which it knows: an interruption between the two loses nothing.
        last = MovableCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
        return [*callbacks, best, last]

    def before_fit(self) -> None:
        """Remove what a run that was killed left half-written beside its checkpoints."""
        resumed = self._get(self.config, "ckpt_path")
        if resumed and self.trainer.is_global_zero:
            for unfinished in Path(resumed).parent.glob("*.unfinished"):
                unfinished.unlink()

    def after_fit(self) -> None:
        """Save the learning curve, test the chosen checkpoint and print the closing table."""
        checkpoint = self.trainer.checkpoint_callback
        dry = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if dry or not isinstance(checkpoint, ModelCheckpoint) or not checkpoint.best_model_path:
            return
        if checkpoint.best_model_score is None:
            print(f"Nothing was left to train; test {checkpoint.best_model_path} with {PROGRAM} test.")
            return
        folder = Path(self.trainer.log_dir or ".")
        if self.trainer.is_global_zero:
            self.curve.save(folder / "learning_curve.png")
        # Before what follows, which gives the callbacks back what they knew at the tested epoch.
        seconds, epochs = self.timer.time_elapsed(), self.trainer.current_epoch
        val, path = float(checkpoint.best_model_score), checkpoint.best_model_path
        metrics: Mapping[str, Any] = self.trainer.callback_metrics
        kept = _without_averaging(self.trainer.callbacks)  # type: ignore[attr-defined]
        self.trainer.callbacks = kept  # type: ignore[attr-defined]
        epoch = self._get(self.config, "test_epoch")
        if epoch == "last":
            path = self.trainer.checkpoint_callbacks[-1].best_model_path  # type: ignore[attr-defined]
            if not metrics:  # a run that was killed between its last epoch and its test
                [metrics] = self.trainer.validate(
                    self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False
                )
            val = float(metrics[self.model.monitor[0]])
        [test] = self.trainer.test(
            self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False
        )
        baseline = self.model.baseline_metrics(self.datamodule.train_targets, self.datamodule.test_targets)
        if not self.trainer.is_global_zero:
            return
        metric = self.model.metric
        self.result = Result(
            dataset=self.datamodule.name,
            network=type(self.model.network).__name__,
            metric=metric,
            unit=self.model.unit,
            val=val,
            test=test[f"test/{metric}"],
            baseline=float(baseline[f"test/{metric}"]),
            parameters=sum(parameter.numel() for parameter in self.model.network.parameters()),
            epochs=epochs,
            seconds=seconds,
        )
        rows = [
            {
                "test": name.removeprefix("test/"),
                self.result.network: f"{test[name]:.3f}",
                "training mean": f"{float(value):.3f}",
            }
            for name, value in baseline.items()
        ]
        print_table(f"{self.datamodule.name} {self.model.unit}".strip(), rows)
        print(
            f"{self.result.parameters:,} parameters, {seconds:.0f} s, "
            f"{epoch} validation {metric} {self.result.val:.3f}\n"
            f"Run: {folder}\n{epoch.capitalize()} checkpoint: {path}"
        )


def _without_averaging(callbacks: list[Callback]) -> list[Callback]:
    """Callbacks that leave the weights of a checkpoint, which were averaged and validated, as they are.

    After a fit, averaging would put the weights that it averaged in their place; without one it has none.
    """
    return [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def _check_names(value: Any, command_line: set[str], key: str = "") -> None:
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
        for part, inner in vars(value).items() if isinstance(value, Namespace) else value.items():
            _check_names(inner, command_line, f"{key}.{part}".strip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_names(inner, command_line, key)
    elif inspect.isroutine(value) or inspect.isclass(value):
        raise InputError(f"{key} names a function, {value!r}; a configuration cannot hold functions.")


def _check_model(asked: dict[str, Any], trained: dict[str, Any], command_line: set[str]) -> None:
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


def _model_options(model: Namespace) -> dict[str, Any]:
    """A model's settings by the names of their options, classes without their packages."""
    options = {_short(f"--model.{key}"): value for key, value in vars(model.as_flat()).items()}
    options["--model.network"] = str(options.get("--model.network")).rpartition(".")[2]
    return options


def _short(option: str) -> str:
    return option.replace(".init_args", "").removesuffix(".class_path")


def _prepared(name: str, network: Any) -> Any:
    """Return what the data prepare for a network: a field of its preparation."""
    if not network:
        return getattr(Preparation(), name)
    preparation = getattr(resolve_name(network.class_path), "preparation", GraphNetwork.preparation)
    return getattr(preparation(vars(network.init_args)), name)
