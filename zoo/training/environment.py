"""What a run ran on, for ``environment.json``."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from zoo import __version__
from zoo.config import RunConfig
from zoo.parallel.collectives import Group

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "numpy", "safetensors", "tokenizers", "torchmetrics", "hydra-core", "omegaconf", "einops", "wandb")


def environment(config: RunConfig, group: Group, device: torch.device) -> dict[str, Any]:
    """Versions, device, code and config: what has to be equal for equal numbers."""
    return {
        "zoo": __version__,
        "commit": commit(),
        "config": config.hash(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "device": _device_name(device),
        "accelerator": _libraries(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "processes": group.size,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def write_environment(folder: Path, found: dict[str, Any]) -> None:
    (folder / "environment.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def commit() -> str | None:
    """Of the checkout that zoo runs from, with ``+`` where files differ from it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        name = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, encoding="utf-8", timeout=5, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"], capture_output=True, encoding="utf-8", timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):  # no git here: the field stays empty
        return None
    return name + ("+" if changed else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _libraries(device: torch.device) -> dict[str, str | None]:
    """Of the device's own kernels; empty on a CPU."""
    if device.type != "cuda":
        return {}
    driver = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": str(torch.backends.cudnn.version()),
        "capability": f"{driver.major}.{driver.minor}",
        "memory_bytes": str(driver.total_memory),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}: {platform.processor() or platform.machine()}"
