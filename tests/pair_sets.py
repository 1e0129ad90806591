"""Small sets of pairs of rendered photos, and networks to train on them."""

from dataclasses import replace

import cv2
import pytest
import torch
from networks import calibration
from pictures import textured

from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.training.cli import WIDE_MARGIN, WIDE_TURN
from bindesc.training.metric import MetricConfig
from bindesc.training.pairing import Tolerance
from bindesc.training.pairs import PairSettings, build_pairs
from bindesc.weights import golden_patches, save_model

SETTINGS = PairSettings(views=2, pairs_per_view=30, min_pairs=8, keypoints=500)
CONFIG = MetricConfig(
    model=CompactConfig(channels=(8, 8), strides=(2, 2), bits=64),
    steps=6,
    photos=3,
    pairs=8,
    warmup=2,
    held_out_every=3,
)
LOG_POLAR = replace(CONFIG.model, log_polar=True, support=1.25)
TURNING = replace(LOG_POLAR, orientation=(8, 8))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        place = folder / f"place{i // 2}"
        place.mkdir(exist_ok=True)
        cv2.imwrite(str(place / f"{i}.png"), textured(400, 500, seed=i))
    return folder


@pytest.fixture(scope="session")
def pairs(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "pairs"
    build_pairs(photos, output, SETTINGS)
    return output


@pytest.fixture(scope="session")
def wide(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "wide"
    settings = replace(SETTINGS, margin=WIDE_MARGIN, tolerance=Tolerance(turn=WIDE_TURN))
    build_pairs(photos, output, settings)
    return output


@pytest.fixture(scope="session")
def seen(photos, tmp_path_factory):
    """A set of what a network with log-polar patches sees before it turns them."""
    folder = tmp_path_factory.mktemp("sets")
    torch.manual_seed(3)
    network = CompactNet(TURNING)
    torch.nn.init.normal_(network.orientation.scores.weight, std=0.1)
    path = folder / "first.safetensors"
    save_model(path, network, calibration=calibration(golden_patches()))
    build_pairs(photos, folder / "seen", replace(SETTINGS, model=str(path), noise=0.5))
    path.unlink()  # the set has its own
    return folder / "seen"
