"""Patches cut out of wider ones."""

import cv2
import numpy as np
import torch
from pictures import textured_gray

from bindesc.log_polar import REACH
from bindesc.models.orientation import adapt_patches
from bindesc.patches import PATCH_SIDE, PatchCutter, extract_patches
from bindesc.training.frames import cut, cut_again, cut_for
from bindesc.training.noise import FrameNoise, draw_frames


def wide_and_patch(turn=0.0, zoom=1.0, offset=(0.0, 0.0)):
    """A wide patch around a point, and the patch that a keypoint so displaced would get."""
    image = cv2.GaussianBlur(textured_gray(240, 320), (0, 0), 2)
    xy = np.array([[160.5, 120.5]], np.float32)
    wide, _ = extract_patches(image, xy, np.float32([56]), np.float32([0]), side=56)
    moved, side = xy + np.float32(offset), np.float32([32 * zoom])
    expected, _ = extract_patches(image, moved, side, np.float32([turn]))
    return torch.from_numpy(wide).float()[None], expected[0]


def frame(degrees, size, x, y):
    """``(1, 2, 3)``."""
    u, v = size * np.cos(np.radians(degrees)), size * np.sin(np.radians(degrees))
    return torch.tensor([[[u, -v, x], [v, u, y]]]).float()


def test_a_frame_cuts_what_the_displaced_keypoint_would_get():
    wide, expected = wide_and_patch(30.0, 1.1, (2.0, -1.5))
    found = cut(wide, frame(30, 1.1, 2.0, -1.5))[0, 0]
    assert np.abs(found.numpy() - expected).max() < 4


def test_the_upright_frame_is_the_centre():
    wide, expected = wide_and_patch()
    assert (cut(wide, torch.eye(2, 3)[None])[0, 0].numpy() - expected).max() < 1e-2
    assert torch.equal(cut_for(torch.nn.Identity(), wide), wide[..., 12:44, 12:44])


def log_polar(xy, size, angle):
    """A log-polar patch of a smooth picture."""
    image = cv2.GaussianBlur(textured_gray(240, 320), (0, 0), 3)
    arrays = np.float32([xy]), np.float32([size]), np.float32([angle])
    return torch.from_numpy(PatchCutter(image).cut_log_polar(*arrays)[0])[None].float()


def test_a_log_polar_patch_holds_those_of_displaced_keypoints():
    patch = log_polar((160, 120), 60, 0)
    pixel = 60 / (REACH * PATCH_SIDE)  # a sample of the described patch
    expected = log_polar((160 + 1.5 * pixel, 120 - pixel), 60 * 1.05, 12)
    found, inner = (
        cut_again(patch, frame(12, 1.05, 1.5, -1.0)),
        slice(0, 30),
    )  # the last ring lies beyond the patch
    error, change = ((other - expected)[0, 0, inner].abs().mean() for other in (found, patch))
    assert error < 0.15 * change
    assert error < 2


def test_log_polar_patches_that_stay_in_place_are_adapted():
    patch = log_polar((160, 120), 60, 0)
    stretch = torch.tensor([[[1.3, 0.2], [-0.1, 0.8]]])
    found = cut_again(patch, torch.cat([stretch, torch.zeros(1, 2, 1)], 2))
    torch.testing.assert_close(found, adapt_patches(patch, stretch), atol=0.05, rtol=0)


def test_noise_falls_on_its_share_of_the_groups():
    rng = np.random.default_rng(0)
    noise = FrameNoise(share=0.25)
    placed = draw_frames(rng, noise, 400, 16)
    same = (placed == np.eye(2, 3)).all((1, 2, 3)).reshape(400, 16)
    assert (same.all(1) | ~same.any(1)).all()
    assert 0.2 < (~same.all(1)).mean() < 0.3
    noisy = ~same.ravel()
    assert abs(placed[noisy][..., 2].std() / 32 - noise.offset) < 0.003
    x, y = placed[noisy][..., 0, 0], placed[noisy][..., 1, 0]
    assert abs(np.log(np.hypot(x, y)).std() - noise.scale) < 0.005
    assert abs(np.degrees(np.arctan2(y, x)).std() - noise.turn) < 0.5
    assert (placed[noisy][..., 0, 1] == -y).all()
    assert (placed[noisy][..., 1, 1] == x).all()
    placed = draw_frames(rng, FrameNoise(), 4, 4)
    assert (placed == np.eye(2, 3)).all()
