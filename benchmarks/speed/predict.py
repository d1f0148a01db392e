"""Speed and memory of `plstm-graph predict`, process start included, and of `chemprop predict` beside it.

    python -m benchmarks.speed.predict --smiles HIV.csv --rows 100000
    python -m benchmarks.speed.predict --smiles HIV.csv --rows 100000 --chemprop path/to/venv/bin/chemprop

Both commands read a CSV file of the table's readable rows, repeated up to --rows, and write one. PLSTM has
fresh weights; Chemprop's network is its default, of like size, trained for three epochs on a few rows.
Correctness first: every row has its prediction, in its place, and those of a sample are what the network
gives for each molecule alone. Then the commands take turns. Memory is what a command and its children hold
at most together, shared pages counted once (PSS, twice a second).
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from rdkit.Chem import CanonSmiles
from rich.console import Console
from rich.table import Table

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, environment, write_results
from benchmarks.speed.workload import NETWORK
from plstm_graph.chem import read_smiles, smiles_to_data
from plstm_graph.errors import InputError
from plstm_graph.models import PLSTM
from plstm_graph.task import GraphTask

SAMPLE, TOLERANCE = 50, 1e-5
FEW = 200  # rows that Chemprop is trained on
# Its checkpoint names its classes, and opens where these are.
COUNT = """
import sys, torch
state = torch.load(sys.argv[1], weights_only=False)["state_dict"]
print(sum(value.numel() for name, value in state.items() if name.endswith(("weight", "bias"))))
"""


@dataclass
class Command:
    """A command, where it writes, and what its runs took."""

    name: str
    command: list[str]
    output: Path
    parameters: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Run the command once; its output is made anew."""
        self.output.unlink(missing_ok=True)
        with tempfile.TemporaryFile("w+") as log:
            start, peak = time.perf_counter(), 0
            process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.output.parent)
            while process.poll() is None:
                peak = max(peak, held(process.pid))
                time.sleep(0.5)
            self.seconds.append(time.perf_counter() - start)
            self.peak_bytes.append(peak)
            if process.returncode:
                log.seek(0)
                sys.exit(f"{self.name} failed:\n{log.read()[-2000:]}")


def held(pid: int) -> int:
    """Bytes that a process and its descendants hold now, shared pages counted once."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family, total = [pid], 0
    for member in family:
        family += children.get(member, [])
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def write_table(source: Path, column: str, rows: int, path: Path) -> list[str]:
    """Write readable SMILES, repeated up to this number of rows, and return them."""
    readable = []
    for smiles in pd.read_csv(source)[column]:
        try:
            read_smiles(smiles)
        except InputError:
            continue
        readable.append(smiles)
        if len(readable) == rows:
            break
    chosen = list(islice(cycle(readable), rows))
    pd.DataFrame({"smiles": chosen, "row": range(rows)}).to_csv(path, index=False)
    return chosen


def save(task: GraphTask, path: Path) -> Path:
    """Write a checkpoint of a task that was not trained, as a trainer would."""
    trainer = Trainer(barebones=True, accelerator="cpu")
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def plstm(folder: Path, table: Path, workers: int | None) -> tuple[Command, GraphTask]:
    """A checkpoint with fresh weights and the command that applies it."""
    torch.manual_seed(0)
    task = GraphTask(PLSTM(**NETWORK), "classification", target_names=["active"])
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoint = save(task, folder / "plstm.ckpt")
    command = [sys.executable, "-m", "plstm_graph", "predict", "--data.path", str(table)]
    command += ["--ckpt_path", str(checkpoint), "--output", str(folder / "plstm.csv")]
    if workers is not None:
        command += ["--data.num_workers", str(workers)]
    size = sum(parameter.numel() for parameter in task.network.parameters())
    return Command("plstm-graph predict, PLSTM", command, folder / "plstm.csv", size), task.eval()


def check(candidate: Command, task: GraphTask, smiles: list[str]) -> str:
    """Compare the command's output with the rows asked for and the task's own predictions."""
    written = pd.read_csv(candidate.output)
    if written["row"].tolist() != list(range(len(smiles))) or written["predicted_active"].isna().any():
        sys.exit("The output has not exactly one prediction for every row; no times are given.")
    rows = np.random.default_rng(0).choice(len(smiles), min(SAMPLE, len(smiles)), replace=False)
    with torch.inference_mode():
        wanted = [task(smiles_to_data(smiles[row])).item() for row in rows]
    error = float(np.abs(written["predicted_active"][rows] - wanted).max())
    if not error <= TOLERANCE:
        sys.exit(f"Predictions differ from the network's own by {error:.1e}; no times are given.")
    return f"{len(smiles):,} rows in order; {len(rows)} of them agree with the network's own to {error:.1e}"


def chemprop(program: Path, folder: Path, table: Path, smiles: list[str]) -> Command:
    """Chemprop's default network after three epochs, and the command that applies it."""
    few = list(dict.fromkeys(map(CanonSmiles, smiles[:FEW])))
    targets = np.random.default_rng(0).normal(size=len(few))
    pd.DataFrame({"smiles": few, "value": targets}).to_csv(folder / "few.csv", index=False)
    train = [program, "train", "-i", folder / "few.csv", "-o", folder / "chemprop", "--epochs", "3"]
    made = subprocess.run([*map(str, train), "--accelerator", "cpu"], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"chemprop train failed:\n{made.stderr[-2000:]}")
    [model] = folder.glob("chemprop/model_0/best.pt")
    size = subprocess.run(
        [program.parent / "python", "-c", COUNT, model], capture_output=True, text=True, check=True
    ).stdout
    command = [program, "predict", "-i", table, "-s", "smiles", "--model-paths", model]
    command += ["-o", folder / "chemprop.csv", "--accelerator", "cpu", "--batch-size", "256"]
    return Command("chemprop predict", [*map(str, command)], folder / "chemprop.csv", int(size))


def main() -> None:
    parser = parser_of("speed.predict", __doc__)
    parser.add_argument("--smiles", type=Path, required=True, help="CSV file")
    parser.add_argument("--column", default="smiles")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--num-workers", type=int, help="of plstm-graph predict; by default its own choice")
    parser.add_argument("--chemprop", type=Path, help="the program, in an environment of its own")
    parser.add_argument("--json", type=Path, default=RESULTS / "predict.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "table.csv"
        smiles = write_table(options.smiles, options.column, options.rows, table)
        ours, task = plstm(folder, table, options.num_workers)
        candidates = [ours]
        if options.chemprop is not None:
            candidates.append(chemprop(options.chemprop.absolute(), folder, table, smiles))
        checks = []
        for turn in range(options.rounds):
            for candidate in candidates:
                candidate.run()
                if turn == 0 and candidate is ours:
                    checks.append(check(ours, task, smiles))
                elif turn == 0 and len(pd.read_csv(candidate.output)) != len(smiles):
                    sys.exit(f"{candidate.name} has not written a row for every row.")
    print(*checks, sep="\n")

    shown = Table(
        title=f"{options.rows:,} SMILES of {options.smiles.name}, CSV to CSV, {os.cpu_count()} cores"
    )
    for column in ("command", "parameters", "seconds", "mol./s", "time / PLSTM", "peak MB"):
        shown.add_column(column, justify="left" if column == "command" else "right")
    records = []
    for candidate in candidates:
        seconds, peak = statistics.median(candidate.seconds), max(candidate.peak_bytes)
        ratio = statistics.median(a / b for a, b in zip(candidate.seconds, ours.seconds, strict=True))
        speed = options.rows / seconds
        cells = (f"{seconds:.1f}", f"{speed:,.0f}", f"{ratio:.2f}", f"{peak / 1e6:,.0f}")
        shown.add_row(candidate.name, f"{candidate.parameters:,}", *cells)
        records.append(
            {"command": candidate.name, "parameters": candidate.parameters, "seconds": candidate.seconds}
            | {"molecules per second": speed, "time / PLSTM": ratio, "peak bytes": peak}
        )
    Console().print(shown)
    arguments = {"rows": options.rows, "rounds": options.rounds, "num_workers": options.num_workers}
    setting = {**environment(), "table": options.smiles.name, "arguments": arguments}
    if options.chemprop is not None:
        version = subprocess.run([options.chemprop, "--version"], capture_output=True, text=True).stdout
        setting["chemprop"] = version.strip()
    write_results(options.json, setting, [{"check": text} for text in checks], records)


if __name__ == "__main__":
    main()
