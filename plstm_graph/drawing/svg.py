"""Parts of a picture as SVG: colours, text, legends, and the card they are put on."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plstm_graph.errors import InputError

INK = "#1f2328"
FAINT = "#d0d7de"
PAPER = "#ffffff"
#: Height of an ordinary line of text in pixels.
FONT = 12
#: What a character is wide, in its height; no common sans-serif font is wider on average.
CHARACTER = 0.62
_PADDING, _GAP = 18, 14

# Blue, white and red are told apart by the colour-blind; both ends are light enough for black text.
_POSITIVE = ("#ffffff", "#f4a582", "#cf4b3c")
_NEGATIVE = ("#ffffff", "#92c5de", "#3a84bd")
_LEVELS = ("#f6cf4b", "#73c58c", "#4b9fd0", "#8d78cf")


class Drawing:
    """A picture as SVG; a notebook shows it as the value of a cell.

    Attributes:
        svg: the picture, a document of its own.
    """

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.svg)} characters of SVG)"

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, in folders that are made if need be.

        Raises:
            InputError: ``path`` does not end in .svg, or cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise InputError(f"Drawings are SVG: {str(path)!r} must end in .svg.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.svg, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}.") from error


@dataclass(frozen=True)
class Panel:
    """A part of a card: SVG elements between (0, 0) and (width, height), in pixels."""

    width: float
    height: float
    body: str


@dataclass(frozen=True)
class Scale:
    """Colours of numbers: white is zero, red positive, blue negative.

    Args:
        low: the least number on the scale: 0, or -high.
        high: the largest.
    """

    low: float
    high: float

    @classmethod
    def of(cls, *values: NDArray[np.float64]) -> "Scale":
        """Make a scale from 0 to the largest value or, if any is negative, as far to either side of 0."""
        flat = np.concatenate([array.ravel() for array in values])
        high = float(np.abs(flat).max(initial=0.0))
        return cls(-high if (flat < 0).any() else 0.0, high)

    def colour(self, value: float) -> str:
        """The colour of a number."""
        share = value / self.high if self.high else 0.0
        return blend(_POSITIVE if share >= 0 else _NEGATIVE, abs(share))

    def legend(self, title: str) -> Panel:
        """A colour bar with numbers."""
        steps, length, top, bar = 64, 256.0, 1.6 * FONT, 12  # 64 pixels from number to number
        width = max(length + 64, text_width(title, FONT))
        left = (width - length) / 2
        values = np.linspace(self.low, self.high, steps if self.high else 1)
        step = length / len(values)
        parts = [text(width / 2, FONT, title, bold=True)]
        # Wider by half a pixel than their step, so that no seam shows; the frame hides the last one's.
        parts += [
            rectangle(left + i * step, top, min(step + 0.5, length - i * step), bar, self.colour(value))
            for i, value in enumerate(values)
        ]
        parts.append(rectangle(left, top, length, bar, "none", INK))
        ticks = np.linspace(self.low, self.high, 5) if self.high else np.zeros(1)
        for value in ticks:
            share = (value - self.low) / (self.high - self.low) if self.high else 0.5
            x = left + share * length
            parts.append(line(x, top + bar, x, top + bar + 4))
            parts.append(text(x, top + bar + 4 + FONT, number(value), size=FONT - 1))
        return Panel(width, top + bar + 8 + FONT, "".join(parts))


def level_colour(level: int, levels: int) -> str:
    """The colour of a level among 0 … levels - 1."""
    return blend(_LEVELS, level / (levels - 1) if levels > 1 else 0.0)


def level_legend(levels: int) -> Panel:
    """A swatch for every level, numbered as densely as there is room."""
    title = "level of the edge" if levels else "no bonds"
    width, top, bar = max(140.0, min(26.0 * levels, 400.0)), 1.6 * FONT, 12
    parts = [text(width / 2, FONT, title, bold=True)]
    if not levels:
        return Panel(width, 1.4 * FONT, parts[0])
    swatch = min(26.0, width / levels)
    left = (width - swatch * levels) / 2
    every = int(np.ceil(text_width(f"{levels}0", FONT - 1) / swatch))
    last = levels - 1
    for level in range(levels):
        x = left + level * swatch
        parts.append(rectangle(x, top, swatch, bar, level_colour(level, levels), INK))
        if level == last or (level % every == 0 and last - level >= every):
            parts.append(text(x + swatch / 2, top + bar + 4 + FONT, str(level), size=FONT - 1))
    return Panel(width, top + bar + 8 + FONT, "".join(parts))


def keys(entries: list[tuple[str, str]]) -> Panel:
    """Signs, SVG elements in a box of 28 by 16 pixels, with what they mean, one below the other."""
    row = 1.6 * FONT
    body = "".join(
        f"<g transform='translate(0,{i * row:.1f})'>{sign}{text(36, FONT, words, anchor='start')}</g>"
        for i, (sign, words) in enumerate(entries)
    )
    width = 36 + max(text_width(words, FONT) for _, words in entries)
    return Panel(width, row * len(entries), body)


def card(panels: list[Panel], description: str) -> Drawing:
    """Put panels below each other on a light card, which is legible on any background."""
    width = max(panel.width for panel in panels) + 2 * _PADDING
    height = sum(panel.height for panel in panels) + _GAP * (len(panels) - 1) + 2 * _PADDING
    parts, top = [], float(_PADDING)
    for panel in panels:
        left = (width - panel.width) / 2
        parts.append(f"<g transform='translate({left:.1f},{top:.1f})'>{panel.body}</g>")
        top += panel.height + _GAP
    return Drawing(
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img' "
        f"aria-label='{escape(description)}' font-family='Helvetica, Arial, sans-serif' fill='{INK}'>\n"
        f"<rect class='card' x='0.5' y='0.5' width='{round(width) - 1}' height='{round(height) - 1}' rx='10' "
        f"fill='{PAPER}' stroke='{FAINT}'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float = FONT,
    anchor: str = "middle",
    bold: bool = False,
    upright: bool = False,
) -> str:
    """A line of text; ``upright`` turns it to be read from below, about its anchor."""
    weight = " font-weight='600'" if bold else ""
    turn = f" transform='rotate(-90 {x:.1f} {y:.1f})'" if upright else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size:g}' text-anchor='{anchor}'{weight}{turn}>"
        f"{escape(words)}</text>"
    )


def text_width(words: str, size: float) -> float:
    """Largest width of a text, in pixels."""
    return CHARACTER * size * len(words)


def number(value: float) -> str:
    """Three digits, with a minus sign as wide as a plus."""
    return f"{value:.3g}".replace("-", "−")


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, more: str = "") -> str:
    """A straight line."""
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' {more}/>"


def rectangle(
    x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", title: str = ""
) -> str:
    """A rectangle, with a text that shows when the mouse rests on it."""
    hover = f"><title>{escape(title)}</title></rect>" if title else "/>"
    return (
        f"<rect x='{x:.2f}' y='{y:.2f}' width='{width:.2f}' height='{height:.2f}' fill='{fill}' "
        f"stroke='{stroke}' stroke-width='0.8'{hover}"
    )


def blend(stops: tuple[str, ...], share: float) -> str:
    """The colour at a share, 0 to 1, of the way along colours equally far apart."""
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(position), len(stops) - 2)
    ends = [np.array([int(stop[i : i + 2], 16) for i in (1, 3, 5)]) for stop in stops[first : first + 2]]
    mixed = ends[0] + (position - first) * (ends[1] - ends[0])
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)
