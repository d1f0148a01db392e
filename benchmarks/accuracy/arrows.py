"""Images of an arrow and a disc, and the question whether the one points at the other."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import grid

from plstm_graph.datasets.base import GraphDataModule
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.datasets.splits import Split, consecutive_split
from plstm_graph.errors import InputError
from plstm_graph.task import Task

#: Pixels: half the arrow's length, of its head's strokes, half a stroke's width, the disc's radius, and how
#: far middles stay from the border.
_HALF_ARROW, _HEAD, _HALF_STROKE, _DISC, _MARGIN = 6.0, 5.0, 0.8, 4.0, 8

#: Images that are drawn at once.
_DRAWN_AT_ONCE = 256


class ArrowPointing(GraphDataModule):
    """Images of an arrow and a disc: does the arrow point at the disc? In half of them it does.

    A graph is an image; its nodes are square patches, row by row. Arrow and disc have one size in pixels, so
    that a larger image for the test has more patches between them. An arrow that points at the disc would hit
    its inner half; one that does not would miss the disc by its radius at least.

    Args:
        resolution: Pixels along a side of the images for training and validation.
        test_resolution: Likewise for the test.
        patch: Pixels along a side of a patch.
        train_size, val_size, test_size: Numbers of images.
        seed: Seed of the images; training and validation do not depend on what is tested.
        **kwargs: Arguments of :class:`~plstm_graph.datasets.GraphDataModule`.

    Raises:
        InputError: A resolution that patches do not fill, or too small for arrow and disc.

    Source: arXiv 2506.11997, Section 5.1.
    """

    task: Task = "multiclass"

    def __init__(
        self,
        resolution: int = 40,
        test_resolution: int = 80,
        patch: int = 4,
        train_size: int = 20_000,
        val_size: int = 1000,
        test_size: int = 1000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for pixels in (resolution, test_resolution):
            if pixels % patch or pixels < 4 * _MARGIN:
                raise InputError(
                    f"A resolution must be a multiple of the patch, {patch}, and at least {4 * _MARGIN} "
                    f"pixels; {pixels} is not."
                )
        self.resolution, self.test_resolution, self.patch = resolution, test_resolution, patch
        self.train_size, self.val_size, self.test_size = train_size, val_size, test_size
        self.seed = seed

    @property
    def target_names(self) -> list[str]:
        """The classes."""
        return ["elsewhere", "at the disc"]

    @property
    def in_channels(self) -> int:
        """Pixels of a patch."""
        return self.patch**2

    def contents(self) -> Iterable[bytes]:
        """Everything that shapes the images."""
        sizes = (self.train_size, self.val_size, self.test_size)
        yield repr((self.resolution, self.test_resolution, self.patch, sizes, self.seed)).encode()

    def make_graphs(self) -> PackedGraphs:
        """Draw the images: those of training, of validation and of the test, in this order."""
        rng = np.random.default_rng(self.seed)
        shared = self.train_size + self.val_size
        nodes, columns, patches, labels = [], [], [], []
        for pixels, count in ((self.resolution, shared), (self.test_resolution, self.test_size)):
            side = pixels // self.patch
            edge_index, _ = grid(side, side)
            drawn, points = draw_arrows(pixels, count, rng)
            tiles = drawn.unflatten(2, (side, self.patch)).unflatten(1, (side, self.patch))
            patches.append(tiles.transpose(2, 3).reshape(-1, self.in_channels))
            labels.append(points)
            nodes.append(torch.full((count,), side * side))
            columns.append(edge_index.repeat(1, count))
        rows = torch.arange(shared + self.test_size)
        tensors = {
            "x": torch.cat(patches), "edge_index": torch.cat(columns, 1),
            "y": torch.cat(labels).float().view(-1, 1), "row": rows,
        }  # fmt: skip
        per_image = [part.size(1) // len(of) for part, of in zip(columns, nodes, strict=True)]
        counts = {
            "graphs": torch.ones_like(rows),
            "nodes": torch.cat(nodes),
            "columns": torch.tensor(per_image).repeat_interleave(torch.tensor([shared, self.test_size])),
        }
        return PackedGraphs(tensors, counts)

    def split_rows(self) -> Split:
        """Cut by size, in the order of drawing."""
        return consecutive_split(self.train_size, self.val_size, self.test_size)


def draw_arrows(pixels: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw images with one arrow and one disc each, antialiased.

    Args:
        pixels: along a side.
        count: number of images.
        rng: generator of positions and directions.

    Returns:
        float32 [count, pixels, pixels] from 0 to 1, and bool [count], whether the arrow points at the disc:
        every second one.
    """
    apart = _HALF_ARROW + _DISC + 2
    middles = rng.uniform(_MARGIN, pixels - _MARGIN, (count, 2, 2))
    while len(close := np.flatnonzero(np.linalg.norm(middles[:, 0] - middles[:, 1], axis=1) < apart)):
        middles[close] = rng.uniform(_MARGIN, pixels - _MARGIN, (len(close), 2, 2))
    arrow, disc = middles[:, 0], middles[:, 1]
    points = np.arange(count) % 2 == 1
    way = disc - arrow
    distance = np.linalg.norm(way, axis=1)
    hit = np.arcsin(_DISC / 2 / distance)
    miss = np.arcsin(np.minimum(2 * _DISC / distance, 1))
    off = np.where(points, hit * rng.uniform(-1, 1, count), rng.uniform(miss, 2 * np.pi - miss))
    angle = np.arctan2(way[:, 1], way[:, 0]) + off

    def heading(turn: float) -> np.ndarray:
        return np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1)

    tip, tail = arrow + _HALF_ARROW * heading(0), arrow - _HALF_ARROW * heading(0)
    barbs = [tip + _HEAD * heading(turn) for turn in (0.8 * math.pi, -0.8 * math.pi)]
    strokes = torch.from_numpy(np.stack([np.stack([tip, end], 1) for end in (tail, *barbs)], 1)).float()
    discs = torch.from_numpy(disc).float()
    middle = torch.arange(pixels) + 0.5
    pixel = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1)  # [rows, columns, (x, y)]
    images = torch.empty(count, pixels, pixels)
    for part in torch.arange(count).split(_DRAWN_AT_ONCE):
        to_disc = (pixel - discs[part, None, None]).norm(dim=-1) - _DISC
        start, end = strokes[part].unbind(2)  # [images, strokes, 2]
        along = (end - start)[:, :, None, None]
        offset = pixel - start[:, :, None, None]  # [images, strokes, rows, columns, 2]
        share = ((offset * along).sum(-1) / along.square().sum(-1)).clamp(0, 1).unsqueeze(-1)
        to_stroke = (offset - share * along).norm(dim=-1).amin(1) - _HALF_STROKE
        # A pixel is covered as far as the border passes its middle.
        images[part] = (0.5 - torch.minimum(to_disc, to_stroke)).clamp(0, 1)
    return images, torch.from_numpy(points)
