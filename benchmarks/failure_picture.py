"""A picture of missed pairs of keypoints, as patches: a row a cause."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindesc.files import atomic_path
from bindesc.reference import bit_count, hamming

from .failure_causes import CAUSES, Findable, Seen

EXAMPLES = 3  # a cause
_ACROSS = 4  # three patches and a gap


@dataclass(frozen=True, eq=False)
class Example:
    """One missed pair.

    Attributes:
        cause: a key of :data:`CAUSES`.
        patches: three of ``(32, 32)`` uint8: the first keypoint's, its true partner's, and that of
            the keypoint which came nearer.
        notes: one line of text below each.
    """

    cause: str
    patches: tuple[NDArray[np.uint8], ...]
    notes: tuple[str, str, str]


def draw_one_each(
    rng: np.random.Generator, first: Seen, second: Seen, pairs: Findable
) -> list[Example]:
    """One missed pair of each cause, drawn at random where there is one.

    The third patch is the one of the nearest code, in the second view, if that is at a wrong
    place. Where no cause applies, it is the one in the first view that took the right place away.
    """
    examples = []
    for number, cause in enumerate(CAUSES):
        (missed,) = np.nonzero(~pairs.found & (pairs.cause == number))
        # Where nothing else is wrong, most lose the right place to a neighbour.
        shown = pairs.taken if cause == "none" else ~pairs.nearest_right
        wanted = missed[shown[missed]]
        if len(wanted):
            examples.append(_example(first, second, pairs, int(rng.choice(wanted)), cause))
    return examples


def _example(first: Seen, second: Seen, pairs: Findable, pair: int, cause: str) -> Example:
    a, b = pairs.index[pair]
    code = first.codes[a]
    bits = int(bit_count(code ^ second.codes[b]))
    nearest = int(hamming(code[None], second.codes)[0].argmin())
    if pairs.taken[pair]:
        to_nearest = hamming(second.codes[nearest][None], first.codes)[0]
        rival = first.patches[to_nearest.argmin()]
        rival_note = f"taken by: {to_nearest.min()}"
    else:
        rival = second.patches[nearest]
        rival_note = f"instead: {int(bit_count(code ^ second.codes[nearest]))}"
    own_note = {
        "angle": f"turned {pairs.turn[pair]:.0f}°",
        "scale": f"{np.exp(pairs.ratio[pair]):.2f} times",
        "position": f"moved {pairs.offset[pair]:.0%}",
    }.get(cause, "")
    patches = (first.patches[a], second.patches[b], rival)
    return Example(cause, patches, (own_note, f"true: {bits} bits", f"{rival_note} bits"))


def draw(path: Path, examples: Sequence[Example], source: str) -> None:
    """Write the picture: of every cause at most :data:`EXAMPLES`; none if there are no examples.

    Args:
        path: of the PNG.
        examples: in any order.
        source: what they are from.
    """
    from matplotlib.figure import Figure

    rows = {cause: _spread([e for e in examples if e.cause == cause]) for cause in CAUSES}
    rows = {cause: chosen for cause, chosen in rows.items() if chosen}
    if not rows:
        return
    figure = Figure(figsize=(11.5, 1.32 * len(rows) + 0.7))
    widths = [2.6, *[1.0, 1.0, 1.0, 0.35] * EXAMPLES]
    grid = figure.add_gridspec(
        len(rows), len(widths), width_ratios=widths, left=0.01, right=1.0, bottom=0.03,
        top=1 - 0.7 / figure.get_figheight(), wspace=0.08, hspace=0.28,
    )  # fmt: skip
    for line, (cause, chosen) in enumerate(rows.items()):
        caption = figure.add_subplot(grid[line, 0])
        caption.set_axis_off()
        caption.text(0, 0.95, cause, weight="bold", va="top")
        text = textwrap.fill(CAUSES[cause], 28)
        caption.text(0, 0.74, text, va="top", fontsize="small", linespacing=1.3)
        for number, example in enumerate(chosen):
            for place, (patch, note) in enumerate(zip(example.patches, example.notes, strict=True)):
                axes = figure.add_subplot(grid[line, 1 + _ACROSS * number + place])
                axes.imshow(patch, cmap="gray", vmin=0, vmax=255)
                axes.set(xticks=[], yticks=[])
                axes.set_xlabel(note, fontsize="x-small", labelpad=3)
                if not line:
                    heading = ("keypoint", "its partner", "came nearer")[place]
                    axes.set_title(heading, fontsize="small")
    title = f"Missed pairs of keypoints, {source}; Hamming distances of 256 bits"
    figure.suptitle(title, x=0.01, y=1 - 0.1 / figure.get_figheight(), ha="left", fontsize="medium")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _spread(examples: Sequence[Example]) -> list[Example]:
    """At most :data:`EXAMPLES`, from the middle of as many equal parts."""
    count = min(EXAMPLES, len(examples))
    return [examples[(2 * i + 1) * len(examples) // (2 * count)] for i in range(count)]
