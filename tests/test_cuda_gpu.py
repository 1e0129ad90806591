"""The matcher, the models and training on a GPU, where there is one."""

import cv2
import numpy as np
import pytest
from pictures import textured

import bindesc
from bindesc import cuda, matching, reference
from bindesc.cli import main

STATUS = cuda.status()
pytestmark = pytest.mark.skipif(not STATUS.usable, reason=STATUS.text)


def codes(rows, width, seed, mask=0xFF):
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & mask


def on_gpu(array):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return torch.from_numpy(array).cuda()


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x00], ids=["random", "ties", "equal"])
@pytest.mark.parametrize(("n", "m"), [(0, 5), (1, 1), (2, 3), (509, 129), (3001, 4099)])
@pytest.mark.parametrize("width", [2, 32, 34, 64])
def test_equals_the_oracle(n, m, width, mask):
    query, train = codes(n, width, 1, mask), codes(m, width, 2, mask)
    want = reference.nearest(query, train)
    found = cuda.nearest(on_gpu(query), on_gpu(train)).to_host()
    for name in ("index", "distance", "column_index", "column_distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=name)
    matches = cuda.match(on_gpu(query), on_gpu(train), ratio=0.9).to_host()
    kept = reference.select(want, ratio=0.9)
    np.testing.assert_array_equal(matches.pairs, kept.pairs)
    np.testing.assert_array_equal(matches.distance, kept.distance)


@pytest.mark.parametrize("mask", [0xFF, 0x11, 0x00], ids=["random", "ties", "equal"])
@pytest.mark.parametrize(("n", "m"), [(0, 5), (2, 3), (509, 129), (3001, 4099), (3, 70_000)])
@pytest.mark.parametrize("width", [2, 32, 34, 64])
def test_lists_equal_those_of_the_processor(n, m, width, mask):
    query, train = codes(n, width, 1, mask), codes(m, width, 2, mask)
    for k in (1, 3, 10, 32):
        want = matching.nearest(query, train, k)
        found = matching.nearest(on_gpu(query), on_gpu(train), k).to_host()
        for name in ("index", "distance", "column_index", "column_distance"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=name)
    for limit in (0, 2 * width, 3 * width):
        want = matching.radius(query, train, limit)
        found = matching.radius(on_gpu(query), on_gpu(train), limit).to_host()
        for name in ("offsets", "index", "distance"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=name)


def test_results_are_torch_tensors_on_the_stream_of_the_caller():
    query = on_gpu(codes(1000, 32, 1))
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = cuda.match(query, query.flip(0))
        within = cuda.radius(query, query, 0)
    assert found.pairs.is_cuda
    assert found.pairs.shape == (1000, 2)
    assert torch.equal(found.pairs[:, 1].cpu(), torch.arange(999, -1, -1, dtype=torch.int32))
    assert within.index.is_cuda
    assert torch.equal(within.offsets.cpu(), torch.arange(1001))


def test_host_and_device_arrays_do_not_mix():
    device_array, host_array = on_gpu(codes(3, 32, 1)), codes(3, 32, 2)
    with pytest.raises(TypeError, match=r"^d2: expected an array in GPU memory"):
        cuda.match(device_array, host_array)


@pytest.mark.parametrize("model", ["compact", "tiny"])
def test_models_give_the_bytes_of_the_processor(model):
    on_gpu(codes(1, 32, 1))  # skips without a GPU in torch
    image = textured(400, 500)
    features = [
        bindesc.create(model=model, device=device).extract(image) for device in ("cpu", "cuda")
    ]
    assert len(features[0].xy) > 300
    np.testing.assert_array_equal(features[1].descriptors, features[0].descriptors)


def test_training_on_the_gpu(tmp_path):
    on_gpu(codes(1, 32, 1))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        cv2.imwrite(str(photos / f"{i}.png"), textured(400, 500, seed=i))
    pairs, run = tmp_path / "pairs", tmp_path / "run"
    assert main(["patches", "build", str(photos), "--out", str(pairs), "--views", "2"]) == 0
    train = ["train", "compact", str(pairs), "--steps", "5", "--device", "cuda", "--noise", "0.5"]
    shape = ["--channels", "8,8", "--strides", "2,2", "--orientation", "8,8"]
    assert main([*train, *shape, "--out", str(run)]) == 0
    assert main([*train, *shape, "--out", str(run), "--resume"]) == 0
    assert len(bindesc.create(model=run / "model.safetensors").extract(textured(400, 500)).xy)
    gan = ["train", "bingan", str(pairs), "--steps", "2", "--device", "cuda", "--keep", "last"]
    assert main([*gan, "--out", str(tmp_path / "gan"), "--bfloat16"]) == 0
