"""Where a model fails: the pairs of keypoints that it misses, sorted by cause.

On the two sets that settings are chosen on; see :mod:`benchmarks.failure_causes`. The table gives,
of each cause, its share of the pairs that were there to be found, how many of those are found, its
share of all that are missed, and among its missed ones those whose nearest code is at the right
place but taken by another keypoint close by, which is nearer to it still.

Run ``python -m benchmarks.failures --save``, which also draws examples, of photos that scikit-image
ships in made views; ``--pictures FOLDER`` draws examples of the sets, for looking at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindesc.extractor import DEFAULT_MODEL
from bindesc.runtime import Runtime
from bindesc.training.pairing import carry_by_homography
from bindesc.training.views import made_views

from .command import command
from .common import RESULTS, write_results
from .datasets import CHOSEN_ON, data_folder, scenes
from .descriptors import Descriptor, bindesc_descriptor
from .failure_causes import ALIKE, CAUSES, CORRELATED, LIMITS, Findable, Seen, find_pairs, see
from .failure_picture import Example, draw, draw_one_each
from .photos import shipped_photo
from .render_tables import markdown

NAME = "failures"
PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "brick", "grass", "gravel", "rocket")
SIDES = (420, 520)  # of a made view's longer side, pixels
VIEWS = 4  # of a photo


class Model(NamedTuple):
    """What describes keypoints, and what cuts and turns their patches."""

    descriptor: Descriptor
    runtime: Runtime


def read_model(model: str) -> Model:
    """A shipped model by name, or a file."""
    return Model(bindesc_descriptor(model), Runtime(model))


class Compared(NamedTuple):
    """Two views and their pairs."""

    first: Seen
    second: Seen
    pairs: Findable


def of_set(name: str, folder: Path, model: Model) -> Iterator[Compared]:
    """Every pair of images of a set."""
    for scene in scenes(name, folder):
        first = see(scene.reference, *model)
        for view in scene.views:
            second = see(view.gray, *model)
            carried = carry_by_homography(view.homography, first.xy)
            yield Compared(first, second, find_pairs(first, second, carried))


def of_photos(model: Model) -> Iterator[Compared]:
    """Made views of photos that scikit-image ships, always the same."""
    rng = np.random.default_rng(0)
    for photo in map(shipped_photo, PHOTOS):
        for _ in range(VIEWS):
            views = made_views(photo, SIDES, 0.6, rng)
            first, second = (see(gray, *model) for gray in views[:2])
            yield Compared(first, second, find_pairs(first, second, views.carry(first.xy)))


def summarise(name: str, parts: Sequence[Findable]) -> list[dict[str, Any]]:
    """A row a cause, and one of all pairs; a share is None where there is nothing to share.

    Args:
        name: of the set.
        parts: the pairs of its pairs of images.
    """
    cause, found, matched, taken = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("cause", "found", "matched", "taken")
    )

    def row(label: str, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        lost = chosen & ~found
        return {
            "set": name,
            "cause": label,
            "pairs": int(chosen.sum()),
            "share": _share(chosen.sum(), len(found)),
            "found": _share((chosen & found).sum(), chosen.sum()),
            "of_missed": _share(lost.sum(), (~found).sum()),
            "matched_wrongly": _share((lost & matched).sum(), lost.sum()),
            "taken": _share((lost & taken).sum(), lost.sum()),
        }

    rows = [row(label, cause == number) for number, label in enumerate(CAUSES)]
    return [*rows, row("all", np.ones(len(found), bool))]


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def table(rows: Sequence[dict[str, Any]]) -> dict[str, list]:
    """Header and rows of text: a row a cause, four columns a set."""
    header = ["cause"]
    cells: dict[str, list[str]] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        header += [name, "found", "of the missed", "of them taken"]
    for row in rows:
        cell = cells.setdefault(row["cause"], [row["cause"]])
        for share in (row["share"], row["found"], row["of_missed"], row["taken"]):
            cell.append("-" if share is None else f"{share:.0%}")
    return {"header": header, "rows": list(cells.values())}


@command(NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    folder = data_folder()
    model = read_model(options.model)
    rows = []
    for name in CHOSEN_ON:
        rng = np.random.default_rng(0)
        parts: list[Findable] = []
        examples: list[Example] = []
        for compared in of_set(name, folder, model):
            parts.append(compared.pairs)
            examples += draw_one_each(rng, *compared)
        rows += summarise(name, parts)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            draw(
                options.pictures / f"{NAME}_{name}.png",
                examples,
                name,
            )
    shown = table(rows)
    print(markdown(shown["header"], shown["rows"]))
    if options.save:
        rng = np.random.default_rng(0)
        made = of_photos(model)
        examples = [example for compared in made for example in draw_one_each(rng, *compared)]
        picture = RESULTS / f"{NAME}.png"
        settings = {
            "model": options.model, "limits": LIMITS, "alike": ALIKE, "correlated": CORRELATED,
            "causes": CAUSES,
        }  # fmt: skip
        written = write_results(NAME, rows, libraries=("scipy",), settings=settings, table=shown)
        draw(
            picture,
            examples,
            "photos of scikit-image in made views",
        )
        print(f"wrote {written} {picture}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failures",
        description="The pairs of keypoints that a model misses, sorted by cause.",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="(%(default)s)")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="draw examples of the sets there"
    )
    parser.add_argument(
        "--save", action="store_true", help=f"write benchmarks/results/{NAME}.json and .png"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
