"""The loop of metric and of contrastive learning: AdamW, a log, checkpoints and a clean stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .run import Run, warm_cosine


def descend(
    run: Run,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    warmup: int,
    weight_decay: float,
    config: dict[str, Any],
    state: dict[str, Any] | None = None,
    validate: Callable[[], dict[str, float]] = dict,
) -> dict[str, float]:
    """Train a model until the last step, or until the run is told to stop; then save.

    Args:
        run: where the log and the checkpoints go.
        model: what is trained.
        loss: the loss of a step, from 0, on a batch of its own.
        steps: of the whole run.
        learning_rate: the highest, see :func:`warm_cosine`.
        warmup: steps over which it rises to that.
        weight_decay: decoupled weight decay.
        config: kept in the checkpoints.
        state: the checkpoint to go on from.
        validate: scores that are logged with each checkpoint.

    Returns:
        The last scores; none if there was nothing left to do.

    Raises:
        FloatingPointError: the loss or a weight is not finite; the last checkpoint stays.
    """
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay)
    step, saved = 0, -1
    average = 0.0
    if state is not None:
        with run.told_as_damaged():
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            step = saved = int(state["step"])
            average = float(state.get("average", 0))
    scores: dict[str, float] = {}

    def save() -> None:
        nonlocal saved, scores
        if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
            raise FloatingPointError(f"the weights are not finite after {step} steps")
        scores = validate()
        run.log(step, loss=average, **scores)
        run.save(
            {
                "step": step,
                "average": average,
                "config": config,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
        )
        saved = step

    model.train()
    with tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True) as bar:
        while step < steps and not run.stopping:
            for group in optimiser.param_groups:
                group["lr"] = warm_cosine(step, steps, learning_rate, warmup)
            tensor = loss(step)
            optimiser.zero_grad(set_to_none=True)
            tensor.backward()
            optimiser.step()
            value = tensor.item()  # last, as it waits for a GPU
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {step}")
            step += 1
            average = value if average == 0 else 0.98 * average + 0.02 * value
            bar.update()
            if step % 20 == 0:
                shown = {"loss": average, **scores}
                bar.set_postfix({name: f"{number:.3f}" for name, number in shown.items()})
            if run.save_is_due:
                save()
    if saved != step:
        save()
    return scores
