"""The verbs fit, validate and test: LightningCLI with this project's defaults."""

import logging
import math
import sys
import warnings
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import torch
from jsonargparse import dict_to_namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import plstm_graph.datasets as datasets
from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.commands.configuration import (
    Parser,
    check_model,
    check_names,
    check_options,
    check_run_folder,
    in_one_sentence,
    model_options,
    short_name,
)
from plstm_graph.commands.launch import own_environment
from plstm_graph.commands.options import PROGRAM
from plstm_graph.commands.presets import classes_first
from plstm_graph.commands.report import LearningCurve, Result, print_scores
from plstm_graph.commands.resumption import MovableCheckpoint, SeedEpochs, WholeFiles
from plstm_graph.dag import Preparation
from plstm_graph.datasets import GraphDataModule
from plstm_graph.errors import InputError
from plstm_graph.metrics import ERRORS
from plstm_graph.models import GraphNetwork
from plstm_graph.reference import keep_reference
from plstm_graph.task import GraphTask

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


class GraphCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` for molecular graphs.

    ``fit`` ends with a test of the best checkpoint or the last, a picture of the learning curve and a table.

    Args:
        args: Command line; ``None`` takes ``sys.argv``.
    """

    datamodule: GraphDataModule
    model: GraphTask
    _result: Result | str = "The run has not ended."
    _logger: CSVLogger | None = None  # unless the configuration names its own

    def __init__(self, args: ArgsType = None) -> None:
        with in_one_sentence():
            self._carry_out(args)

    def _carry_out(self, args: ArgsType) -> None:
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
            type=int | None,
            default=None,
            help="CPU threads of torch; small graphs train fastest with one.",
        )
        parser.add_argument(
            "--patience",
            type=int | None,
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
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Start from encoder, blocks and branches of this checkpoint, whatever its targets; heads "
            "are new.",
        )
        parser.add_argument(
            "--freeze", type=bool, default=False, help="Train only what --init_from does not give."
        )
        for source, target in (
            ("num_tasks", "out_channels"),
            ("in_channels", "in_channels"),
            ("edge_dim", "edge_dim"),
        ):
            parser.link_arguments(
                f"data.{source}", f"model.network.init_args.{target}", apply_on="instantiate"
            )
        source, target = "data.descriptor_names", "model.network.init_args.descriptors"
        parser.link_arguments(source, target, len, apply_on="instantiate")
        for name in ("task", "metric", "target_names", "class_names", "unit", "descriptor_names"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for name in Preparation._fields:
            wanted = partial(_prepared, name)
            parser.link_arguments("model.network", f"data.init_args.{name}", wanted)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse what cannot work before anything is built."""
        if isinstance(args, list):
            args = [*args[:1], *classes_first(args[1:])]
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        arguments = map(str, sys.argv[1:] if args is None else args)
        typed = {part for argument in arguments for part in argument.split("=")}
        check_names(config, typed)
        check_options(config, self.config.subcommand)
        config.weights_only = True  # a checkpoint never runs code
        if config.ckpt_path is not None:
            trained = dict_to_namespace(read_checkpoint(config.ckpt_path)["hyper_parameters"])
            check_model(model_options(config.model), model_options(trained), set(map(short_name, typed)))

    def before_instantiate_classes(self) -> None:
        """Set the number of threads, and keep configurations of ``fit`` alone, which others do not fit."""
        if self.subcommand != "fit":
            self.save_config_callback = None
        threads = self._get(self.config, "threads")
        if threads is not None:
            torch.set_num_threads(threads)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add logger, progress bar and checkpoints unless the configuration names its own, or wants none."""
        config = self._get(self.config_init, "trainer")
        check_run_folder(config.default_root_dir)
        if config.barebones:
            if config.log_every_n_steps == self.trainer_defaults["log_every_n_steps"]:
                kwargs["log_every_n_steps"] = None
        elif config.logger is None:
            name = f"{self.datamodule.name}-{type(self.model.network).__name__.lower()}"
            kwargs["logger"] = self._logger = CSVLogger(config.default_root_dir, name=name)
        chosen = config.callbacks or []
        callbacks = [chosen] if isinstance(chosen, Callback) else list(chosen)
        if self.subcommand != "fit":
            callbacks = _without_averaging(callbacks)
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.enable_progress_bar is not False and not config.barebones and not own_bar:
            callbacks.append(RichProgressBar(leave=False))
        if self.subcommand == "fit":
            added = self._fit_callbacks(callbacks)
            if config.enable_checkpointing is False or config.barebones:
                added = [callback for callback in added if not isinstance(callback, ModelCheckpoint)]
            callbacks += added
        plugins = config.plugins or [WholeFiles()]
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        kwargs["plugins"] = plugins + own_environment(plugins)
        with in_one_sentence(ValueError, TypeError, RuntimeError, ImportError):
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _heed_labels(self) -> None:
        """Prepare the data, say what they are, and warn of labels that teach or select nothing."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        for sentence in self.datamodule.describe():
            rank_zero_only(print)(sentence)
        for warning in self.model.heed_labels(self.datamodule.train_targets, self.datamodule.val_targets):
            rank_zero_only(print)(f"warning: {warning}", file=sys.stderr)

    @property
    def _measure(self) -> str:
        """What selects epochs, in words."""
        part, _, name = self.model.monitor[0].partition("/")
        return f"{'training' if part == 'train' else 'validation'} {name}"

    def _fit_callbacks(self, chosen: list[Callback]) -> list[Callback]:
        self._heed_labels()
        monitor, mode = self.model.monitor
        # The training loss is known when the epoch ends, after validation.
        at_end = True if monitor == "train/loss" else None
        timers = [callback for callback in chosen if isinstance(callback, Timer)]
        limit = self._get(self.config_init, "trainer").max_time
        if timers and limit is not None:
            raise InputError("--trainer.max_time is a Timer of its own: leave that of trainer.callbacks out.")
        self.timer = timers[0] if timers else Timer(limit)  # counts on when a run is resumed
        unit = self.model.unit if monitor.rpartition("/")[2] in ERRORS else ""
        self.curve = LearningCurve(monitor, ", ".join(filter(None, (self._measure, unit))))
        callbacks: list[Callback] = [SeedEpochs(), *([] if timers else [self.timer]), self.curve]
        patience = self._get(self.config, "patience")
        if patience is not None:
            stopping = EarlyStopping(
                monitor, mode=mode, patience=int(patience), check_on_train_epoch_end=at_end
            )
            callbacks.append(stopping)
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
            save_on_train_epoch_end=at_end,
        )
        # Lightning's save_last follows the best; a run resumes from the last epoch, good or bad. It is
        # written after the best one, which it knows: an interruption between the two loses nothing.
        last = MovableCheckpoint(
            dirpath=folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=at_end
        )
        return [*callbacks, best, last]

    def take_weights(self) -> list[str]:
        """Start from another run's network, if one is named, and say in sentences what was taken."""
        source = self._get(self.config, "init_from")
        if not source:
            return []
        return self.model.start_from(read_checkpoint(source), self._get(self.config, "freeze"))

    def before_fit(self) -> None:
        """Take over weights, refuse to go on with other data, and remove what was left half-written."""
        for sentence in self.take_weights():
            rank_zero_only(print)(sentence)
        resumed = self._get(self.config, "ckpt_path")
        if resumed:
            self.model.check_resumption(read_checkpoint(resumed), self.datamodule)
        if resumed and self.trainer.is_global_zero:
            for unfinished in Path(resumed).parent.glob("*.unfinished"):
                unfinished.unlink()
        if self._logger is not None and self.trainer.is_global_zero:
            self.trainer.logger = own_logger(self._logger.save_dir, self._logger.name)

    def after_fit(self) -> None:
        """Save the learning curve, test the chosen checkpoint and print the closing table."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return self._end("A few batches were tried (--trainer.fast_dev_run); nothing was kept or tested.")
        if self.trainer.global_step == 0:
            return self._end(
                "Nothing was trained: the run ended before its first step (--trainer.max_epochs, max_steps, "
                "max_time or limit_train_batches)."
            )
        if self.trainer.barebones:
            return self._end("Nothing was measured or kept: --trainer.barebones only trains.")
        folder = Path(self.trainer.log_dir or ".")
        if self.trainer.is_global_zero:
            self.curve.save(folder / "learning_curve.png")
        # Before what follows, which gives the callbacks back what they knew at the tested epoch.
        seconds, epochs = self.timer.time_elapsed(), self.trainer.current_epoch
        kept = _without_averaging(self.trainer.callbacks)  # type: ignore[attr-defined]
        self.trainer.callbacks = kept  # type: ignore[attr-defined]
        epoch, path, val = self._chosen()
        if path and self.trainer.is_global_zero:
            keep_reference(path, self.datamodule)
        where = f"{epoch.capitalize()} checkpoint: {path}" if path else "No checkpoint was kept."
        metric = self.model.metric
        tests: Any = [{f"test/{metric}": math.nan}]
        baseline = {}
        if len(self.datamodule.rows.test):
            tests = self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False
            )
            targets = self.datamodule.train_targets, self.datamodule.test_targets
            baseline = self.model.baseline_metrics(*targets)
        if not tests:
            return self._end(f"Nothing was tested (--trainer.limit_test_batches).\nRun: {folder}\n{where}")
        [test] = tests
        if not self.trainer.is_global_zero:
            return None
        self._result = Result(
            dataset=self.datamodule.name,
            network=type(self.model.network).__name__,
            metric=metric,
            unit=self.model.unit if metric in ERRORS else "",
            val=math.nan if val is None or self.model.monitor[0] != f"val/{metric}" else val,
            test=test[f"test/{metric}"],
            baseline=float(baseline.get(f"test/{metric}", math.nan)),
            parameters=sum(parameter.numel() for parameter in self.model.network.parameters()),
            epochs=epochs,
            seconds=seconds,
        )
        title = f"{self.datamodule.name} {self.model.unit}".strip()
        print_scores(title, self.result, test, baseline)
        chosen = "no validation" if val is None else f"{epoch} {self._measure} {val:.3f}"
        print(f"{self.result.parameters:,} parameters, {seconds:.0f} s, {chosen}")
        if epoch == "last" != self._get(self.config, "test_epoch"):
            print("Validation has selected no epoch: the last one was tested.")
        print(f"Run: {folder}\n{where}")

    def after_validate(self) -> None:
        """Say how many rows were scored."""
        self._say_rows("validation", self.datamodule.rows.val)

    def after_test(self) -> None:
        """Likewise."""
        self._say_rows("test", self.datamodule.rows.test)

    def _say_rows(self, part: str, rows: torch.Tensor) -> None:
        if self.trainer.is_global_zero:
            print(f"{len(rows):,} {part} rows of {len(self.datamodule.dataset):,}.")

    def _chosen(self) -> tuple[str, str | None, float | None]:
        """Which epoch is tested, its checkpoint if one was kept, and its validation metric if it has any."""
        kept = [
            callback
            for callback in self.trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.best_model_path
        ]
        epoch, path = "last", kept[-1].best_model_path if kept else None
        if self._get(self.config, "test_epoch") == "best":
            for callback in kept:
                score = callback.best_model_score
                if score is not None:
                    epoch, path = "best", callback.best_model_path
                    if callback.monitor == self.model.monitor[0]:
                        return epoch, path, float(score)
                    break
        metrics = self.trainer.validate(
            self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False
        )
        val = metrics[0].get(self.model.monitor[0]) if metrics else None
        return epoch, path, None if val is None else float(val)

    def _end(self, reason: str) -> None:
        """Say why the run has no result."""
        self._result = reason
        if self.trainer.is_global_zero:
            print(reason)

    @property
    def result(self) -> Result:
        """Outcome of ``fit``.

        Raises:
            InputError: It has none.
        """
        if isinstance(self._result, str):
            raise InputError(self._result)
        return self._result


def own_logger(root: str, name: str) -> CSVLogger:
    """A logger whose folder no other run has, though both begin at once."""
    while True:
        logger = CSVLogger(root, name=name)  # of the first version that is not there
        try:
            if "://" not in root:
                Path(logger.log_dir).mkdir(parents=True)
        except FileExistsError:
            if Path(logger.log_dir).is_dir():
                continue
            raise
        return logger


def _without_averaging(callbacks: list[Callback]) -> list[Callback]:
    """Callbacks that leave the weights of a checkpoint, which were averaged and validated, as they are.

    After a fit, averaging would put the weights that it averaged in their place; without one it has none.
    """
    return [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def _prepared(name: str, network: Any) -> Any:
    """Return what the data prepare for a network: a field of its preparation."""
    if not network:
        return getattr(Preparation(), name)
    preparation = getattr(resolve_name(network.class_path), "preparation", GraphNetwork.preparation)
    return getattr(preparation(vars(network.init_args)), name)
