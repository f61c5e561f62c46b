"""The cache of replies: shared, never fatal, never believed when damaged."""

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from closedbook.harness.judge import Grade, JudgeSettings, LLMJudge, Triple, reply_cache
from closedbook.harness.judge.reply_cache import Call, ReplyCache, reply_key
from closedbook.harness.testing import JudgeServer

TRIPLE = Triple("who wrote hamlet", ("Shakespeare",), "the Bard")
ASKED = [{"role": "user", "content": "right?"}]
CALL = Call("m", "http://s/v1", 3, 4, 0.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "er" / "replies.sqlite"


def rows(path, table="replies"):
    with sqlite3.connect(path) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()


def test_what_was_put_is_had_again_by_another_process_of_the_same_file(path):
    ReplyCache(path).add(CALL, b"k", "1.0")
    assert ReplyCache(path).get(b"k") == "1.0"
    assert ReplyCache(path).get(b"other") is None


def test_the_first_reply_under_a_key_stays(path):
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0")
    cache.add(CALL, b"k", "0.0")
    assert cache.get(b"k") == "1.0"
    assert len(rows(path)) == 1


def test_a_cache_without_a_file_lives_as_long_as_its_object():
    cache = ReplyCache(None)
    cache.add(CALL, b"k", "1.0")
    assert cache.get(b"k") == "1.0"
    assert ReplyCache(None).get(b"k") is None


def test_every_call_stands_in_the_ledger_with_its_tokens_and_cost(path):
    cache = ReplyCache(path)
    cache.add(CALL)
    cache.add(CALL)
    ((moment, *entry), _) = rows(path, "calls")
    assert tuple(entry) == CALL
    assert moment > 1.7e9


@pytest.mark.parametrize("column", ["reply", "digest", "key"])
def test_a_row_that_was_changed_is_not_believed_and_goes(path, column, caplog):
    ReplyCache(path).add(CALL, b"k", "0.0")
    value = {"reply": "1.0", "digest": b"12345678", "key": b"j"}[column]
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE replies SET {column} = ?", (value,))
    cache = ReplyCache(path)
    assert cache.get(b"j" if column == "key" else b"k") is None
    assert caplog.messages == [f"judge cache {path}: a damaged row is not used; the call is made again"]
    assert rows(path) == []
    cache.add(CALL, b"k", "0.0")
    assert cache.get(b"k") == "0.0"


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look like one" * 40, b"SQLite format 3\x00junk"]
)
def test_a_file_that_is_no_database_is_reported_and_left_alone(path, content, caplog):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0")
    assert cache.get(b"k") == "1.0"
    assert path.read_bytes() == content
    assert caplog.messages == [
        f"judge cache {path} cannot be used (file is not a database); judging goes on without it; remove the file if "
        "it is damaged, or set CLOSEDBOOK_JUDGE_CACHE to another one"
    ]


@pytest.mark.parametrize("change", ["PRAGMA user_version = 99", "CREATE TABLE other (x)"])
def test_a_database_of_another_version_or_program_is_not_touched(path, change, caplog):
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute(change)
    before = path.read_bytes()
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0")
    assert cache.get(b"k") == "1.0"
    assert path.read_bytes() == before
    assert "no judge cache of version 1" in caplog.text


def test_a_database_that_breaks_while_it_is_open_is_stepped_around(path, caplog):
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0")
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE replies")
    assert cache.get(b"k") is None
    cache.add(CALL, b"k", "0.0")
    assert cache.get(b"k") == "0.0"
    assert [("cannot be used (no such table: replies)" in message) for message in caplog.messages] == [True]


def test_a_locked_database_is_waited_for_and_then_stepped_around(path, caplog):
    cache = ReplyCache(path, patience=0.2)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    cache.add(CALL, b"k", "1.0")
    holder.execute("ROLLBACK")
    holder.close()
    assert cache.get(b"k") == "1.0"
    assert "locked" in caplog.text
    assert rows(path) == []


def test_a_file_that_another_process_prepares_is_tried_again_until_it_is_ready(path, monkeypatch, caplog):
    """SQLite itself does not wait for a file that is just being made, which a test cannot bring about at will."""
    tries = []

    def busy(*arguments):
        tries.append(arguments)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")
        return connect(*arguments)

    connect = reply_cache._connect
    monkeypatch.setattr(reply_cache, "_connect", busy)
    cache = ReplyCache(path)
    assert (cache.path, len(tries), caplog.messages) == (path, 3, [])


def test_another_fault_of_a_new_file_is_not_tried_again(path, monkeypatch):
    tries = []

    def broken(file, patience):
        tries.append(file)
        if file:
            raise sqlite3.OperationalError("disk I/O error")
        return connect(file, patience)

    connect = reply_cache._connect
    monkeypatch.setattr(reply_cache, "_connect", broken)
    assert (ReplyCache(path).path, tries) == (None, [path, None])


def test_a_cache_serves_other_threads_too(path):
    cache = ReplyCache(path)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(cache.add, CALL, b"k", "1.0").result()
        assert pool.submit(cache.get, b"k").result() == "1.0"
    assert cache.path == path  # it did not step aside


def test_a_locked_database_cannot_stop_a_judge_from_being_made(path, caplog):
    ReplyCache(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert ReplyCache(path, patience=0.1).get(b"k") is None
    holder.close()
    assert "locked" in caplog.text


def test_a_file_whose_schema_is_no_text_is_stepped_around(path, caplog):
    ReplyCache(path).close()
    content = bytearray(path.read_bytes())
    place = content.index(b"CREATE TABLE replies") + 8
    content[place] |= 0x80
    path.write_bytes(content)
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0")
    assert cache.get(b"k") == "1.0"
    assert "cannot be used" in caplog.text


def test_a_number_that_no_database_holds_is_stepped_around(path, caplog):
    with pytest.raises(OverflowError):
        ReplyCache(None).add(Call("m", "s", 10**30, 1, 0.0))
    assert ReplyCache(path).get(b"k") is None


def test_a_reply_that_no_file_can_hold_is_paid_but_not_kept(path):
    cache = ReplyCache(path)
    cache.add(CALL, b"k", "1.0 \ud800")
    cache.add(CALL, b"l", "")
    assert cache.get(b"k") is None
    assert (len(rows(path)), len(rows(path, "calls"))) == (0, 2)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ReplyCache(tmp_path / "file" / "replies.sqlite")
    cache.add(CALL, b"k", "1.0")
    assert cache.get(b"k") == "1.0"
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        ({"model": "m2"}, ASKED),
        ({"model": "m", "prompt": "p"}, ASKED),
        ({"model": "m"}, [{"role": "user", "content": "other"}]),
        ({"model": "m"}, ASKED * 2),
    ],
)
def test_a_key_depends_on_all_that_a_reply_depends_on(other):
    assert reply_key({"model": "m"}, ASKED) != reply_key(*other)
    assert reply_key({"a": "1", "b": "2"}, ASKED) == reply_key({"b": "2", "a": "1"}, ASKED)


def judge(server, path, **settings):
    stated = {"kind": "openai", "model": "m", "base_url": server.url, "cache": str(path), "retries": 0}
    return LLMJudge(JudgeSettings.model_validate(stated | settings))


def test_a_second_run_asks_nothing(path):
    with JudgeServer(lambda prompt: "1.0") as server:
        assert judge(server, path).grade([TRIPLE]) == [Grade.CORRECT]
        assert judge(server, path).grade([TRIPLE]) == [Grade.CORRECT]
        assert len(server.requests) == 1


@pytest.mark.parametrize("settings", [{"model": "m2"}, {"prompt": "simpleqa"}, {"max_tokens": 5}, {"without": "name"}])
def test_another_judge_asks_again(path, settings):
    with JudgeServer(lambda prompt: "1.0") as server:
        judge(server, path).grade([TRIPLE])
        judge(server, path, **settings).grade([TRIPLE])
        assert len(server.requests) == 2


def test_a_reply_that_states_no_grade_is_paid_but_not_kept(path):
    replies = iter(["maybe", "0.0"])
    with JudgeServer(lambda prompt: next(replies)) as server:
        judge(server, path).grade([TRIPLE])
        assert judge(server, path).grade([TRIPLE]) == [Grade.INCORRECT]
    assert len(rows(path, "calls")) == 2
    assert len(rows(path)) == 1


def _fill(path, start, barrier):
    barrier.wait()
    cache = ReplyCache(path)
    for n in range(start, start + 300):
        cache.add(CALL, str(n).encode(), f"reply {n}")


def test_two_processes_share_a_file_without_a_lost_or_doubled_row(path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_fill, args=(path, start, barrier)) for start in (0, 150)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    kept = {int(key): reply for key, reply, _ in rows(path)}
    assert kept == {n: f"reply {n}" for n in range(450)}
    assert len(rows(path, "calls")) == 600
