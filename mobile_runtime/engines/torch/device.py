"""The devices of PyTorch: which there are, and what they hold."""

from __future__ import annotations

from dataclasses import replace

import torch

from mobile_runtime.engines.memory import Limits, memory_share
from mobile_runtime.errors import InputError

_SHARE = 4  # parts of a GPU's memory, of which the values of graphs may take one


def check_device(name: str) -> torch.device:
    """The device that PyTorch calls `name`. Raises `InputError` if it does not have it here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)  # the only check that holds for every kind of device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"PyTorch has no device {name!r:.40} here; it has {', '.join(_present())}."
        ) from error
    if device.type == "meta":
        raise InputError("The device meta computes nothing; give cpu, cuda or mps.")
    return device


def _present() -> list[str]:
    names = ["cpu"]
    names += [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return names + (["mps"] if torch.backends.mps.is_available() else [])


def limits_on(device: torch.device, limits: Limits) -> Limits:
    """The limits on a device: if they leave the memory open, a quarter of what the device has."""
    if device.type != "cuda" or limits.memory is not None:
        return limits
    total = int(torch.cuda.get_device_properties(device).total_memory)
    return replace(limits, memory=total / _SHARE / (1 << 30))


def check_weights(device: torch.device, nbytes: int) -> None:
    """Raises `InputError` if expanded weights of `nbytes` do not fit on the device."""
    free = 3 * memory_share(0)  # a quarter is left to values
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if free and nbytes > free:
        raise InputError(
            f"The weights take {nbytes:,} bytes when they are expanded, and the device {device} "
            f"has {free:,}; use the engine mil, which keeps them compressed, or a larger device."
        )
