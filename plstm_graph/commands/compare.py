"""Train several presets with several seeds and print one table."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from rich.progress import Progress

from plstm_graph.commands.pool import fit, side_by_side
from plstm_graph.commands.presets import with_configuration_files
from plstm_graph.commands.report import Result, baseline_name, print_table, spread
from plstm_graph.errors import InputError


def compare(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the verb ``compare``.

    Args:
        options: Options, as :func:`~plstm_graph.commands.options.parser_of` reads them.
        overrides: Options of ``fit``, which hold for all runs.

    Raises:
        InputError: One of them is the seed, or is none of ``fit``.
    """
    if any(override.partition("=")[0] == "--seed_everything" for override in overrides):
        raise InputError("compare counts seeds from 0: leave --seed_everything out, --seeds says how many.")
    runs = [(config, seed) for seed in range(options.seeds) for config in options.configs]
    files = {name: with_configuration_files(["--config", name]) for name in options.configs}
    calls = [
        partial(fit, [*files[config], "--seed_everything", str(seed), *overrides]) for config, seed in runs
    ]
    done: dict[tuple[str, int], Result] = {}
    with Progress() as progress:
        task = progress.add_task("Training", total=len(runs))
        for number, result in side_by_side(calls, options.jobs or os.cpu_count() or 1):
            config, seed = runs[number]
            done[config, seed] = result
            progress.console.print(
                f"{Path(config).stem}, seed {seed}: validation {result.metric} {result.val:.3f}, "
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
    rows.append(
        dict.fromkeys(rows[0], "") | {"": baseline_name(first[0].metric), "test": f"{first[0].baseline:.3f}"}
    )
    measure = " in ".join(filter(None, (first[0].metric, first[0].unit)))
    print_table(f"{measure}, mean and deviation of {len(first)} seeds", rows)
