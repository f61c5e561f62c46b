"""Configurations for `accelerate launch`: one way each to train on several GPUs.

What surprises: they state no number of processes, so that nobody gets another machine's; accelerate then asks for
`--num_processes`. Nor do they state a precision: accelerate's default would win over `precision: float32` of a recipe.

    >>> accelerate_names()
    ['ddp', 'fsdp', 'multi_node', 'zero3']
"""

from __future__ import annotations

from pathlib import Path


def accelerate_dir() -> Path:
    """Where the configurations of the package lie, for `accelerate launch --config_file FOLDER/NAME.yaml`."""
    return Path(__file__).parent


def accelerate_names() -> list[str]:
    """Names of the configurations of the package, sorted."""
    return sorted(path.stem for path in accelerate_dir().glob("*.yaml"))
