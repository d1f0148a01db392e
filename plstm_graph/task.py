"""Training a network on molecular properties: loss, metrics, optimiser and schedule."""

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torchmetrics import MeanMetric, MetricCollection

from plstm_graph.checkpoint import FORMAT, build_network, describe_network, read_checkpoint
from plstm_graph.errors import InputError
from plstm_graph.metrics import ERRORS, SELECTING, mean_prediction, metrics_of
from plstm_graph.models import GraphNetwork
from plstm_graph.models.fingerprint import FingerprintTask
from plstm_graph.other_run import difference, weights_to_take
from plstm_graph.predictor import Predictor, Task, check_finite
from plstm_graph.ranges import check_range
from plstm_graph.target_check import TargetCheck

#: Where checkpoints have the digests of the data that their task was trained on.
_DATA = "plstm_graph_data"

#: The share of the learning rate at which parts of a network are trained that come from another run.
_TAKEN_RATE = 0.1


class Prediction(TypedDict):
    """Result of :meth:`GraphTask.predict_step` for a batch of B graphs and T targets or classes."""

    prediction: Tensor  # [B, T] in the targets' unit, or probabilities
    row: Tensor | None  # [B] int64, the graphs' rows in their table
    smiles: list[str] | None


class GraphTask(Predictor, LightningModule):
    r"""Regression or binary classification of graphs with any number of targets, or one choice of classes.

    A missing label is NaN and takes no part in loss or metrics. Regression minimises the squared
    error of standardised targets :math:`(y - \mu) / \sigma`, with mean and deviation of the
    training targets, which travel in the checkpoint, or, for the metrics ``"mae"`` and ``"spearman"``, of
    their :class:`~plstm_graph.normal_scores.NormalScores`; predictions and metrics are in the targets'
    own unit. Classification minimises binary cross-entropy, multiclass cross-entropy among the classes,
    and both predict probabilities. If the network has several heads, the sum of their losses is minimised
    and their mean is logged.

    AdamW; the learning rate rises linearly over the first ``warmup`` share of all steps and then
    falls as half a cosine to zero.

    A checkpoint holds tensors and primitives only, and loads with
    ``GraphTask.load_from_checkpoint(path)``.

    Args:
        network: Graphs in, [num_graphs, T] out.
        task: ``"regression"``, ``"classification"``, or ``"multiclass"``: one target, which is the number
            of one of T classes.
        metric: Score that selects checkpoints: ``"rmse"``, ``"mae"`` or ``"spearman"``, ``"roc_auc"`` or
            ``"average_precision"``, ``"accuracy"``; by default the first of each of these.
        learning_rate: Highest learning rate.
        weight_decay: AdamW's decay of weight matrices; biases, norms and embeddings have none.
        warmup: Share of the training steps, 0 to 1.
        target_names: Names of the T targets or classes.
        class_names: Names of the two classes of each target of a classification, the positive one last.
        unit: Unit of the targets, for reports.
        descriptor_names: Names of the descriptors that the network reads beside a graph.
        fingerprint_weight: Weight of an auxiliary loss in training: predict the graph's circular fingerprint
            from the embedding (:class:`~plstm_graph.models.fingerprint.FingerprintTask`). Helps where labels
            are few or one-sided; for categorical features only. 0 disables it.
        mixup: Parameter of manifold mixup (Verma et al., arXiv 1806.05236): in training, embeddings are mixed
            in pairs, and their losses too, by a share
            :math:`\lambda \sim \mathrm{Beta}(\text{mixup}, \text{mixup})` that is drawn in every step.
            Reduces overfitting. 0 disables it; 1 draws λ uniformly.

    Raises:
        InputError: An unknown task, a metric that it does not have, a number that is out of its range, or a
            ``fingerprint_weight`` or ``mixup`` for a network that is no
            :class:`~plstm_graph.models.GraphNetwork`.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Batch
        >>> from plstm_graph import PLSTM
        >>> from plstm_graph.chem import smiles_to_data
        >>> from plstm_graph.task import GraphTask
        >>> network = PLSTM(out_channels=1, hidden_channels=32, num_layers=2)
        >>> task = GraphTask(network, "regression", target_names=["logS"], learning_rate=2e-3)
        >>> batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in ("CCO", "c1ccccc1O")])
        >>> batch.y = torch.tensor([[1.1], [0.0]])
        >>> task.fit_target_scale(batch.y)
        >>> task(batch).shape  # in the unit of the targets
        torch.Size([2, 1])
    """

    target_scale_known: Tensor

    def __init__(
        self,
        network: GraphNetwork,
        task: Task = "regression",
        metric: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: float = 0.1,
        target_names: list[str] | None = None,
        class_names: list[list[str]] | None = None,
        unit: str = "",
        descriptor_names: list[str] | None = None,
        fingerprint_weight: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        check_range(
            0,
            1000,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            fingerprint_weight=fingerprint_weight,
            mixup=mixup,
        )
        check_range(0, 1, warmup=warmup)
        super().__init__(network, task, target_names, class_names, unit, descriptor_names, metric)
        self.targets = TargetCheck(task, network.out_channels, target_names)
        self.save_hyperparameters(ignore=["network"])
        self.save_hyperparameters({"network": describe_network(network)})
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.fingerprint_weight = fingerprint_weight
        self.mixup = mixup
        self._selecting_loss: str | None = None
        self._trained_on: dict[str, str] | None = None
        self._taken: set[nn.Parameter] = set()  # from another run
        self.fingerprint_task = None
        for name, number in (("fingerprint_weight", fingerprint_weight), ("mixup", mixup)):
            if number and not hasattr(network, "branches"):
                raise InputError(f"{name} is for networks of this package; set it to 0.")
        if fingerprint_weight:
            self.fingerprint_task = FingerprintTask(network.node_channels)
        self.register_buffer("target_scale_known", torch.tensor(task != "regression"))
        collection = metrics_of(task, network.out_channels)
        self.metric = SELECTING[task] if metric is None else metric
        if self.metric not in collection:
            raise InputError(
                f"metric of a {task} must be {' or '.join(map(repr, collection))}, not {metric!r}."
            )
        # Lightning's own mean over processes rounds the number of graphs of each to a whole one.
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.val_metrics = collection.clone(prefix="val/")
        self.test_metrics = collection.clone(prefix="test/")

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """What selects checkpoints, and which way it improves: the validation metric, or a loss.

        It is a loss after :meth:`heed_labels` if the metric is undefined.
        """
        if self._selecting_loss is not None:
            return self._selecting_loss, "min"
        return f"val/{self.metric}", "min" if self.metric in ERRORS else "max"

    def heed_labels(self, train_targets: Tensor, val_targets: Tensor) -> list[str]:
        """Have a loss select checkpoints if the validation labels leave the metric undefined.

        Args:
            train_targets: [n, T], or [n, 1] of classes; NaN where a value is missing.
            val_targets: [m, T], likewise.

        Returns:
            Sentences that warn of this, and of targets of which nothing can be learned.

        Raises:
            InputError: A target has no value in training.
        """
        self.targets.check_known(train_targets)
        self._selecting_loss, undefined = self.targets.unscored(val_targets, self.metric) or (None, None)
        return [sentence for sentence in (self.targets.constant(train_targets), undefined) if sentence]

    def start_from(self, checkpoint: dict[str, Any], freeze: bool = False) -> list[str]:
        """Take encoder, blocks and branches from the network of another run, whatever its targets.

        Heads and what reads descriptors stay new. What was taken is trained at a tenth of the learning rate.

        Args:
            checkpoint: That of the run, as :func:`~plstm_graph.checkpoint.read_checkpoint` reads it.
            freeze: Keep what was taken as it is.

        Returns:
            Sentences on what was taken, what fits nowhere here, and what starts from nothing.

        Raises:
            InputError: Nothing fits.
        """
        taken, sentences = weights_to_take(self.network, checkpoint)
        self.network.load_state_dict(taken, strict=False)
        for name, parameter in self.network.named_parameters():
            if name in taken:
                parameter.requires_grad_(not freeze)
                self._taken.add(parameter)
        return sentences

    def fit_target_scale(self, targets: Tensor) -> None:
        """Take mean and deviation for standardisation from the training targets.

        Called at the start of training; a task whose scale is known already keeps it.

        Args:
            targets: [n, T], or [n, 1] of classes; NaN where a value is missing.

        Raises:
            InputError: A target has no finite value, or an infinite one.
        """
        targets = targets.to(self.target_mean.dtype)
        self.targets.check(targets)
        self.targets.check_known(targets)
        if self.target_scale_known:
            return
        if self.normal_scores is not None:
            self.normal_scores.fit(targets)
            self.target_scale_known.fill_(True)
            return
        targets = targets.double()
        mean = targets.nanmean(0)
        std = (targets - mean).square().nanmean(0).sqrt()
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(std > 0, std, 1.0))
        self.target_scale_known.fill_(True)

    def baseline_metrics(self, train_targets: Tensor, test_targets: Tensor) -> dict[str, Tensor]:
        """Score the prediction of every target's training mean with the test metrics.

        Of classes the mean is how often each occurs. Of several processes all have to call this, as every
        metric gathers what they know.

        Args:
            train_targets: [n, T], NaN where a value is missing.
            test_targets: [m, T], NaN where a value is missing.
        """
        mean = mean_prediction(self.task, self.target_mean.numel(), train_targets)
        metrics = self.test_metrics.clone()
        metrics.reset()
        metrics.update(mean.expand(len(test_targets), -1), test_targets)
        return metrics.compute()

    def _loss(self, output: Tensor, targets: Tensor) -> Tensor:
        labelled = ~targets.isnan()
        if self.task == "classification":
            loss = F.binary_cross_entropy_with_logits(output[labelled], targets[labelled])
        elif self.task == "multiclass":
            loss = F.cross_entropy(output[labelled.squeeze(1)], targets[labelled].long())
        else:
            loss = F.mse_loss(output[labelled], self._standardise(targets)[labelled])
        # The mean over no label at all is NaN; this batch then has nothing to teach.
        return loss if labelled.any() else output.sum() * 0.0

    def _standardise(self, targets: Tensor) -> Tensor:
        if self.normal_scores is not None:
            return self.normal_scores(targets)
        return (targets - self.target_mean) / self.target_std

    def _targets(self, batch: Data) -> Tensor:
        if not isinstance(batch.y, Tensor):
            raise InputError("The batch has no targets y [num_graphs, T].")
        targets = batch.y.view(batch.num_graphs, -1).to(self.target_mean.dtype)
        self.targets.check(targets, getattr(batch, "row", None))
        return targets

    def on_train_start(self) -> None:
        """Fit the standardisation on the training split, and note down what the data are."""
        datamodule = getattr(self.trainer, "datamodule", None)
        self._trained_on = getattr(datamodule, "digests", None)
        loader = self.trainer.train_dataloader
        batches = [] if loader is None else loader
        encoder = getattr(self.network, "descriptor_encoder", None)
        if encoder is not None:
            known = getattr(datamodule, "train_descriptors", None)
            if known is None:
                known = torch.cat([encoder.check(batch.get("descriptors")) for batch in batches])
            encoder.fit(known)
        if datamodule is not None and hasattr(datamodule, "train_targets"):
            targets = datamodule.train_targets.to(self.target_mean.dtype)
            self.targets.check(targets, getattr(datamodule, "train_rows", None))
        else:
            targets = torch.cat([self._targets(batch).cpu() for batch in batches])
        self.fit_target_scale(targets)
        graphs = getattr(datamodule, "train_graphs", None) or batches
        tried = int(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        self._fit_branches(islice(graphs, tried or None))

    def _fit_branches(self, batches: Iterable[Data]) -> None:
        """Have branches learn what has a closed form from batches in any order."""

        def learned(batch: Data) -> Tensor:
            targets = self._targets(batch)
            if self.task == "regression":
                targets = self._standardise(targets.to(self.target_mean))
            return targets.cpu()

        if hasattr(self.network, "fit_branches"):
            self.network.fit_branches(batches, learned, self.task)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """Return the loss of a batch, with that of the second task if there is one."""
        size, targets = batch.num_graphs, self._targets(batch)
        several_branches = len(getattr(self.network, "branches", ())) > 1
        if self.fingerprint_task is None and not self.mixup and not several_branches:
            loss = total = self._loss(self._output(batch), targets)
        else:  # all need what is between the blocks and the heads
            check_finite(batch)
            embedding = self.network.embed(batch)
            losses = torch.stack(self._mixed_losses(embedding, targets))
            loss, total = losses.mean(), losses.sum()
            if self.fingerprint_task is not None:
                nodes = embedding[:, : self.network.node_channels]
                fingerprint_loss = self.fingerprint_task(nodes, self.network.graphs(batch))
                total = total + self.fingerprint_weight * fingerprint_loss
                self._log_training("train/fingerprint_loss", fingerprint_loss, size)
        self._log_training("train/loss", loss, size)
        return total

    def _mixed_losses(self, embedding: Tensor, targets: Tensor) -> list[Tensor]:
        """Losses of what the heads make of embeddings [B, E], mixed if the task does so."""
        if not self.mixup:
            return [self._loss(output, targets) for output in self.network.outputs(embedding)]
        share = torch.distributions.Beta(self.mixup, self.mixup).sample().item()
        other = torch.randperm(len(embedding), device=embedding.device)
        return [
            (1 - share) * self._loss(output, targets) + share * self._loss(output, targets[other])
            for output in self.network.outputs(embedding.lerp(embedding[other], share))
        ]

    def _log_training(self, name: str, loss: Tensor, size: int) -> None:
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)

    def _evaluate(self, batch: Data, stage: str, loss: MeanMetric, metrics: MetricCollection) -> None:
        output, targets = self._output(batch), self._targets(batch)
        size = batch.num_graphs
        metrics.update(self._finish(output), targets)
        loss.update(self._loss(output, targets), weight=(~targets.isnan()).sum())
        self.log(f"{stage}/loss", loss, batch_size=size)
        self.log_dict(metrics, prog_bar=True, batch_size=size)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """Log loss and metrics of the validation split."""
        self._evaluate(batch, "val", self.val_loss, self.val_metrics)

    def test_step(self, batch: Data, batch_idx: int) -> None:
        """Log loss and metrics of the test split."""
        self._evaluate(batch, "test", self.test_loss, self.test_metrics)

    def predict_step(self, batch: Data, batch_idx: int) -> Prediction:
        """Return predictions with the graphs' rows and SMILES where the batch has them."""
        return {
            "prediction": self(batch),
            "row": getattr(batch, "row", None),
            "smiles": getattr(batch, "smiles", None),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the format of the checkpoint, and what the data of its training are."""
        checkpoint["plstm_graph_format"] = FORMAT
        # What branches have fitted is no weight, and copies for averages are made before.
        fitted = {name: state for name, state in self.state_dict().items() if name.endswith("_extra_state")}
        checkpoint["state_dict"] |= fitted
        if self._trained_on is not None:
            checkpoint[_DATA] = self._trained_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to train, validate or test with a checkpoint that was trained for something else."""
        self._trained_on = checkpoint.get(_DATA)
        if self._trainer is None:  # load_from_checkpoint, by which arguments may be changed
            return
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.check_resumption(checkpoint, getattr(self.trainer, "datamodule", None))
        elif found := difference(self, checkpoint, self.strict_loading):
            raise InputError(f"{found}; pass another checkpoint, or other data.")

    def check_resumption(self, checkpoint: dict[str, Any], datamodule: Any = None) -> None:
        """Refuse to go on with the training of a checkpoint that was begun with something else.

        Args:
            checkpoint: Content of the file.
            datamodule: Data to go on with; only :class:`~plstm_graph.datasets.GraphDataModule` are compared.

        Raises:
            InputError: The checkpoint is of another task, other targets, features, graphs, another split or
                network.
        """
        found = difference(self, checkpoint, self.strict_loading)
        trained, asked = checkpoint.get(_DATA), getattr(datamodule, "digests", None)
        if found is None and trained is not None and asked is not None:
            others = [name for name in asked if trained.get(name) != asked[name]]
            if others:
                found = f"The checkpoint was trained with other {' and '.join(others)} than this run has"
        if found is not None:
            raise InputError(f"{found}; leave --ckpt_path out to train from the start.")

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay, stepped every batch."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            decays = parameter.dim() > 1 and id(parameter) not in embeddings
            rate = self.learning_rate * (_TAKEN_RATE if parameter in self._taken else 1.0)
            groups.setdefault((self.weight_decay if decays else 0.0, rate), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": group, "weight_decay": decay, "lr": rate}
                for (decay, rate), group in sorted(groups.items(), key=lambda item: item[0], reverse=True)
            ]
        )
        if self.trainer.estimated_stepping_batches == math.inf:
            raise InputError("The learning rate falls until the training ends: set max_epochs or max_steps.")
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.warmup * steps)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **kwargs: Any
    ) -> Self:
        """Build network and task from a checkpoint, with its weights.

        Args:
            checkpoint_path: File written by a Lightning trainer or by ``train.py``.
            **kwargs: Further arguments of Lightning's method of this name.

        Raises:
            InputError: The file is missing, unreadable, or no checkpoint of this class.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        if "network" not in kwargs:
            kwargs["network"] = build_network(checkpoint["hyper_parameters"]["network"])
        kwargs["weights_only"] = True
        return super().load_from_checkpoint(checkpoint_path, **kwargs)
