import os
import pickle

import cv2
import numpy as np
import pytest

from bindesc.image import ImageError
from bindesc.training.cifar10 import CLASSES, CifarError, read_cifar10

COUNT = 6


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (COUNT, 32, 32, 3), np.uint8), rng.integers(0, 10, COUNT)


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def names(subset):
    return [f"data_batch_{k}" for k in range(1, 6)] if subset == "train" else ["test_batch"]


def write_python(folder, subset, protocol=2):
    for seed, name in enumerate(names(subset)):
        images, labels = batch(seed)
        content = {b"data": planes(images), b"labels": labels.tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol))


def write_binary(folder, subset):
    for seed, name in enumerate(names(subset)):
        images, labels = batch(seed)
        rows = np.column_stack([labels.astype(np.uint8), planes(images)])
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_sheet(path, images):
    """Images ``(1000, 32, 32, 3)`` RGB."""
    sheet = images.reshape(25, 40, 32, 32, 3).swapaxes(1, 2).reshape(800, 1280, 3)
    assert cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def flat_images(first):
    """Each image of one colour, of which red tells the number."""
    images = np.zeros((1000, 32, 32, 3), np.uint8)
    images[..., 0] = (np.arange(1000) % 40 * 6)[:, None, None]
    images[..., 1] = (np.arange(1000) // 40 * 10)[:, None, None]
    images[..., 2] = first
    return images


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("subset", ["train", "test"])
def test_python_batches(tmp_path, subfolder, protocol, subset):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_python(tmp_path / subfolder, subset, protocol)
    images, labels = read_cifar10(tmp_path, subset)
    count = COUNT * len(names(subset))
    assert (images.shape, images.dtype) == ((count, 32, 32, 3), np.uint8)
    assert labels.dtype == np.int64
    for seed in range(len(names(subset))):
        span = slice(COUNT * seed, COUNT * (seed + 1))
        assert (images[span] == batch(seed)[0]).all()
        assert (labels[span] == batch(seed)[1]).all()


def test_python_batches_of_numpy_1(tmp_path):
    """The original files name NumPy's old module."""
    write_python(tmp_path, "test")
    path = tmp_path / "test_batch"
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(old)
    assert (read_cifar10(tmp_path, "test")[0] == batch(0)[0]).all()


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-bin"])
def test_binary_batches(tmp_path, subfolder):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_binary(tmp_path / subfolder, "train")
    images, labels = read_cifar10(tmp_path, "train")
    assert (images[COUNT : 2 * COUNT] == batch(1)[0]).all()
    assert (labels[COUNT : 2 * COUNT] == batch(1)[1]).all()


def test_sheets(tmp_path):
    for name in CLASSES:
        for k in range(2 if name == "bird" else 1):
            write_sheet(tmp_path / f"test_{name}_{k}.jpg", flat_images(200 * k))
    images, labels = read_cifar10(tmp_path, "test")
    assert images.shape == (11_000, 32, 32, 3)
    assert (np.bincount(labels) == [1000, 1000, 2000] + [1000] * 7).all()
    middle = images[:, 12:20, 12:20].mean((1, 2))
    assert np.abs(middle[:1000] - flat_images(0)[:, 0, 0]).max() < 8
    assert np.abs(middle[3000:4000] - flat_images(200)[:, 0, 0]).max() < 8


# Errors.


def test_nothing_there(tmp_path):
    with pytest.raises(CifarError, match="no such folder"):
        read_cifar10(tmp_path / "none", "train")
    with pytest.raises(CifarError, match=r"neither data_batch_1, data_batch_1\.bin nor train"):
        read_cifar10(tmp_path, "train")


def test_a_missing_batch(tmp_path):
    write_python(tmp_path, "train")
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(CifarError, match="data_batch_3 missing"):
        read_cifar10(tmp_path, "train")


def test_a_missing_sheet(tmp_path):
    write_sheet(tmp_path / "test_airplane_0.jpg", flat_images(0))
    with pytest.raises(CifarError, match=r"test_automobile_0\.jpg: missing"):
        read_cifar10(tmp_path, "test")
    write_sheet(tmp_path / "test_airplane_2.jpg", flat_images(0))
    with pytest.raises(CifarError, match=r"test_airplane_1\.jpg: missing"):
        read_cifar10(tmp_path, "test")


def test_a_sheet_of_another_size(tmp_path):
    cv2.imwrite(str(tmp_path / "test_airplane_0.jpg"), np.zeros((800, 1248, 3), np.uint8))
    for name in CLASSES[1:]:
        (tmp_path / f"test_{name}_0.jpg").touch()
    with pytest.raises(CifarError, match=r"test_airplane_0\.jpg: \(800, 1248, 3\), expected 25"):
        read_cifar10(tmp_path, "test")
    write_sheet(tmp_path / "test_airplane_0.jpg", flat_images(0))
    with pytest.raises(ImageError, match="test_automobile_0"):
        read_cifar10(tmp_path, "test")


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_truncated_batches(tmp_path, suffix):
    (write_binary if suffix else write_python)(tmp_path, "test")
    path = tmp_path / f"test_batch{suffix}"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CifarError, match=r"test_batch.*truncated"):
        read_cifar10(tmp_path, "test")
    path.write_bytes(b"")
    with pytest.raises(CifarError, match=r"test_batch.*truncated"):
        read_cifar10(tmp_path, "test")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_runs_nothing(tmp_path):
    made = tmp_path / "made"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Attack(str(made))}))
    with pytest.raises(CifarError, match=r"test_batch: holds .*mkdir.* not loaded"):
        read_cifar10(tmp_path, "test")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "'data' is not"),
        ({b"data": np.zeros((2, 3000), np.uint8), b"labels": [1, 2]}, "'data' is not"),
        ({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, "'data' is not"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "'labels' are not 2 numbers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "'labels' are not 2 numbers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]}, "'labels' are not"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, "a label is 10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 1]}, "a label is -1"),
    ],
)
def test_other_python_batches(tmp_path, content, message):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(CifarError, match=f"test_batch: {message}"):
        read_cifar10(tmp_path, "test")
