"""Training a network on molecular properties: loss, metrics, optimiser and schedule."""

import math
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torchmetrics import MeanMetric, MetricCollection

from plstm_graph.checkpoint import FORMAT, build_network, describe_network, read_checkpoint
from plstm_graph.errors import InputError
from plstm_graph.metrics import mean_prediction, metrics_of
from plstm_graph.models import GraphNetwork
from plstm_graph.models.fingerprint import FingerprintTask
from plstm_graph.predictor import Predictor, Task, check_finite


class Prediction(TypedDict):
    """Result of :meth:`GraphTask.predict_step` for a batch of B graphs and T targets or classes."""

    prediction: Tensor  # [B, T] in the targets' unit, or probabilities
    row: Tensor | None  # [B] int64, the graphs' rows in their table
    smiles: list[str] | None


class GraphTask(Predictor, LightningModule):
    r"""Regression or binary classification of graphs with any number of targets, or one choice of classes.

    A missing label is NaN and takes no part in loss or metrics. Regression minimises the squared
    error of standardised targets :math:`(y - \mu) / \sigma`, with mean and deviation of the
    training targets, which travel in the checkpoint; predictions and metrics are in the targets'
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
        metric: Score that selects checkpoints: ``"rmse"`` or ``"mae"``, ``"roc_auc"`` or
            ``"average_precision"``, ``"accuracy"``; by default the first of its task's.
        learning_rate: Highest learning rate.
        weight_decay: AdamW's decay of weight matrices; biases, norms and embeddings have none.
        warmup: Share of the training steps, 0 to 1.
        target_names: Names of the T targets or classes.
        unit: Unit of the targets, for reports.
        fingerprint_weight: Weight of an auxiliary loss in training: predict the graph's circular fingerprint
            from the embedding (:class:`~plstm_graph.models.fingerprint.FingerprintTask`). Helps where labels
            are few or one-sided; for categorical features only. 0 disables it.
        mixup: Parameter of manifold mixup (Verma et al., arXiv 1806.05236): in training, embeddings are mixed
            in pairs, and their losses too, by a share
            :math:`\lambda \sim \mathrm{Beta}(\text{mixup}, \text{mixup})` that is drawn in every step.
            Reduces overfitting. 0 disables it; 1 draws λ uniformly.

    Raises:
        InputError: An unknown task, a metric that it does not have, a negative weight or ``mixup``, or one of
            these for a network that is no :class:`~plstm_graph.models.GraphNetwork`.

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
        unit: str = "",
        fingerprint_weight: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__(network, task, target_names, unit)
        self.save_hyperparameters(ignore=["network"])
        self.save_hyperparameters({"network": describe_network(network)})
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.fingerprint_weight = fingerprint_weight
        self.mixup = mixup
        self.fingerprint_task = None
        for name, number in (("fingerprint_weight", fingerprint_weight), ("mixup", mixup)):
            if number < 0:
                raise InputError(f"{name} must be at least 0, not {number}.")
            if number and not hasattr(network, "branches"):
                raise InputError(f"{name} is for networks of this package; set it to 0.")
        if fingerprint_weight:
            self.fingerprint_task = FingerprintTask(network.node_channels)
        self.register_buffer("target_scale_known", torch.tensor(task != "regression"))
        collection = metrics_of(task, network.out_channels)
        self.metric: str = str(next(iter(collection))) if metric is None else metric
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
        """The validation metric that selects checkpoints, and which way it improves."""
        return f"val/{self.metric}", "min" if self.task == "regression" else "max"

    def fit_target_scale(self, targets: Tensor) -> None:
        """Take mean and deviation for standardisation from the training targets.

        Called at the start of training; a task whose scale is known already keeps it.

        Args:
            targets: [n, T], or [n, 1] of classes; NaN where a value is missing.

        Raises:
            InputError: A target has no finite value, or an infinite one.
        """
        self._check_targets(targets)
        for column in range(targets.size(1)):
            if targets[:, column].isnan().all():
                name = self.target_names[column] if self.target_names else column
                raise InputError(f"Target {name!r} has no value in the training split.")
        if self.target_scale_known:
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
            standardised = (targets - self.target_mean) / self.target_std
            loss = F.mse_loss(output[labelled], standardised[labelled])
        # The mean over no label at all is NaN; this batch then has nothing to teach.
        return loss if labelled.any() else output.sum() * 0.0

    def _targets(self, batch: Data) -> Tensor:
        if not isinstance(batch.y, Tensor):
            raise InputError("The batch has no targets y [num_graphs, T].")
        targets = batch.y.view(batch.num_graphs, -1).to(self.target_mean.dtype)
        self._check_targets(targets)
        return targets

    def _check_targets(self, targets: Tensor) -> None:
        outputs = self.target_mean.numel()
        columns = 1 if self.task == "multiclass" else outputs
        if targets.dim() != 2 or targets.size(1) != columns:
            raise InputError(
                f"Targets have shape {list(targets.shape)}, but the network predicts {columns} "
                "values per graph."
            )
        if targets.isinf().any():
            graph = int(targets.isinf().any(1).nonzero()[0])
            raise InputError(f"The target of graph {graph} is infinite; write NaN for missing values.")
        if self.task != "regression":
            known = targets[~targets.isnan()]
            last = outputs - 1 if self.task == "multiclass" else 1
            strange = known[(known != known.round()) | (known < 0) | (known > last)]
            if strange.numel():
                raise InputError(f"Classes are numbered from 0 to {last}, but a target is {strange[0]:g}.")

    def on_train_start(self) -> None:
        """Fit the standardisation on the training split."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and hasattr(datamodule, "train_targets"):
            targets = datamodule.train_targets
        else:
            batches = self.trainer.train_dataloader or []
            targets = torch.cat([self._targets(batch).cpu() for batch in batches])
        self.fit_target_scale(targets)

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
        loss.update(self._loss(output, targets), weight=size)
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
        """Write down the format of the checkpoint."""
        checkpoint["plstm_graph_format"] = FORMAT

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay, stepped every batch."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.parameters():
            groups[parameter.dim() > 1 and id(parameter) not in embeddings].append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": self.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
        )
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
