"""Suites of data sets, the models that are run on them, and what a run is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from plstm_graph import datasets
from plstm_graph.checkpoint import NETWORKS, argument_names
from plstm_graph.commands.presets import read_preset
from plstm_graph.dag import Preparation
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.splits import SCAFFOLD_FOLDS
from plstm_graph.datasets.tu import FOLDS as TU_FOLDS
from plstm_graph.errors import InputError
from plstm_graph.models import GaussianProcess, LocalNetwork


@dataclass(frozen=True)
class Suite:
    """Data sets under one protocol.

    Args:
        sets: What is run by default.
        data: The class of the data.
        preset: The one recipe of all sets but those that have a preset of their own.
        own: Whether ``sets`` have presets of their names.
        further: Whether other sets of the class can be named.
        arguments: Of the class, beside ``dataset_name``.
        named: What the class's ``dataset_name`` begins with, before the set's name, or None if it takes none.
        folds: Number of folds, of which each is the test set once.
        seeds: Number of seeds by default.
        seed_splits: Whether a run's seed parts training rows from validation rows too.
        molecules: Whether graphs are molecules, which other programs can read.
        references: File of published scores.
        also: A further score that tables show.
    """

    sets: tuple[str, ...]
    data: str
    preset: str
    own: bool = False
    further: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    named: str | None = ""
    folds: int = 0
    seeds: int = 3
    seed_splits: bool = False
    molecules: bool = True
    references: str = ""
    also: str = ""

    def called(self, name: str) -> str:
        """The set of this name.

        Raises:
            InputError: There is none.
        """
        name = name.lower() if self.own and name.lower() in self.sets else name
        if name not in self.sets and not self.further:
            raise InputError(f"{name!r} is no data set of this table: {', '.join(self.sets)}.")
        return name


#: The preset that the verb ``train`` has for any table.
RECIPE = "table"

SUITES = {
    "tdc": Suite(
        (
            *("bbb_martins", "bioavailability_ma", "clearance_hepatocyte_az", "clearance_microsome_az"),
            *("cyp2c9_veith", "cyp2d6_substrate_carbonmangels", "cyp2d6_veith"),
            *("cyp3a4_substrate_carbonmangels", "cyp3a4_veith", "dili", "herg", "hia_hou"),
            *("lipophilicity_astrazeneca", "ppbr_az", "solubility_aqsoldb", "vdss_lombardo"),
        ),
        *("TDC", RECIPE),
        further=True,
        seeds=5,
        seed_splits=True,
        references="tdc_admet.csv",
    ),
    "moleculeace": Suite(
        (
            *(f"CHEMBL{number}_EC50" for number in (2047, 218, 235, 237, 239, 3979, 4616)),
            *(f"CHEMBL{number}_Ki" for number in (1862, 1871, 204, 214, 228, 231, 234, 237, 244, 264)),
            *(f"CHEMBL{number}_Ki" for number in (2835, 2971, 4203)),
        ),
        *("MoleculeACE", RECIPE),
        further=True,
        seeds=5,
        seed_splits=True,
        references="moleculeace.csv",
    ),
    "peptides": Suite(("peptides-func",), "PeptidesFunc", "peptides", named=None),
    "lipids": Suite(("lnpdb",), "Lipids", "lnpdb", named=None, also="pearson"),
    "tu": Suite(
        ("mutag", "nci1", "proteins"), "TU", "mutag", True, True, folds=TU_FOLDS, seeds=1, molecules=False
    ),
    "ogb": Suite(
        (
            *("molesol", "molfreesolv", "mollipo", "molbace", "molbbbp", "molclintox", "molsider"),
            *("moltox21", "moltoxcast", "molhiv", "molmuv", "molpcba"),
        ),
        *("OGB", RECIPE),
        named="ogbg-",
    ),
    "moleculenet": Suite(("esol", "freesolv", "lipo", "sider", "tox21", "hiv"), "MoleculeNet", RECIPE),
}  # fmt: skip
SUITES["tu-fair"] = replace(SUITES["tu"], arguments={"folds": "fair"})

#: Where each kind of data module has its files below ``--root``.
FOLDERS = {
    "OGB": "ogb",
    "MoleculeNet": "moleculenet",
    "TU": "tu",
    "TDC": "tdc_admet",
    "MoleculeACE": "moleculeace",
    "PeptidesFunc": "lrgb",
    "Lipids": "lnpdb",
}


@dataclass(frozen=True)
class Model:
    """A row of the table: a network, and what it has other than the preset says.

    Args:
        label: What the row is called.
        network: Name of the class.
        changes: Arguments in place of the preset's.
        bare: Whether the preset's branches and descriptors are left out.
        process: Whether the preset's Gaussian process predicts alone, which needs no training.
    """

    label: str
    network: str
    changes: dict[str, str] = field(default_factory=dict)
    bare: bool = False
    process: bool = False

    @property
    def options(self) -> list[str]:
        """The changes as options of ``plstm-graph fit``."""
        changed = [f"--model.network.init_args.{name}={value}" for name, value in self.changes.items()]
        return changed + ["--trainer.max_epochs=1"] * self.process


FOREST, BOOSTING, CHEMPROP, JOINED = "forest", "boosting", "chemprop", "-and-"
PROCESS = "process"
_LOCAL = [name for name, network in NETWORKS.items() if issubclass(network, LocalNetwork)]
_PLAIN = {"walk_length": "0", "jk": "last"}
_SUMS = _PLAIN | {"jk": "cat", "readout": "sum"}
#: PLSTM without its parts, one by one.
_PLSTM = {"plstm": Model("PLSTM", "PLSTM")} | {
    f"plstm-{name}": Model(f"PLSTM, {label}", "PLSTM", changes)
    for name, label, changes in (
        ("p", "P-mode alone", {"mode": "P"}),
        ("d", "D-mode alone", {"mode": "D"}),
        ("alternate", "P- and D-mode in turn", {"mode": "alternate"}),
        ("one-way", "one direction", {"bidirectional": "false"}),
        ("center", "from the centre", {"orientation": "center", "roots": "0"}),
        ("bfs", "from an end", {"orientation": "bfs", "roots": "0"}),
        ("canonical", "canonical order", {"orientation": "canonical", "roots": "0"}),
        ("index", "index order", {"orientation": "index", "roots": "0"}),
        ("roots", "four roots a step", {"roots": "4"}),
        ("every-block", "a scan in every block", {"scan_every": "1"}),
        ("one-scan", "one scan", {"scan_every": "4"}),
        ("no-local", "no message passing", {"local": "false", "scan_every": "1"}),
        ("no-walks", "no walk encodings", {"walk_length": "0"}),
        ("plain", "no walk encodings, last block read out", _PLAIN),
    )
}
#: Beside sets' own presets, other networks plain, with sums of every block, and with all that presets give
#: PLSTM beside its scans.
MODELS = (
    _PLSTM
    | {name.lower(): Model(name, name, _PLAIN) for name in _LOCAL}
    | {f"{name.lower()}-sum": Model(f"{name}, sums of every block", name, _SUMS) for name in _LOCAL}
    | {f"{name.lower()}-encoded": Model(f"{name}, as PLSTM", name) for name in _LOCAL}
)


def models_of(name: str) -> dict[str, Model]:
    """This package's networks by the names they have in a suite.

    Where all sets have one recipe, other networks have all of it but its scans; rows of nodes alone lack its
    branches.
    """
    suite = SUITES[name]
    if suite.own:
        return MODELS
    models = _PLSTM | {network.lower(): Model(f"{network}, same recipe", network) for network in _LOCAL}
    branches = read_preset(suite.preset)["model"]["network"]["init_args"].get("branches")
    if not branches:
        return models
    if any(branch["class_path"] == GaussianProcess.__name__ for branch in branches):
        models[PROCESS] = Model("Gaussian process alone", "PLSTM", process=True)
    others = _PLSTM | {network.lower(): Model(network, network) for network in _LOCAL}
    return models | {
        f"{name}-nodes": replace(model, label=f"{model.label}, nodes alone", bare=True)
        for name, model in others.items()
    }


def others_of(name: str) -> list[str]:
    """Names of what is no network of this package."""
    return [FOREST, BOOSTING, CHEMPROP] if SUITES[name].molecules else [FOREST]


def label_of(suite: str, model: str) -> str:
    """What a table calls a model."""
    models = models_of(suite)
    return " and ".join(models[part].label if part in models else part for part in model.split(JOINED))


@dataclass(frozen=True)
class Run:
    """One model on one data set with one seed, and on one fold if there are folds."""

    dataset: str
    model: str
    seed: int
    fold: int | None
    suite: str

    @property
    def name(self) -> str:
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.dataset}/{self.model}-seed{self.seed}{fold}"

    @property
    def network(self) -> Model | None:
        """The network, if it is one of this package."""
        return models_of(self.suite).get(self.model)

    @property
    def part(self) -> dict[str, int]:
        """Arguments of the data that say how they are split."""
        fold = {} if self.fold is None else {"fold": self.fold}
        return fold | ({"split_seed": self.seed} if SUITES[self.suite].seed_splits else {})

    @property
    def recipe(self) -> str:
        """The preset that the run's network and training are of."""
        suite = SUITES[self.suite]
        return self.dataset if suite.own and self.dataset in suite.sets else suite.preset

    def preset(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The settings of the preset, with the suite's data and changes of their arguments."""
        preset, suite = read_preset(self.recipe), SUITES[self.suite]
        if self.recipe != self.dataset:
            given = preset["data"]["init_args"]
            read = ["batch_size"] + ["descriptors"] * bool(self.network and not self.network.bare)
            arguments = {} if suite.named is None else {"dataset_name": suite.named + self.dataset}
            arguments |= {name: given[name] for name in read if name in given}
            preset["data"] = {"class_path": suite.data, "init_args": arguments}
        preset["data"]["init_args"] |= suite.arguments | changes
        return preset

    def settings(self, changes: dict[str, Any], options: list[str]) -> dict[str, Any]:
        """All that decides on the outcome, of which a preset may say more.

        Where the files lie is no setting: results may be copied to another machine.

        Args:
            changes: Arguments of the data in place of the preset's.
            options: Of ``fit``.
        """
        preset, model = self.preset(changes), self.network
        if JOINED in self.model:
            parts = [Run(self.dataset, part, self.seed, self.fold, self.suite) for part in self.members]
            return {"mean of": [part.settings(changes, options) for part in parts]}
        if model is None:
            preset["data"]["init_args"].pop("batch_size", None)  # of the recipe, which may change
            counts = {"counts": True} if self.model == FOREST else {}
            return {"data": preset["data"]} | counts  # all that others take of it
        taken = argument_names(NETWORKS[model.network])
        arguments = preset["model"]["network"]["init_args"]
        preset["model"]["network"] = {
            "class_path": model.network,
            "init_args": {
                name: value
                for name, value in arguments.items()
                if name in taken and not (model.bare and name == "branches")
            },
        }
        return {"preset": preset, "options": [*model.options, *options]}

    @property
    def members(self) -> list[str]:
        """Models whose predictions' mean this is, or the model itself."""
        return self.model.split(JOINED)


def folds_of(suite: str, cross_validate: bool) -> list[int] | list[None]:
    """The folds of a suite's sets, or one that is none."""
    return list(range(SCAFFOLD_FOLDS if cross_validate else SUITES[suite].folds)) or [None]


def place(data_class: str, root: Path) -> dict[str, Path]:
    """The argument of a data module that says where its files are; the built-in ones need none."""
    return {"root": root / FOLDERS[data_class]} if data_class in FOLDERS else {}


def data_module(preset: dict[str, Any], root: Path, **changes: object) -> GraphDataModule:
    """The data of a preset, prepared for its network, with other arguments in place of some of these.

    Raises:
        InputError: The data take no such argument.
    """
    data, network = preset["data"], preset["model"]["network"]
    known = NETWORKS.get(network["class_path"])
    prepared = known.preparation(network["init_args"]) if known else Preparation()
    settings = data["init_args"] | place(data["class_path"], root) | prepared._asdict() | changes
    name = data["class_path"]
    try:
        return (resolve_name(name) if "." in name else getattr(datasets, name))(**settings)
    except TypeError as error:
        raise InputError(f"The data {name} do not take what they are given: {error}.") from error
