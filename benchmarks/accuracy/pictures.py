"""Draw every suite that something is kept of: a dot for a data set, PLSTM against the best of the others.

python -m benchmarks.accuracy.pictures        # into docs/pictures/, light and dark
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.accuracy.suites import PROCESS, SUITES
from benchmarks.accuracy.summary import OURS, label_of, parts_of, scores_of, tables_of
from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, ROOT
from plstm_graph.metrics import ERRORS

PICTURES = ROOT / "docs" / "pictures"
COLOURS = {"light": "#00796b", "dark": "#4db6ac"}


@dataclass(frozen=True)
class Dot:
    """PLSTM's score on a part of a set's test rows, beside the best of the others.

    Args:
        part: "test", or the name of a subset.
        metric: Name of the score.
        ours: PLSTM's mean over runs.
        other: That of the best row in which neither PLSTM nor its Gaussian process has a part.
        label: That row's.
    """

    part: str
    metric: str
    ours: float
    other: float
    label: str

    @property
    def percent(self) -> float:
        """By how much PLSTM is better, in percent of the other."""
        sign = -1 if self.metric in ERRORS else 1
        return 100 * sign * (self.ours - self.other) / abs(self.other)


def dots_of(folder: Path) -> dict[str, list[Dot]]:
    """What is to be drawn of every set of a suite's folder."""
    dots: dict[str, list[Dot]] = {}
    for dataset, (records, references) in tables_of(folder).items():
        metric = records[0]["result"]["metric"]
        best = min if metric in ERRORS else max
        ours = {
            label_of(run): run["run"]["model"]
            for run in records
            if {OURS, PROCESS} & set(run["run"]["model"].split("-"))
        }
        for part in parts_of(records):
            scores = {label: found.mean for label, found in scores_of(records, references, part).items()}
            own = [scores[label] for label, model in ours.items() if model == OURS]
            others = [label for label in scores if label not in ours]
            if own and others:
                label = best(others, key=scores.__getitem__)
                dots.setdefault(dataset, []).append(Dot(part, metric, own[0], scores[label], label))
    return dots


def draw_suite(axes: Axes, suite: str, dots: dict[str, list[Dot]], colour: str) -> None:
    """Draw a suite: a line for every set, a full dot for its test rows, a hollow one for a part of them."""
    for line, found in enumerate(dots.values()):
        for dot in found:
            shade = colour if dot.percent > 0 else "grey"
            inside = shade if dot.part == "test" else "none"
            axes.plot(dot.percent, line, "o", color=shade, markerfacecolor=inside, markersize=5)
        beside = axes.get_yaxis_transform()
        axes.text(1.01, line, found[0].label, transform=beside, va="center", fontsize=7, color="grey")
    parts = dict.fromkeys(dot.part for found in dots.values() for dot in found)
    ahead = [
        f"{sum(dot.percent > 0 for found in dots.values() for dot in found if dot.part == part)} of "
        f"{sum(dot.part == part for found in dots.values() for dot in found)}"
        + ("" if part == "test" else f" (hollow: {part})")
        for part in parts
    ]
    axes.set_title(f"{suite}: PLSTM ahead on {', '.join(ahead)}", loc="left")
    names = [f"{dataset}, {found[0].metric}" for dataset, found in dots.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)


def draw(results: Path, pictures: Path) -> None:
    """Draw all suites below a folder that something is kept of, light and dark."""
    suites = {suite: dots for suite in SUITES if (dots := dots_of(results / suite))}
    lines = [len(dots) for dots in suites.values()]
    plt.rcParams["svg.hashsalt"] = "plstm_graph"  # the same file every time
    for theme, colour in COLOURS.items():
        style = "default" if theme == "light" else "dark_background"
        with plt.style.context([style, {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False}]):
            figure, grid = plt.subplots(
                len(suites),
                sharex=True,
                figsize=(7.5, 0.17 * sum(lines) + 0.45 * len(suites) + 0.5),
                height_ratios=[count + 1 for count in lines],
                layout="constrained",
                squeeze=False,
            )
            for axes, (suite, dots) in zip(grid.flat, suites.items(), strict=True):
                draw_suite(axes, suite, dots, colour)
            grid[-1, 0].set_xlabel("PLSTM is better by, % of the best of the others (right)")
            pictures.mkdir(parents=True, exist_ok=True)
            figure.savefig(pictures / f"suites-{theme}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


def main() -> None:
    parser = parser_of("accuracy.pictures", __doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    options = parser.parse_args()
    draw(options.results, options.pictures)


if __name__ == "__main__":
    main()
