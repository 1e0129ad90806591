"""Mixed precision where a device gains by it."""

from __future__ import annotations

import torch


def autocast(device: torch.device) -> torch.autocast:
    """Convolutions in bfloat16, on devices that have instructions for it.

    Without them (processors without AVX-512, GPUs before Ampere) it is emulated, on a CPU ten times
    slower than float32, which is kept there.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes convolutions in bfloat16 fast."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    with_onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return with_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
