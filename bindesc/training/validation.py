"""Held-out pairs of patches: how well codes find them, and which checkpoint does best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..matching import nearest
from ..packing import pack_bits
from ..weights import save_model
from .frames import cut_for
from .pairs import PairSet
from .run import Run, read_log
from .scores import bit_bias, false_positive_rate, pair_distances

_GROUPS = 64
_APART = 16.0  # pixels between two points of a photo that count as different


@torch.no_grad()
def validate(model: nn.Module, data: PairSet, groups: NDArray[np.intp]) -> dict[str, float]:
    """How well codes tell pairs, on at most 64 of the groups.

    Args:
        model: ``(N, 1, 32, 32)`` float, 0 to 255, to activations; it is left in training mode.
        data: the pairs.
        groups: which groups of it, at least one.

    Returns:
        ``accuracy``: share of the first views' points whose nearest code (ties: lowest index) among
        the points of the same two views is their pair;
        ``fpr95``: see :func:`false_positive_rate`; the non-matching pairs join points of one photo
        that lie apart (left out if there are none);
        ``bit_bias``: mean distance of a bit's frequency from one half.
    """
    model.eval()
    device = next(model.parameters()).device
    right, ones, matched, unmatched = 0, [], [], []
    for group in groups[:: max(len(groups) // _GROUPS, 1)][:_GROUPS]:
        span = slice(data.start[group], data.end[group])
        wide = torch.tensor(data.patches[span], device=device).float()
        patches = wide.flatten(0, 1)[:, None]
        seen = cut_for(model, patches) if data.seen_by is None else patches
        bits = (model(seen) >= 0).cpu().numpy()
        first, second = pack_bits(bits[0::2]), pack_bits(bits[1::2])
        index = np.arange(len(first))
        right += int((nearest(first, second).index[:, 0] == index).sum())
        other = np.roll(index, len(index) // 2)
        apart = np.linalg.norm(data.xy[span] - data.xy[span][other], axis=1) > _APART
        matched.append(pair_distances(first, second))
        unmatched.append(pair_distances(first, second[other])[apart])
        ones.append(bits)
    model.train()
    same, different = np.concatenate(matched), np.concatenate(unmatched)
    scores = {"accuracy": right / len(same), "bit_bias": bit_bias(np.concatenate(ones))}
    if len(different):
        scores["fpr95"] = false_positive_rate(same, different)
    return scores


class BestModel:
    """A model file that always holds the checkpoint with the best accuracy on held-out pairs.

    The log holds the scores of all; a run that goes on reads there which was the best.

    Args:
        path: of the model file.
        run: whose log is used.
        data: the held-out pairs.
        command: the command line, for the manifest.
    """

    def __init__(self, path: Path, run: Run, data: PairSet, command: str = ""):
        self._path, self._run, self._data, self._command = path, run, data, command

    @property
    def _best(self) -> float:
        lines = self._run.read_log()
        return max((line["accuracy"] for line in lines if "accuracy" in line), default=-1.0)

    def offer(self, step: int, network: nn.Module) -> dict[str, float]:
        """Validate a network, log it, and write it if no earlier one was as good."""
        scores = validate(network, self._data, np.arange(len(self._data.start)))
        # The bits' bias is logged too, but on training patches.
        held_out = {key: value for key, value in scores.items() if key != "bit_bias"}
        if held_out["accuracy"] > self._best:
            save_model(self._path, network, command=self._command)
        self._run.log(step, **held_out)
        return held_out


def report(run: Path, keep: str = "best") -> str:
    """One line on a run's held-out scores: from the first validation to that of the kept model.

    Args:
        run: folder of the run.
        keep: ``"best"`` or ``"last"``.
    """
    lines = [line for line in read_log(run) if "accuracy" in line]
    # The first of equals, as BestModel keeps it.
    kept = lines[-1] if keep == "last" else max(lines, key=lambda line: line["accuracy"])

    def change(name: str, form: str) -> str:
        return " -> ".join(format(line[name], form) for line in (lines[0], kept) if name in line)

    return (
        f"held-out photos, step {lines[0]['step']} -> {kept['step']} ({keep} is kept): "
        f"accuracy {change('accuracy', '.3f')}, FPR@95 {change('fpr95', '.1%')}"
    )
