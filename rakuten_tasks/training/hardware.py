"""The hardware: device, arithmetic, and what the bits of a training depend on."""

from __future__ import annotations

import platform

import torch

from rakuten_tasks.config import Precision
from rakuten_tasks.training.distributed import world_size


def half_precision(device: torch.device) -> bool:
    """Tell whether the hardware computes in bf16; emulated, it is eight times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device, precision: Precision = Precision.AUTO) -> torch.autocast:
    """Return the context of a precision: of AUTO, and of what int8 leaves to floats, bf16 where the hardware has it."""
    fixed = precision in (Precision.FLOAT32, Precision.BFLOAT16)
    enabled = precision is Precision.BFLOAT16 if fixed else half_precision(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware_info() -> str:
    """Describe CPU type, instruction set, threads, GPU and torch in one line, for people to compare."""
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    return f"{processor}, {gpu}, torch {torch.__version__}{processes}"
