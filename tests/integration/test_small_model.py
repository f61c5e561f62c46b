"""The small models that are prepared from packages."""

import hashlib
import subprocess
import sys
import zipfile

import pytest

from closedbook.harness import small_model as module
from closedbook.harness.errors import RequestError, WorkError


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """pip finds only wheels that this writes, and nothing has been prepared yet."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path / "cache"))

    def write(requirement, file, content):
        name, _, version = requirement.partition("==")
        info = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(folder / f"{info}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(file, content)
            wheel.writestr(f"{info}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}.dist-info/RECORD", "")

    return write


def in_parts(whole):
    """A model that is not there, in two packages."""
    parts = (("gorlim-part1==1.0", "gorlim/one.bin"), ("gorlim-part2==1.0", "gorlim/two.bin"))
    return module.Packaged("gorlim", "tharn/gorlim", "mit", parts, hashlib.sha256(whole).hexdigest(), 1)


@pytest.mark.model
def test_the_small_model_is_prepared_once_from_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path))
    assert module.prepared("smollm2") is None
    folder = module.small_model_dir()
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    monkeypatch.setattr(module, "_download", lambda model, scratch: pytest.fail("prepared twice"))
    assert module.small_model_dir() == folder == module.prepared("smollm2")


@pytest.mark.model
def test_smollm2_names_the_small_model_and_any_other_name_is_itself(small_model, tmp_path, monkeypatch):
    assert module.model_path("smollm2") == str(small_model)
    assert module.model_path("tharn/gorlim-1B") == "tharn/gorlim-1B"
    (tmp_path / "gorlim").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.model_path("~/gorlim") == str(tmp_path / "gorlim")


@pytest.mark.parametrize("name", module.MODELS)
def test_each_name_is_a_folder_of_the_cache(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path))
    folder = tmp_path / module.MODELS[name].folder
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert module.model_path(name) == str(folder)
    with pytest.raises(RequestError, match=f"name a model folder, a hub id or .*{name}"):
        module.model_path(f"./{name}")


def test_parts_are_joined_in_their_order_and_leave_nothing_else(packages, tmp_path):
    packages("gorlim-part2==1.0", "gorlim/two.bin", b"smolt")
    packages("gorlim-part1==1.0", "gorlim/one.bin", b"tharn")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert module._download(in_parts(b"tharnsmolt"), scratch).read_bytes() == b"tharnsmolt"
    assert len(list(scratch.iterdir())) == 1


@pytest.mark.parametrize("name", module.MODELS)
def test_packages_that_cannot_be_had_are_one_line(packages, name):
    with pytest.raises(WorkError, match=r"^cannot download [^\n]+==[^\n]+; name a model folder instead$"):
        module.small_model_dir(name)


@pytest.mark.parametrize("name", module.MODELS)
def test_other_weights_than_expected_are_refused(packages, tmp_path, name):
    for requirement, file in module.MODELS[name].parts:
        packages(requirement, file, "other weights")
    with pytest.raises(WorkError, match=r"other weights than expected: sha256 [0-9a-f]{64}") as refused:
        module.small_model_dir(name)
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WorkError, match=r"^cannot prepare smollm2 in [^\n]+; free space, or name a model folder$"):
        module.small_model_dir()


@pytest.mark.model
def test_weights_that_no_longer_load_are_one_line(packages, monkeypatch):
    model = in_parts(b"no weights")
    packages(model.parts[0][0], model.parts[0][1], b"no ")
    packages(model.parts[1][0], model.parts[1][1], b"weights")
    monkeypatch.setattr(module, "MODELS", {"gorlim": model})
    with pytest.raises(WorkError, match=r"^cannot prepare gorlim in [^\n]+$"):
        module.small_model_dir("gorlim")


def test_the_module_names_the_models_that_there_are():
    command = [sys.executable, "-m", "closedbook.harness.small_model", "gorlim"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are smollm2, gemma-270m, qwen-0.5b" in done.stderr
