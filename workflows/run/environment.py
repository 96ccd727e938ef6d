"""What a step ran in: the part that must be equal for a result to be reused, and the envelope that may explain a difference."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from workflows.prove import digest

NUMERIC = ("alibi-detect", "fairlearn", "lightgbm", "numpy", "optuna", "pandas", "pyarrow", "scikit-learn", "scipy")
IMAGE = "COUNTERSIGN_IMAGE"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def key(lock: str) -> str:
    """Digest of what a cached result depends on beside code, parameters and inputs: locked requirements, interpreter, architecture.

    Processor, libc and image are left out, so that laptop and cluster share results; the envelope records them.
    """
    return digest.tagged("environment", lock, f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}", platform.machine())


@functools.cache
def envelope() -> dict[str, Any]:
    """What two runs are compared by when their results differ: interpreter, libc, processor, packages, threads."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": platform.system(),
        "libc": "-".join(platform.libc_ver()),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
        "packages": {name: _version(name) for name in NUMERIC},
        "image": os.environ.get(IMAGE, ""),
    }


def image() -> str | None:
    """sha256 of the image that this runs in; None outside an image, or in one that was named by a tag."""
    found = re.search(r"@sha256:([0-9a-f]{64})$", os.environ.get(IMAGE, ""))
    return found[1] if found else None


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each entry of the envelope that differs."""
    flat, other = _flat(recorded), _flat(now)
    return [
        f"{k}: recorded {_short(flat.get(k))}, here {_short(other.get(k))}" for k in sorted({*flat, *other}) if flat.get(k) != other.get(k)
    ]


def _flat(value: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in value.items():
        flat |= _flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v}
    return flat


def _short(value: object, limit: int = 60) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _cpu() -> dict[str, str]:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return {"model": platform.processor(), "flags": ""}
    facts = {k.strip(): v.strip() for k, v in lines.items()}
    return {"model": facts.get("model name", ""), "flags": " ".join(sorted(facts.get("flags", "").split()))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
