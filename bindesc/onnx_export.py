"""A model as an ONNX file, for ONNX Runtime, OpenVINO, TensorRT or cv2.dnn."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

from .files import atomic_path
from .patches import PATCH_SIDE
from .weights import load_model


def export_onnx(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the network of a model as ONNX, in float32.

    Its input ``patches`` is ``(N, 1, 32, 32)`` float32, 0 to 255, for any N; its output
    ``activations`` is ``(N, bits)`` float32; bit = activation >= 0, packed most significant bit
    first. The network in integers, which bindesc itself runs, differs from it in about 1 % of the
    bits: describe all images by the same one of the two.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        path: the file to write.

    Raises:
        WeightsError: see :func:`bindesc.weights.load_model`.
        ModuleNotFoundError: the package onnx is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    import torch

    if importlib.util.find_spec("onnx") is None:
        raise ModuleNotFoundError("writing ONNX needs the package onnx: pip install bindesc[onnx]")
    loaded: Any = load_model(model)[0]
    network = loaded.for_inference()
    example = torch.zeros(2, 1, PATCH_SIDE, PATCH_SIDE)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # The newer exporter needs a further package, onnxscript.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            temporary,
            input_names=["patches"],
            output_names=["activations"],
            dynamic_axes={"patches": {0: "n"}, "activations": {0: "n"}},
            dynamo=False,
        )
