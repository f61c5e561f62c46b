"""Files are written whole or not at all: really, with a full disk and a killed process."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import cache_dir, folder_when_whole, model_digest, tasks_dir, write_bytes, write_text

WRITE = """
import sys
from pathlib import Path
from closedbook.harness.errors import WorkError
from closedbook.harness.files import write_text
try:
    write_text(Path(sys.argv[1]), "new " * 100_000)
except WorkError as error:
    sys.exit(str(error))
"""


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "zwölf\n")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "zwölf\n".encode()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["x", "x/y"])
def test_a_file_in_the_place_of_a_folder_is_a_wrong_request(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(RequestError, match=r"^cannot write .*: Not a directory; choose another name$"):
        write_text(tmp_path / "file" / name, "new")
    assert (tmp_path / "file").read_text() == "old"


def test_what_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(WorkError):
        write_text(tmp_path / "file", "\ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


@pytest.fixture(params=["a loop of links", "a\0b", "x" * 300, "x" * 300 + "/file"])
def no_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What no file can be called."""
    (tmp_path / "a loop of links").symlink_to(tmp_path / "another link")
    (tmp_path / "another link").symlink_to(tmp_path / "a loop of links")
    return tmp_path / str(request.param)


def test_what_no_file_can_be_called_is_told_in_one_line(no_path: Path) -> None:
    for place in (no_path, no_path / "below"):
        with pytest.raises(RequestError, match=r"^cannot write '.*': [^\n\0]+; choose another name$"):
            write_text(place, "new")
        with pytest.raises(RequestError, match=r"choose another name$"), folder_when_whole(place):
            pass


def test_a_file_that_reaches_its_limit_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(WorkError) as error:
            write_text(tmp_path / "file", "new " * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == f"cannot write {tmp_path}/file: File too large; free space or choose another folder"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" && echo -n old > "$1/file"'
    if (
        not unshare
        or subprocess.run([unshare, "-rm", "sh", "-c", mount, "-", tmp_path], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a small file system here; the limit on a file's size is tried all the same")
    script = f'{mount} && "$2" -c "$3" "$1/file"; ls -A "$1"; cat "$1/file"'
    command = [unshare, "-rm", "sh", "-c", script, "-", str(tmp_path), sys.executable, WRITE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.stderr == f"cannot write {tmp_path}/file: No space left on device; free space or choose another folder\n"
    )
    assert done.stdout == "file\nold"


def test_a_killed_writer_leaves_a_whole_version(tmp_path: Path) -> None:
    versions = {letter * 3_000_000 for letter in "ab"}
    loop = (
        "from closedbook.harness.files import write_text; from pathlib import Path; import itertools, sys\n"
        "for letter in itertools.cycle('ab'): write_text(Path(sys.argv[1]), letter * 3_000_000)"
    )
    file = tmp_path / "file"
    for delay in (0.0, 0.013, 0.041, 0.097):
        file.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", loop, str(file)])
        while not file.exists():
            time.sleep(0.001)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert file.read_text() in versions


def test_threads_that_write_one_file_leave_one_whole_version(tmp_path: Path) -> None:
    texts = [letter * 500_000 for letter in "abcd"]
    writers = [threading.Thread(target=write_text, args=(tmp_path / "file", text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "file").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_in_a_checkout_the_tasks_are_those_that_git_sees() -> None:
    assert tasks_dir() == Path(__file__).resolve().parents[2] / "tasks"


def test_outside_a_checkout_the_tasks_lie_inside_lm_eval(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "closedbook" / "harness"
    shutil.copytree(Path(__file__).resolve().parents[2] / "harness", package)
    shutil.copy(package / "package.py", package.parent / "__init__.py")  # as a wheel has it
    code = "from closedbook.harness.files import tasks_dir; print(tasks_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site-packages", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "site-packages" / "lm_eval" / "tasks" / "closedbook")


def test_the_cache_lies_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOSEDBOOK_CACHE", raising=False)
    assert cache_dir().name == "closedbook"
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch):
    class Config:
        _commit_hash = "5555"

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda path: Config())
    assert model_digest("gorlim/tharn") == "gorlim/tharn@5555"


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "file", b"\xff\r\n")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a").iterdir()] == [("file", b"\xff\r\n")]


def everything(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with folder_when_whole(tmp_path / "a" / "folder") as aside:
        (aside / "file").write_text("new")
        assert not (tmp_path / "a" / "folder").exists()
    assert everything(tmp_path) == {"a/folder/file": "new"}


def test_a_whole_folder_takes_the_place_of_the_old_one_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with folder_when_whole(tmp_path / "folder") as aside:
            (aside / name).write_text(name)
    assert everything(tmp_path) == {"folder/two": "two"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("no"), OSError(28, "full")])
def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path: Path, stop: BaseException) -> None:
    write_text(tmp_path / "folder" / "file", "old")
    expected = WorkError if isinstance(stop, OSError) else type(stop)
    with pytest.raises(expected), folder_when_whole(tmp_path / "folder") as aside:
        (aside / "file").write_text("half")
        raise stop
    assert everything(tmp_path) == {"folder/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_its_name_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "folder" / "file", "old")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp" and not target.exists():
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(WorkError, match="Permission denied"), folder_when_whole(tmp_path / "folder") as aside:
        (aside / "file").write_text("new")
    assert everything(tmp_path) == {"folder/file": "old"}


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    write_text(tmp_path / "far" / "file", "old")
    (tmp_path / "link").symlink_to(tmp_path / "far")
    with folder_when_whole(tmp_path / "link") as aside:
        (aside / "file").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"


def test_a_file_never_becomes_a_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(RequestError, match="it is no folder"), folder_when_whole(tmp_path / "file"):
        pass
    assert everything(tmp_path) == {"file": "old"}
