"""A model as an ONNX file, for ONNX Runtime, OpenVINO, TensorRT or cv2.dnn."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import atomic_path
from .models.integer import ORIENTATION_SIDE
from .patches import PATCH_SIDE
from .weights import load_model

if TYPE_CHECKING:
    from torch import nn


def export_onnx(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> list[Path]:
    """Write the network of a model as ONNX, in float32.

    Its input ``patches`` is ``(N, 1, 32, 32)`` float32, 0 to 255, for any N (``(N, 3, 32, 32)``,
    RGB, of a model for whole images). Those of ``compact`` and ``tiny`` are log-polar, see
    :meth:`bindesc.patches.PatchCutter.cut_log_polar`. Its output ``activations`` is ``(N, bits)``
    float32; bit = activation >= 0, packed most significant bit first. What bindesc itself runs of
    ``compact`` and ``tiny``, in integers, differs from it in about 1 % of the bits: describe all
    images by the same one of the two.

    A model with an orientation network gives a second file, ``NAME.orientation.onnx``: ``patches``
    is ``(N, 1, 16, 16)``, the same at half their side, see :func:`bindesc.orientation.halve`, and
    ``outputs`` ``(N, 4)``: how each must be turned and stretched first, see
    :func:`bindesc.orientation.adapt_patches`.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        path: the file to write.

    Returns:
        What was written.

    Raises:
        WeightsError: see :func:`bindesc.weights.load_model`.
        ModuleNotFoundError: the package onnx is not installed.
        OSError: a file cannot be written; nothing is left of it.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ModuleNotFoundError("writing ONNX needs the package onnx: pip install bindesc[onnx]")
    loaded: Any
    loaded, manifest = load_model(model)
    written = [Path(path)]
    shape = int(manifest.config.get("inputs", 1)), PATCH_SIDE, PATCH_SIDE
    _write(loaded.for_inference(), shape, "activations", written[0])
    orientation = getattr(loaded, "orientation", None)
    if orientation is not None:
        written.append(written[0].with_suffix(".orientation.onnx"))
        shape = 1, ORIENTATION_SIDE, ORIENTATION_SIDE
        _write(orientation.for_inference(), shape, "outputs", written[1])
    return written


def _write(network: nn.Module, shape: tuple[int, int, int], output: str, path: Path) -> None:
    import torch

    with atomic_path(path) as temporary, warnings.catch_warnings():
        # The newer exporter needs a further package, onnxscript.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            temporary,
            input_names=["patches"],
            output_names=[output],
            dynamic_axes={"patches": {0: "n"}, output: {0: "n"}},
            dynamo=False,
        )
