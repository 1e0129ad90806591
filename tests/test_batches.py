import numpy as np
import torch
from pair_sets import CONFIG
from pictures import textured

from bindesc.patches import PatchCutter
from bindesc.training.metric import PatchSource, draw_batch, split_groups
from bindesc.training.pairs import open_pairs

pytest_plugins = ["pair_sets"]


def test_photos_are_split_as_a_whole(pairs):
    data = open_pairs(pairs)
    training, held_out = split_groups(data, 3)
    assert not set(data.photo[training]) & set(data.photo[held_out])
    assert len(training) + len(held_out) == len(data.start)


def test_negatives_are_other_places_or_points_apart(pairs):
    data = open_pairs(pairs)
    groups, _ = split_groups(data, 3)
    batch, again = (draw_batch(data, groups, CONFIG, 0) for _ in range(2))
    assert all(map(torch.equal, batch, again))
    assert batch.patches(PatchSource(data, torch.device("cpu"))).shape == (24, 2, 32, 32)
    negative = batch.negative()
    assert (negative == negative.T).all()
    assert not negative.diagonal().any()
    assert negative.any()


def test_points_that_are_almost_the_same_need_less_margin(pairs):
    data = open_pairs(pairs)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    assert np.array_equal(batch.xy, data.xy[batch.row])
    assert np.array_equal(batch.side, data.side[batch.row])
    here, beside, larger, elsewhere = (
        batch._replace(
            group=torch.tensor([0, group]),
            xy=torch.tensor([[50.0, 50.0], [50.0 + x, 50.0]]),
            side=torch.tensor([30.0, side]),
        ).margins(0.9, (0.15, 0.25))
        for group, x, side in (
            (0, 0.0, 30.0),
            (0, 4.5, 30.0),
            (0, 0.0, 30.0 * np.e),
            (1, 0.0, 30.0),
        )
    )
    assert (here == 0).all()
    assert np.allclose(beside[0, 1], 0.9 * (1 - np.exp(-0.5)))
    assert np.allclose(larger[0, 1], 0.9 * (1 - np.exp(-8)))
    assert np.allclose(elsewhere[0, 1], 0.9)
    margins = batch.margins(1.0, (0.15, 0.25))
    assert torch.allclose(margins, margins.T)
    assert margins.min() < 0.3 < 0.9 < margins.median()


def test_mirrored_pairs_are_mapped_the_other_way(wide):
    data = open_pairs(wide)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    originals = {
        patch.tobytes(): linear
        for patch, linear in zip(data.patches[:, 0], data.linear, strict=True)
    }
    mirror = np.diag([1.0, -1.0])
    patches = batch.patches(PatchSource(data, torch.device("cpu"))).numpy()
    straight = np.array([patch.tobytes() in originals for patch in patches[:, 0]])
    assert 0 < straight.sum() < len(straight)
    for (first, _), linear, same in zip(patches, batch.linear.numpy(), straight, strict=True):
        original = originals[(first if same else first[::-1]).tobytes()]
        np.testing.assert_allclose(linear, original if same else mirror @ original @ mirror)


def test_mirrored_log_polar_patches_are_those_of_the_mirrored_photo(seen):
    data = open_pairs(seen)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    source = PatchSource(data, torch.device("cpu"))
    patches, rows = batch.patches(source).numpy(), batch.row.numpy()
    for patch, row, mirrored in zip(patches, rows, batch.mirrored.numpy(), strict=True):
        stored = data.patches[row]
        assert (patch == (stored[..., ::-1] if mirrored else stored)).all()
    image = textured(200, 200)[..., 0]
    at = np.float32([[99.5, 99.5]]), np.float32([40]), np.float32([0])
    straight, _ = PatchCutter(np.ascontiguousarray(image)).cut_log_polar(*at)
    turned, _ = PatchCutter(np.ascontiguousarray(image[::-1])).cut_log_polar(*at)
    inner = slice(0, 18)  # these come from the image itself
    difference = np.abs(straight[0, inner, ::-1].astype(int) - turned[0, inner])
    assert difference.max() <= 1
