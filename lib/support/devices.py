"""Devices and dtypes by name: what is there, what it computes natively. Of `support` this and `packed` need torch."""

import os

import torch

from lib.support.checks import check_choice

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
if hasattr(os, "register_at_fork"):
    # A fork has none of its parent's threads, and torch waits for them for ever; workers of a DataLoader do the same.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def native_dtype(device: torch.device) -> str:
    """Return the name of the fastest dtype that `device` computes natively, "bfloat16" or "float32"."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        native = False
    return "bfloat16" if native else "float32"


def training_device(name: str | None = None) -> torch.device:
    """Return the device to train on: "cpu", "cuda" or "cuda:1"; None is the GPU if there is one.

    Raises ValueError for another device, and for a GPU that is not there.
    """
    n_gpus = torch.cuda.device_count()
    if name is None:
        return torch.device("cuda" if n_gpus else "cpu")
    gpus = ["cuda", *(f"cuda:{number}" for number in range(n_gpus))] if n_gpus else []
    return torch.device(check_choice(name, ["cpu", *gpus], "device"))
