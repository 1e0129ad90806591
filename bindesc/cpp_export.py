"""A model as one file for the C++ library, see ``cuda_ext/bindesc.h``."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

from .files import atomic_path
from .models.integer import ORIENTATION, IntegerLayer, from_tensors
from .weights import WeightsError, read_model

_MAGIC = b"bindesc3"


def export_cpp(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the networks of a model, in integers, as ``bindesc::Extractor`` reads them.

    Little-endian: ``bindesc3``, the support (float64), whether patches are log-polar (uint32), the
    network of the codes, the orientation network if there is one, and a CRC-32 of all before. A
    network is its number of layers (uint32); a layer its channels, height, width, inputs and stride
    (uint32 each), weights, bias and, but for the last one, multipliers, see
    :class:`bindesc.models.integer.IntegerLayer`.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        path: the file to write.

    Raises:
        WeightsError: see :func:`bindesc.weights.read_model`; or the model runs in floating point.
        OSError: the file cannot be written; nothing is left of it.
    """
    manifest, tensors = read_model(model)
    layers, orientation = from_tensors(tensors), from_tensors(tensors, ORIENTATION)
    if not layers:
        raise WeightsError(
            f"{model}: runs in floating point; the C++ library runs models in integers, such as "
            "compact and what 'bindesc train compact' makes"
        )
    support = float(manifest.config["support"]) * manifest.reach
    data = _MAGIC + struct.pack("<dI", support, manifest.log_polar)
    data += _network(layers)
    if orientation:
        data += _network(orientation)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data + struct.pack("<I", zlib.crc32(data)))


def _network(layers: Sequence[IntegerLayer]) -> bytes:
    parts = [struct.pack("<I", len(layers))]
    for layer in layers:
        parts.append(struct.pack("<5I", *layer.weights.shape, layer.stride))
        parts.append(layer.weights.astype("<i1").tobytes())
        parts.append(layer.bias.astype("<i4").tobytes())
        if layer.multiplier is not None:
            parts.append(layer.multiplier.astype("<f4").tobytes())
    return b"".join(parts)
