"""CIFAR-10 from a folder: 50,000 training and 10,000 test images of 10 classes, 32x32 pixels, RGB.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Three layouts are read:

- Python batches: ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, pickled;
- binary batches: ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``;
- sheets: ``train_CLASS_K.jpg`` and ``test_CLASS_K.jpg``, each of 25 rows of 40 images of a class,
  filled row by row. They went through JPEG, so that scores do not compare exactly with those on
  the batches.

The batches may lie in ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, as torchvision and the
archives have them.
"""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..image import read_image

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""The name of each label."""

Subset = Literal["train", "test"]
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]

_SIDE = 32
_VALUES = 3 * _SIDE**2
_ROWS, _COLUMNS = 25, 40  # of a sheet
_NAMES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
# All that a pickled array names: by protocols up to 4 and from 5 on, in NumPy 1 and 2.
_RECONSTRUCT, _FROM_BUFFER = (np.empty(1).__reduce_ex__(protocol)[0] for protocol in (4, 5))
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): codecs.encode,
}


class CifarError(ValueError):
    """A folder or file that is not CIFAR-10; the text names it and the reason."""


def holds_cifar10(folder: Path) -> bool:
    """Whether a folder looks like CIFAR-10, complete or not."""
    patterns = ("data_batch_*", "cifar-10-batches-*/data_batch_*", "train_airplane_*.jpg")
    return any(any(folder.glob(pattern)) for pattern in patterns)


def read_cifar10(folder: Path, subset: Subset) -> Images:
    """Read one half of CIFAR-10, in any of the layouts.

    Args:
        folder: see the module.
        subset: ``"train"`` or ``"test"``.

    Returns:
        Images ``(N, 32, 32, 3)`` uint8, RGB, and labels ``(N,)`` int64, 0 to 9; sheets come in the
        order of classes, batches in that of the files.

    Raises:
        CifarError: there is no such folder, a file is missing, truncated or of another size, or it
            holds other objects than arrays.
        ImageError: a sheet cannot be read.
    """
    if not folder.is_dir():
        raise CifarError(f"{folder}: no such folder")
    names = _NAMES[subset]
    for root in (folder, folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"):
        for suffix, read in (("", _python_batch), (".bin", _binary_batch)):
            paths = [root / (name + suffix) for name in names]
            found = [path for path in paths if path.is_file()]
            if found:
                missing = [path.name for path in paths if path not in found]
                if missing:
                    raise CifarError(f"{root}: {', '.join(missing)} missing")
                return _join([read(path) for path in paths])
    if any(folder.glob(f"{subset}_*.jpg")):
        sheets = [(path, i) for i, n in enumerate(CLASSES) for path in _sheets(folder, subset, n)]
        return _join([_sheet(path, label) for path, label in sheets])
    raise CifarError(
        f"{folder}: no CIFAR-10 {subset} images: neither {names[0]}, {names[0]}.bin "
        f"nor {subset}_{CLASSES[0]}_0.jpg"
    )


def _join(parts: list[Images]) -> Images:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _from_planes(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, 3072)``, the red plane first, to ``(N, 32, 32, 3)``."""
    return np.ascontiguousarray(values.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _check_labels(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    wrong = labels[(labels < 0) | (labels >= len(CLASSES))]
    if len(wrong):
        raise CifarError(f"{path}: a label is {wrong[0]}, expected 0 to 9")
    return labels.astype(np.int64)


def _binary_batch(path: Path) -> Images:
    """Rows of a label and 3072 values, a byte each."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(data) or len(data) % (1 + _VALUES):
        raise CifarError(
            f"{path}: {len(data)} bytes, expected a multiple of {1 + _VALUES}: truncated?"
        )
    rows = data.reshape(-1, 1 + _VALUES)
    return _from_planes(rows[:, 1:]), _check_labels(path, rows[:, 0])


def _python_batch(path: Path) -> Images:
    """A pickled dictionary of ``data``, ``(N, 3072)`` uint8, and ``labels``, N numbers."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except CifarError as error:
        raise CifarError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise CifarError(f"{path}: damaged or truncated ({error})") from None
    entries = {_text(k): v for k, v in batch.items()} if isinstance(batch, Mapping) else {}
    data, labels = entries.get("data"), entries.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_VALUES,):
        raise CifarError(f"{path}: 'data' is not (N, {_VALUES}) uint8")
    if not isinstance(labels, (list, np.ndarray)) or len(labels) != len(data):
        raise CifarError(f"{path}: 'labels' are not {len(data)} numbers")
    numbers = np.array(labels)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise CifarError(f"{path}: 'labels' are not {len(data)} numbers")
    return _from_planes(data), _check_labels(path, numbers)


def _text(key: Any) -> Any:
    return key.decode("latin-1") if isinstance(key, bytes) else key


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays of numbers and plain Python values; runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CifarError(f"holds {module}.{name}, which is not an array; not loaded")
        return _ALLOWED[module, name]


def _sheets(folder: Path, subset: Subset, name: str) -> list[Path]:
    """The sheets of a class: numbers 0, 1, ... without a gap."""
    found = {path.stem: path for path in folder.glob(f"{subset}_{name}_*.jpg")}
    wanted = [f"{subset}_{name}_{k}" for k in range(max(len(found), 1))]
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        raise CifarError(f"{folder / missing[0]}.jpg: missing")
    return [found[stem] for stem in wanted]


def _sheet(path: Path, label: int) -> Images:
    sheet = read_image(path)
    if sheet.shape != (_ROWS * _SIDE, _COLUMNS * _SIDE, 3):
        raise CifarError(
            f"{path}: {sheet.shape}, expected {_ROWS} rows of {_COLUMNS} colour images of "
            f"{_SIDE}x{_SIDE}"
        )
    tiles = sheet.reshape(_ROWS, _SIDE, _COLUMNS, _SIDE, 3).swapaxes(1, 2)
    images = np.ascontiguousarray(tiles.reshape(-1, _SIDE, _SIDE, 3)[..., ::-1])  # BGR to RGB
    return images, np.full(len(images), label)
