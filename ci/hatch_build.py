"""Build hook for editable installs: makes the top folders importable as `closedbook.*` and shows lm-eval the tasks.

A wheel renames folders (see `sources` in pyproject.toml); an editable install only adds a folder to the path. So this
hook lays links under build/editable, and puts a copy of the task files where lm-eval looks for tasks. A copy, because a
wheel cannot hold a link: after an edit of a YAML in tasks/, install again (`make setup` notices). The rest of tasks/,
manifests and data, is read from the checkout itself and not copied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKS = {
    "harness": "harness",
    "training": "training",
    "__init__.py": "harness/package.py",
    "py.typed": "harness/py.typed",
}


class EditableLinks(BuildHookInterface[Any]):
    """Lays build/editable/closedbook as links into the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Do nothing unless the build is an editable one."""
        if version != "editable":
            return
        root = Path(self.root)
        package = root / "build" / "editable" / "closedbook"
        package.mkdir(parents=True, exist_ok=True)
        for name, source in LINKS.items():
            link, target = package / name, root / source
            # one that is right stays as it is: another process may be importing through it
            if not link.is_symlink() or link.readlink() != target:
                new = package / f".{name}-{os.getpid()}"  # in one step, since two environments may be set up at once
                new.symlink_to(target, target_is_directory=target.is_dir())
                new.replace(link)
        tasks = root / "tasks"
        build_data["force_include_editable"] = {
            str(path): f"lm_eval/tasks/closedbook/{path.relative_to(tasks)}" for path in sorted(tasks.rglob("*yaml"))
        }
