"""What a number depends on besides the model: the versions of the packages that made it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("closedbook", "lm_eval", "datasets", "transformers", "torch", "vllm")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a number can depend on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
