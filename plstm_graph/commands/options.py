"""Verbs, their options and their help, read without loading what carries them out."""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from plstm_graph.commands.presets import PRESETS
from plstm_graph.errors import InputError

PROGRAM = "plstm-graph"

#: A line for each verb.
VERBS = {
    "train": "train several networks on a table of your own, with one folder for them and their report",
    "fit": "train a network, test its best epoch and draw its learning curve",
    "validate": "score a checkpoint on the validation graphs",
    "test": "score a checkpoint on the test graphs",
    "compare": "train several presets with several seeds, and print one table",
    "predict": "predict for every row of a table of SMILES",
    "fingerprint": "embed every row of a table of SMILES: the vector from which the network's head predicts",
    "explain": "draw how atoms and bonds contribute to the predictions for a table of SMILES",
}

#: Files that a verb can write.
ENDINGS = {"predict": (".csv", ".parquet"), "fingerprint": (".parquet", ".npz")}

_DETAILS = {
    "train": "The folder gets the networks, of which predict takes the mean, predictions and metrics of the "
    "test rows, beside those of a random forest, a picture, and config.yaml for fit. Any option of fit can "
    "be given too, and holds for all networks.",
    "predict": "The output has all columns of the table, predicted_<target>, with several checkpoints their "
    "mean and std_<target>, with --interval lower_<target> and upper_<target> or set_<target>, "
    "nearest_similarity, that of the nearest training molecule, and error, the reason why a row has no "
    "prediction. In CSV, text that a spreadsheet would calculate gets an apostrophe before it: what begins "
    "with =, +, -, @, a tab or the end of a line, and is neither a number nor signs alone.",
    "fingerprint": "The output has one vector for every row and checkpoint.",
    "explain": "The folder gets contributions.csv, a drawing of every molecule and target, and "
    "unreadable.csv with the rows that RDKit cannot read. A bond's contribution is that of both its "
    "directions. Classification is explained by the log-odds, a choice of classes by their logits, "
    "regression in the targets' unit.",
    "compare": "All presets are trained with the same seeds, side by side in single-threaded processes, and "
    "tested at the epoch that validation selects. Any option of fit can be given, and holds for all runs.",
}

_LIGHTNING_HELP = """\
usage: {program} {verb} --config PRESET [options]

{about}

what to train on
  --config NAME|FILE        a preset or a configuration file; several are merged, the last wins
  --data CLASS              CSV, OGB, MoleculeNet, TU, TDC, MoleculeACE, PeptidesFunc, Lipids, FreeSolv,
                            Solubility, or a class of your own
  --data.path FILE          CSV: the table
  --data.smiles_column NAME, --data.target_columns NAME|'[NAME, ...]'
                            CSV: which columns (default: smiles, and all of numbers)
  --data.descriptor_columns NAME|'[NAME, ...]', --data.descriptors rdkit
                            numbers that the network reads beside a molecule: CSV's columns, RDKit's
  --data.task TASK          CSV: regression, classification or multiclass (default: as cells look)
  --data.split SPLIT        CSV: scaffold, random, or a column of train, val and test
  --data.separator CHARACTER, --data.encoding NAME
                            CSV: between cells, and of text (default: found, utf-8)
  --data.root FOLDER, --data.dataset_name NAME
                            public sets: where the files lie, and which set
  --data.fold NUMBER        OGB, TU: one of the folds
  --data.batch_size NUMBER

the network and its training
  --model.network CLASS     PLSTM, GIN, GINE, GCN, GAT, MPNN
  --model.network.hidden_channels NUMBER, --model.network.num_layers NUMBER, --model.network.dropout SHARE
  --model.learning_rate RATE
  --trainer.max_epochs NUMBER
  --init_from FILE          start from another run's network, but for its heads; --freeze true keeps it
  --patience NUMBER         stop after this number of epochs without a better validation score
  --test_epoch best|last    which epoch is tested
  --seed_everything NUMBER  seed of weights, batches and dropout
  --threads NUMBER          CPU threads; small graphs train fastest with one
  --trainer.default_root_dir FOLDER
                            where runs are written (default runs)
  --ckpt_path FILE          fit: go on with this run; validate and test: the checkpoint

presets
  {presets}

{program} {verb} --help-all lists every option, --data.help CLASS and --model.network.help CLASS those of
a class.
"""


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong command line as an :class:`InputError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the message in one line."""
        raise InputError(f"{message}; see {self.prog} --help.")


def overview() -> str:
    """The help of the program: a line for each verb."""
    width = max(map(len, VERBS)) + 2
    lines = [f"  {verb:{width}}{about}" for verb, about in VERBS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} VERB [options]",
            "",
            "Train, test and use graph neural networks on molecules.",
            "",
            *lines,
            "",
            f"{PROGRAM} VERB --help describes a verb; {PROGRAM} train -i mine.csv -o model is a first run.",
            "",
        ]
    )


def lightning_help(verb: str) -> str:
    """The help of fit, validate and test: the options that most runs need."""
    presets = [", ".join(list(PRESETS)[start : start + 8]) for start in range(0, len(PRESETS), 8)]
    about = VERBS[verb][0].upper() + VERBS[verb][1:] + "."
    return _LIGHTNING_HELP.format(program=PROGRAM, verb=verb, about=about, presets=",\n  ".join(presets))


def parser_of(verb: str) -> ArgumentParser:
    """The parser of train, compare, predict, fingerprint or explain."""
    about = VERBS[verb][0].upper() + VERBS[verb][1:] + "."
    parser = ArgumentParser(f"{PROGRAM} {verb}", description=f"{about} {_DETAILS[verb]}", allow_abbrev=False)
    if verb == "train":
        _add_training(parser)
    elif verb == "compare":
        _add_comparison(parser)
    else:
        _add_table(parser, verb)
    return parser


def _number(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    if re.fullmatch(r"0?\.\d+", text) is None or not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return float(text)


class _Checkpoints(argparse.Action):
    """Takes the checkpoints that lie in a folder in its place."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object
    ) -> None:
        """Keep the files' names."""
        found: list[str] = []
        for name in values:
            inside = checkpoints_in(Path(name)) if Path(name).is_dir() else [name]
            if not inside:
                raise InputError(
                    f"There is no checkpoint (.ckpt) in the folder {name}; those of a run lie in its folder "
                    "checkpoints."
                )
            found += inside
        setattr(namespace, self.dest, found)


def _add_training(parser: ArgumentParser) -> None:
    """Options of train, most of which have chemprop's names too."""
    add = parser.add_argument
    add(
        *("-i", "--data-path", "--data.path"),
        dest="data_path",
        type=Path,
        required=True,
        metavar="FILE",
        help="table with a header: .csv, .tsv (also compressed), .parquet or .xlsx",
    )
    add(
        *("-o", "--output-dir", "--save-dir", "--output"),
        dest="output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for the networks and their report; it appears when all is done",
    )
    _add_smiles_column(parser)
    add(
        *("--target-columns", "--data.target_columns"),
        dest="target_columns",
        nargs="+",
        metavar="NAME",
        help="default: all numeric columns but identifiers",
    )
    add(
        *("-t", "--task-type", "--data.task"),
        dest="task",
        choices=("regression", "classification", "multiclass"),
        metavar="TASK",
        help="regression, classification or multiclass (default: what the targets look like)",
    )
    add(
        *("--split", "--data.split"),
        dest="split",
        default="scaffold",
        metavar="SPLIT",
        help="scaffold (default), random, or a column that says train, val or test in every row",
    )
    add("--ensemble-size", type=_number, default=4, metavar="NUMBER", help="number of networks (default 4)")
    add("--epochs", type=_number, metavar="NUMBER", help="default: 15 to 100, fewer for more rows")
    add("--seed", type=partial(_number, least=0), default=0, metavar="NUMBER", help="default 0")
    _add_format(parser)
    add("--overwrite", action="store_true", help="replace the folder if it holds networks already")


def _add_smiles_column(parser: ArgumentParser) -> None:
    parser.add_argument(
        *("-s", "--smiles-columns", "--data.smiles_column"),
        dest="smiles_column",
        default="smiles",
        metavar="NAME",
        help="default smiles",
    )


def _add_format(parser: ArgumentParser) -> None:
    parser.add_argument(
        *("--separator", "--data.separator"),
        dest="separator",
        metavar="CHARACTER",
        help="between cells of CSV (default: found by the column of SMILES)",
    )
    parser.add_argument(
        *("--encoding", "--data.encoding"),
        dest="encoding",
        metavar="NAME",
        help="of text, such as cp1252 (default utf-8)",
    )


def _add_comparison(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("configs", nargs="+", metavar="PRESET", help="such as freesolv, or a file")
    add("--seeds", type=_number, default=3, help="number of seeds, from 0 (default 3)")
    add("--jobs", type=_number, help="runs side by side (default: one for every core)")


def _add_table(parser: ArgumentParser, verb: str) -> None:
    """Options of the verbs that apply checkpoints to a table of SMILES."""
    add = parser.add_argument
    add(
        "-i",
        "--data.path",
        dest="data_path",
        required=True,
        metavar="FILE",
        help=".csv, .tsv (also compressed), .parquet, .xlsx, or one SMILES a line: .smi, .txt, - for "
        "standard input",
    )
    add(
        *("--ckpt_path", "--model-paths"),
        dest="ckpt_path",
        action=_Checkpoints,
        nargs="+",
        required=True,
        metavar="FILE",
        help="checkpoints, or folders of them" + ("; their mean is taken" if verb != "fingerprint" else ""),
    )
    _add_smiles_column(parser)
    _add_format(parser)
    parser.set_defaults(report=None)
    if verb != "fingerprint":
        about = "also write a page to look at: drawings of the first 500 rows, validation plots (.html)"
        add("--report", type=Path, metavar="FILE", help=about)
    if verb == "explain":
        add("-o", "--output", type=Path, required=True, metavar="FOLDER")
        add("--target", metavar="NAME", help="explain this one (default all)")
        return
    to_standard = ", or - for CSV on standard output" if verb == "predict" else ""
    add("-o", "--output", required=True, metavar="FILE", help=" or ".join(ENDINGS[verb]) + to_standard)
    add("--overwrite", action="store_true", help="replace the output if it is there")
    if verb == "predict":
        add(
            "--resume",
            action="store_true",
            help="go on with the unfinished CSV file of a run that was killed",
        )
    else:  # which writes no CSV
        parser.set_defaults(resume=False)
    add("-b", "--data.batch_size", dest="batch_size", type=_number, default=256, metavar="NUMBER")
    add(
        "-n",
        "--data.num_workers",
        dest="num_workers",
        type=partial(_number, least=0),
        metavar="NUMBER",
        help="processes that read SMILES; 0 for none; by default half the cores, none for few rows",
    )
    add(
        "--max_atoms",
        type=_number,
        default=5000,
        metavar="NUMBER",
        help="larger molecules get an error (default 5000)",
    )
    add(
        "--trainer.devices",
        dest="devices",
        type=_number,
        default=1,
        metavar="NUMBER",
        help="processes on this machine, or on each (default 1)",
    )
    add(
        "--trainer.num_nodes",
        dest="num_nodes",
        type=_number,
        default=1,
        metavar="NUMBER",
        help="machines of a torchrun or SLURM launch (default 1)",
    )
    if verb == "predict":
        add(
            "--interval",
            type=_share,
            metavar="CONFIDENCE",
            help="such as 0.9: add bounds that hold the value, or the classes, with this confidence",
        )
        add(
            "--keep_formulas",
            action="store_true",
            help="write what a spreadsheet would calculate into CSV as it is, without an apostrophe",
        )
        add(
            "--ray",
            metavar="ADDRESS",
            help="share a folder of Parquet files out on this Ray cluster, local: this machine; the output "
            "is a folder too",
        )


def checkpoints_in(folder: Path) -> list[str]:
    """The checkpoints in a folder, but that from which a run goes on, if its best one is there too."""
    found = sorted(folder.glob("*.ckpt"))
    best = any(path.name.startswith("best-") for path in found)
    return [str(path) for path in found if not (best and path.name == "last.ckpt")]
