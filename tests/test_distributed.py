"""Two processes take the same steps as one with the joint batch. They talk through a file."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bindesc.models.bingan import BinGanConfig
from bindesc.training.distributed import JointBatchNorm, Ranks
from bindesc.training.gan import train
from bindesc.training.gan_step import Gan, GanConfig
from bindesc.training.run import CHECKPOINT, LOG

CONFIG = GanConfig(
    model=BinGanConfig(narrow=8, wide=8, bits=16, pooled=8),
    generator_width=16,
    batch=8,
    lambda_dmr=0.5,
    lambda_bre=0.5,
)
STEPS = 3


def patches():
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8), np.uint8)
    return noise.repeat(4, 1).repeat(4, 2)


def take_steps(ranks):
    """Some steps without dropout: the losses of each, and the weights after them."""
    gan = Gan(CONFIG, "cpu", ranks)
    gan.initialise(patches(), discriminator=True)
    for layer in gan.discriminator.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
    losses = []
    for step in range(STEPS):
        batch = ranks.share(patches()[8 * step : 8 * step + 8])
        losses.append(gan.discriminator_step(batch) | gan.generator_step(batch[::-1].copy()))
    state = {**gan.discriminator.state_dict(), **gan.generator.state_dict()}
    return {"losses": losses, "weights": {k: v.double().sum().item() for k, v in state.items()}}


def work(rank, folder):
    """What each of the two processes does."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    ranks = Ranks(rank, 2)
    result = take_steps(ranks)
    with ranks.dropout():
        result["own"] = torch.rand(()).item()
    result["shared"] = torch.rand(()).item()
    result["any"] = [
        ranks.any(rank == 1, torch.device("cpu")),
        ranks.any(False, torch.device("cpu")),
    ]
    train(patches(), Path(folder) / "run", CONFIG, steps=2, ranks=ranks)
    train(patches(), Path(folder) / "run", CONFIG, steps=3, ranks=ranks, resume=True)
    try:
        train(patches(), Path(folder) / "odd", replace(CONFIG, batch=7), steps=1, ranks=ranks)
    except ValueError as error:
        result["odd"] = str(error)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    code += "; import test_distributed as t"
    processes = [
        subprocess.Popen([sys.executable, "-c", f"{code}; t.work({rank}, {str(folder)!r})"])
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_compute_the_losses_of_one(two):
    one = take_steps(Ranks())
    for got in two[1]:
        for expected, losses in zip(one["losses"], got["losses"], strict=True):
            assert losses == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert one["losses"][0] != pytest.approx(one["losses"][1], rel=1e-3, abs=1e-5)


def test_the_weights_stay_together(two):
    first, second = (result["weights"] for result in two[1])
    assert first == pytest.approx(second, rel=1e-6, abs=1e-6)
    assert first == pytest.approx(take_steps(Ranks())["weights"], rel=1e-3, abs=1e-2)


def test_only_dropout_differs_between_ranks(two):
    first, second = two[1]
    assert first["shared"] == second["shared"]
    assert first["own"] != second["own"]
    assert first["any"] == second["any"] == [True, False]


def test_one_rank_writes_a_run_that_goes_on(two):
    run = two[0] / "run"
    assert [json.loads(line)["step"] for line in (run / LOG).read_text().splitlines()] == [0, 2, 3]
    state = torch.load(run / CHECKPOINT, weights_only=True)
    assert state["step"] == 3
    plain = Gan(CONFIG)
    plain.restore(state)  # one process can go on with it


def test_a_batch_must_split(two):
    assert all("7 patches cannot be split over 2" in result["odd"] for result in two[1])


def test_joint_batch_norm_alone_is_the_ordinary_one():
    torch.manual_seed(0)
    images = torch.randn(6, 3, 4, 4) * 3 + 1
    ordinary, joint = nn.BatchNorm2d(3), JointBatchNorm(3, Ranks())
    for layer in (ordinary, joint):
        layer.weight.data = torch.tensor([1.0, 2, 3])
        layer.bias.data = torch.tensor([0.0, -1, 1])
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((ordinary, joint), inputs, strict=True)]
    assert torch.allclose(*outputs, atol=1e-5)
    for output in outputs:
        output.square().mul(torch.arange(6.0)[:, None, None, None]).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-3)
    for name, value in ordinary.state_dict().items():
        assert torch.allclose(value, joint.state_dict()[name], atol=1e-5), name
    assert torch.allclose(ordinary.eval()(images), joint.eval()(images), atol=1e-5)
