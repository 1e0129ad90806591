"""Model files: one safetensors file that carries its own manifest, checked on every load.

The manifest (architecture, configuration, training command, golden output, sha256) stands in the
file's metadata. The sha256 covers the manifest and every tensor, so that a file with any changed
byte is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path
from .log_polar import REACH
from .models.integer import (
    CODES,
    ORIENTATION,
    IntegerLayer,
    activations,
    is_integer,
    to_tensors,
)
from .orientation import adapt_patches, adaptation_steps, halve
from .packing import pack_bits

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".safetensors"
_FOLDER = Path(__file__).parent / "weights"
_FORMAT = 1
_GOLDEN_CANDIDATES = 64
_GOLDEN_CLEARANCE = 1e-3


class WeightsError(ValueError):
    """A model file that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True)
class Manifest:
    """What a model file says about itself.

    Attributes:
        name: of the model.
        architecture: a key of :data:`ARCHITECTURES`.
        config: the fields of the architecture's configuration.
        command: the command that trained it.
        golden: what the model must output: ``patches``, indices into :func:`golden_patches`, and
            ``codes``, their codes in hexadecimal. All patches for a model in integers, which is
            exact.
        format: version of this layout.
        sha256: over all other fields and all tensors.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    command: str
    golden: dict[str, Any]
    format: int
    sha256: str

    @property
    def log_polar(self) -> bool:
        """Whether the network sees log-polar patches, see :mod:`bindesc.log_polar`."""
        return bool(self.config.get("log_polar", False))

    @property
    def reach(self) -> float:
        """Diameter of the last ring over the side of the patch that ``support`` speaks of."""
        return REACH if self.log_polar else 1.0


def list_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*" + SUFFIX))


def model_path(model: str | os.PathLike[str]) -> Path:
    """The file of a shipped model's name, or of a path.

    Raises:
        WeightsError: there is no such file.
    """
    path = Path(model)
    if path.suffix != SUFFIX:
        if str(model) not in list_models():
            names = ", ".join(list_models()) or "none"
            raise WeightsError(
                f"model: {str(model)!r} is neither a shipped model ({names}) nor a {SUFFIX} file"
            )
        path = _FOLDER / (str(model) + SUFFIX)
    if not path.is_file():
        raise WeightsError(f"{path}: no such model file")
    return path


def read_model(
    model: str | os.PathLike[str],
) -> tuple[Manifest, dict[str, NDArray[Any]]]:
    """Read a model file and check its sha256.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.

    Returns:
        The manifest and the tensors by name, as stored: of the network in floating point, and of
        the one in integers if there is one, see :mod:`bindesc.models.integer`.

    Raises:
        WeightsError: no such model, not a bindesc model file, or it was changed or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = model_path(model)
    data = path.read_bytes()
    try:
        tensors = load(data)
        values = json.loads(_metadata(data)["bindesc"])
        manifest = Manifest(**values)
    except (SafetensorError, KeyError, TypeError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a bindesc model, or damaged ({error})") from None
    expected = _digest({k: v for k, v in values.items() if k != "sha256"}, tensors)
    if manifest.sha256 != expected:
        raise WeightsError(
            f"{path}: sha256 is {expected}, the manifest says {manifest.sha256}: "
            "the file was changed or damaged"
        )
    if manifest.format != _FORMAT:
        raise WeightsError(f"{path}: format {manifest.format}, this version reads {_FORMAT}")
    return manifest, tensors


def load_model(model: str | os.PathLike[str]) -> tuple[nn.Module, Manifest]:
    """Build the network of a model file and load its weights, strictly.

    Returns:
        The network in evaluation mode, float32 on the CPU, and the manifest.

    Raises:
        WeightsError: see :func:`read_model`; or the tensors do not fit the architecture.
    """
    manifest, tensors = read_model(model)
    return restore_network(model, manifest, tensors), manifest


def restore_network(
    model: str | os.PathLike[str], manifest: Manifest, tensors: Mapping[str, NDArray[Any]]
) -> nn.Module:
    """The network of what :func:`read_model` returned; see :func:`load_model`."""
    import torch

    try:
        network = build_network(manifest.architecture, manifest.config)
        state = {
            name: torch.from_numpy(value).float()
            for name, value in tensors.items()
            if not is_integer(name)
        }
        network.load_state_dict(state, strict=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{model}: the tensors do not fit the architecture ({error})") from None
    return network.eval()


def load_weights(network: nn.Module, model: str | os.PathLike[str]) -> None:
    """Copy a model file's weights into a network of the same architecture and configuration.

    Raises:
        WeightsError: see :func:`load_model`; or the configurations differ.
    """
    source, _ = load_model(model)
    found, wanted = describe_network(source), describe_network(network)
    if found != wanted:
        raise WeightsError(
            f"{model}: is {' '.join(map(str, found))}, wanted {' '.join(map(str, wanted))}"
        )
    network.load_state_dict(source.state_dict())


def save_model(
    path: Path,
    network: nn.Module,
    *,
    name: str | None = None,
    command: str = "",
    calibration: Mapping[str, NDArray[np.uint8]] | None = None,
) -> Manifest:
    """Write a network as a model file, atomically.

    Weights are stored as float16, one-dimensional tensors (batch normalisation) as float32.

    Args:
        path: ends in ``.safetensors``.
        network: of one of the :data:`ARCHITECTURES`.
        name: of the model; by default the file's stem.
        command: the command that trained it.
        calibration: what the networks see of training data, a few hundred patches: ``(N, 32, 32)``
            uint8 as :data:`CODES`, and ``(N, 16, 16)`` as :data:`ORIENTATION` if the network has
            an orientation. With them a compact network is stored in integers too, which is what is
            then run; one with an orientation needs them.

    Raises:
        ValueError: ``path`` has another suffix, or ``calibration`` is missing.
        FloatingPointError: a weight is not finite.
    """
    import torch
    from safetensors.numpy import save

    if path.suffix != SUFFIX:
        raise ValueError(f"path: a model file ends in {SUFFIX}, got {path}")
    architecture, config = describe_network(network)
    with np.errstate(over="ignore"):
        tensors = {
            key: np.ascontiguousarray(value.detach().cpu().numpy()).astype(
                np.float16 if value.ndim > 1 else np.float32
            )
            for key, value in network.state_dict().items()
        }
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise FloatingPointError(f"{path}: not written, {key} is not finite in {value.dtype}")
    stored = build_network(architecture, config)
    stored.load_state_dict({k: torch.from_numpy(v).float() for k, v in tensors.items()})
    stored.eval()
    layers: list[IntegerLayer] = []
    orientation: list[IntegerLayer] = []
    orientation_network = getattr(stored, "orientation", None)
    if calibration is not None:
        from .models.integer_torch import quantise

        layers = quantise(cast("Any", stored), calibration[CODES])
        if orientation_network is not None:
            orientation = quantise(orientation_network, calibration[ORIENTATION], one_unit=True)
        tensors |= to_tensors(layers) | to_tensors(orientation, ORIENTATION)
    elif orientation_network is not None:
        raise ValueError("calibration: a network with an orientation needs patches")
    values = {
        "name": name or path.stem,
        "architecture": architecture,
        "config": json.loads(json.dumps(config)),
        "command": command,
        "golden": _exact_golden(layers, orientation) if layers else _golden_output(stored),
        "format": _FORMAT,
    }
    values["sha256"] = _digest(values, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, {"bindesc": json.dumps(values)}))
    return Manifest(**values)


def golden_patches() -> NDArray[np.uint8]:
    """Fixed synthetic patches, ``(64, 32, 32)`` uint8: box-blurred noise, made of integers only."""
    raw = np.random.PCG64(0).random_raw(_GOLDEN_CANDIDATES * 40 * 40 // 8)
    noise = np.frombuffer(raw.astype("<u8").tobytes(), np.uint8).reshape(-1, 40, 40).astype(int)
    for axis in (1, 2):
        total = np.cumsum(noise, axis=axis)
        upper = np.take(total, np.arange(8, 40), axis=axis)
        noise = upper - np.take(total, np.arange(0, 32), axis=axis)
    return np.clip((noise // 64 - 128) * 4 + 128, 0, 255).astype(np.uint8)


def golden_codes(manifest: Manifest) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The golden patches of a model, ``(G, 32, 32)`` uint8, and the codes it must give them."""
    codes = np.frombuffer(bytes.fromhex(manifest.golden["codes"]), np.uint8)
    chosen = manifest.golden["patches"]
    return golden_patches()[chosen], codes.reshape(len(chosen), -1)


def _exact_golden(layers: list[IntegerLayer], orientation: list[IntegerLayer]) -> dict[str, Any]:
    patches = golden_patches()
    if orientation:
        steps = adaptation_steps(activations(orientation, halve(patches)))
        patches = adapt_patches(patches, steps)
    codes = pack_bits(activations(layers, patches) >= 0)
    return {"patches": list(range(len(codes))), "codes": codes.tobytes().hex()}


def _golden_output(network: nn.Module) -> dict[str, Any]:
    """Codes of those patches whose every activation is clear of zero.

    Rounding differs between processors by far less than the clearance, so that these codes are
    the same on all of them.
    """
    import torch

    with torch.no_grad():
        patches = torch.from_numpy(golden_patches()).float()[:, None]
        values = network(patches).numpy()
    clear = np.flatnonzero((np.abs(values) > _GOLDEN_CLEARANCE).all(axis=1))
    return {"patches": clear.tolist(), "codes": pack_bits(values[clear] >= 0).tobytes().hex()}


def _architectures() -> dict[str, tuple[type[Any], type[Any]]]:
    """Name to configuration and network; imported late, because the networks need torch."""
    from .models.bingan import BinGanConfig, PatchDiscriminator, PrincipalDiscriminator
    from .models.compact import CompactConfig, CompactNet
    from .models.compact_retrieval import CompactRetrievalConfig, CompactRetrievalNet
    from .models.retrieval import RetrievalConfig, RetrievalDiscriminator

    return {
        "bingan": (BinGanConfig, PatchDiscriminator),
        "bingan-pca": (BinGanConfig, PrincipalDiscriminator),
        "bingan-retrieval": (RetrievalConfig, RetrievalDiscriminator),
        "compact": (CompactConfig, CompactNet),
        "compact-retrieval": (CompactRetrievalConfig, CompactRetrievalNet),
    }


def build_network(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """An untrained network from a manifest's two fields.

    Raises:
        KeyError: unknown architecture.
        TypeError: the configuration has other fields.
    """
    config_type, network_type = _architectures()[architecture]
    known = {f.name for f in fields(config_type)}
    if not known >= set(config):  # a file from before a field was added has its default
        raise TypeError(f"configuration: fields {sorted(config)}, expected {sorted(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return network_type(config_type(**values))


def describe_network(network: Any) -> tuple[str, dict[str, Any]]:
    """The two fields of a manifest that :func:`build_network` takes."""
    for name, (_, network_type) in _architectures().items():
        if type(network) is network_type:
            return name, asdict(network.config)
    raise TypeError(f"network: {type(network).__name__} is no architecture of bindesc")


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: a length, then JSON."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def _digest(values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
