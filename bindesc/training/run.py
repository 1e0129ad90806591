"""What training loops share: a folder with a log, curves and checkpoints that survive a kill."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..files import atomic_path

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
CURVES = "curves.png"


class Run:
    """A training run in a folder: log lines, curves, atomic checkpoints and a clean stop.

    A context manager: inside, SIGTERM and SIGINT set :attr:`stopping`; the loop then saves and
    leaves.

    Args:
        folder: made if missing.
        resume: go on from the folder's checkpoint; otherwise a folder with one is refused.
        seconds_between_saves: a checkpoint is due when this has passed since the last.
        writes: whether this process is the one that writes; another reads the checkpoint only.

    Raises:
        FileExistsError: there is a checkpoint and ``resume`` is false.
        FileNotFoundError: ``resume`` is true and there is none.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume: bool,
        seconds_between_saves: float = 120.0,
        writes: bool = True,
    ):
        self.folder = folder
        self.writes = writes
        self.stopping = False
        self._pause = seconds_between_saves
        self._saved = time.monotonic()
        path = folder / CHECKPOINT
        if resume and not path.is_file():
            raise FileNotFoundError(f"{path}: no checkpoint to resume from")
        if not resume and writes and path.exists():
            raise FileExistsError(
                f"{path}: a run is here already; add --resume, or choose a folder"
            )
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
        if writes and not resume:
            (folder / LOG).unlink(missing_ok=True)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Run:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    @property
    def save_is_due(self) -> bool:
        """Whether the time between saves has passed, or the run was told to stop.

        Never in a process that does not write.
        """
        due = self.stopping or time.monotonic() - self._saved > self._pause
        return self.writes and due

    def load(self, config: dict[str, Any]) -> dict[str, Any]:
        """The last checkpoint, on the CPU; log lines that came after it are dropped.

        Args:
            config: what the checkpoint must have been made with.

        Raises:
            ValueError: it is damaged, or was made with another configuration.
        """
        path = self.folder / CHECKPOINT
        data = path.read_bytes()  # torch raises OSError for damage too
        with self.told_as_damaged():
            state: dict[str, Any] = torch.load(BytesIO(data), "cpu", weights_only=True)
            state["step"], state["config"]
        if state["config"] != config:
            raise ValueError(f"{path}: was made with another configuration; give the same options")
        if not self.writes:
            return state
        kept = [line for line in self.read_log() if line["step"] <= state["step"]]
        with atomic_path(self.folder / LOG) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return state

    @contextmanager
    def told_as_damaged(self) -> Iterator[None]:
        """Turns whatever a damaged checkpoint raises, which varies, into one line."""
        try:
            yield
        except Exception:
            path = self.folder / CHECKPOINT
            raise ValueError(f"{path}: is damaged; remove it to start anew") from None

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint (``state["step"]`` says how far it is) and redraw the curves."""
        with atomic_path(self.folder / CHECKPOINT) as path:
            try:
                torch.save(state, path)
            except RuntimeError as error:  # torch's way to say that the disk is full
                raise OSError(f"cannot write {self.folder / CHECKPOINT}: {error}") from None
        self.draw_curves()
        self._saved = time.monotonic()

    def log(self, step: int, **values: float) -> None:
        """Append one line to the log."""
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read_log(self) -> list[dict[str, float]]:
        """All log lines so far."""
        return read_log(self.folder)

    def draw_curves(self) -> None:
        """Plot every logged value against the step. Without matplotlib there is no plot."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        lines = self.read_log()
        names = list(dict.fromkeys(key for line in lines for key in line if key != "step"))
        if not names:
            return
        figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            points = [(line["step"], line[name]) for line in lines if name in line]
            axes.plot(*zip(*points, strict=True))
            axes.set(title=name, xlabel="step")
            axes.grid(alpha=0.3)
        with atomic_path(self.folder / CURVES) as path:
            figure.savefig(path, format="png", dpi=80)


def read_log(folder: Path) -> list[dict[str, float]]:
    """All log lines of the run in a folder; the end of a line that was cut off is left out.

    Raises:
        ValueError: the log is damaged.
    """
    path = folder / LOG
    text = path.read_text() if path.exists() else ""
    try:
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error})") from None


def warm_cosine(step: int, steps: int, peak: float, warmup: float) -> float:
    """A learning rate that rises linearly to its peak, then falls by half a cosine to zero.

    Args:
        step: the next one, from 0.
        steps: of the whole run.
        peak: the highest learning rate.
        warmup: steps over which it rises.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
