"""Train several presets with several seeds and print one table."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from rich.progress import Progress

from training.cli import Result
from training.pool import fit, side_by_side
from training.report import print_table, spread


def main(argv: Sequence[str]) -> None:
    """Run the verb ``compare``.

    All presets are trained with the same seeds, side by side in single-threaded processes, and
    tested at the epoch that validation selects.

    Args:
        argv: Presets, ``--seeds``, ``--jobs``, and any option of ``fit``, which then holds for
            all runs.
    """
    parser = argparse.ArgumentParser("train.py compare", description=main.__doc__)
    parser.add_argument("configs", nargs="+", help="presets, such as configs/freesolv.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default 3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    options, overrides = parser.parse_known_args(argv)
    runs = [(config, seed) for seed in range(options.seeds) for config in options.configs]
    calls = [
        partial(fit, ["--config", config, "--seed_everything", str(seed), *overrides])
        for config, seed in runs
    ]
    done: dict[tuple[str, int], Result] = {}
    with Progress() as progress:
        task = progress.add_task("Training", total=len(runs))
        for number, result in side_by_side(calls, options.jobs):
            config, seed = runs[number]
            done[config, seed] = result
            progress.console.print(
                f"{config}, seed {seed}: validation {result.metric} {result.val:.3f}, "
                f"test {result.test:.3f}, {result.seconds:.0f} s"
            )
            progress.advance(task)
    _print({config: [done[config, seed] for seed in range(options.seeds)] for config in options.configs})


def _print(results: dict[str, list[Result]]) -> None:
    rows = []
    for config, runs in results.items():
        rows.append(
            {
                "": f"{runs[0].network} ({Path(config).stem})",
                "test": spread([run.test for run in runs]),
                "validation": spread([run.val for run in runs]),
                "parameters": f"{runs[0].parameters:,}",
                "seconds": f"{mean(run.seconds for run in runs):.0f}",
            }
        )
    first = next(iter(results.values()))
    rows.append(dict.fromkeys(rows[0], "") | {"": "training mean", "test": f"{first[0].baseline:.3f}"})
    measure = " in ".join(filter(None, (first[0].metric, first[0].unit)))
    print_table(f"{measure}, mean and deviation of {len(first)} seeds", rows)
