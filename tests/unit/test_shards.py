"""Shards: every N-th question is drawn by a process of its own, and what is merged is what one process would have."""

import json
import shutil
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from closedbook.harness.errors import RequestError
from closedbook.harness.files import alone
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.sampling import Sampling
from closedbook.harness.shards import Shard, Sharding, parse_shard
from closedbook.harness.study.commands import analyze_app, sample_command, sample_merge_command
from closedbook.harness.study.merge import merge
from closedbook.harness.study.sample import Request, sample

RULES = JudgeSettings(kind="rules")
SETTINGS = {"model": "a" * 64, "judge": {"kind": "rules"}, "sampling": {"seed": 0}}
IDS = [f"q{number}" for number in range(7)]


@pytest.fixture
def request_of(tiny_policy, tmp_path):
    """Makes a request for the tiny model, of one shard of three where a number is given."""

    def make(number=None, n=3, out=None, **more):
        shard = None if number is None else Shard(number, 3)
        folder = tmp_path / (out or (f"s{number}" if shard else "once"))
        given: dict[str, Any] = {"sampling": Sampling(max_new_tokens=4), "limit": 7} | more
        return Request(str(tiny_policy), n=n, out=folder, shard=shard, **given)

    return make


def drawn(request, judging=RULES):
    return sample(request, judging, progress=False)


@pytest.fixture
def shards(request_of):
    """Draws all three shards, and says where they are."""

    def make(judging=RULES, **more):
        return [drawn(request_of(number, **more), judging).folder for number in (1, 2, 3)]

    return make


def content(folder):
    """All that a folder of samples says, in its order."""
    store = SampleStore(folder)
    return store.head(), list(store.read().items())


def said(number, reward: float | None = 0.0):
    return Sample(f"said {number}", f"said {number}", reward, (number,))


@pytest.fixture
def written(tmp_path):
    """Writes a shard of made-up samples; of its questions but the last `short` all are whole."""

    def make(number, of=3, n=2, short=0, out=None, every=IDS, reward: float | None = 0.0, **changed):
        store, shard = SampleStore(tmp_path / (out or f"s{number}")), Shard(number, of)
        ids = shard.part(every)
        store.begin(SETTINGS | changed, ids, n, Sharding(shard, tuple(every)))
        store.add(QuestionSamples(id, tuple(said(at, reward) for at in range(n))) for id in ids[: len(ids) - short])
        return store.folder

    return make


def test_a_shard_is_every_nth_question_of_those_that_the_limit_leaves(request_of):
    every = [line.id for line in drawn(request_of()).samples]
    done = drawn(request_of(2))
    assert [line.id for line in done.samples] == every[1::3]
    head = SampleStore(done.folder).head()
    assert list(head.ids) == every[1::3]
    assert (head.sharding.shard, list(head.sharding.every)) == (Shard(2, 3), every)


def test_what_is_merged_is_row_for_row_what_one_process_would_have_drawn(request_of, shards, tmp_path):
    once = drawn(request_of())
    merged = merge(tmp_path / "all", [*reversed(shards())])
    assert content(merged.folder) == content(once.folder)
    assert (merged.samples, merged.counts, merged.passes) == (once.samples, once.counts, once.passes)


def test_samples_json_of_what_is_merged_is_that_of_one_process_to_the_byte(request_of, shards, tmp_path):
    once, merged = drawn(request_of()).folder, merge(tmp_path / "all", shards()).folder
    assert (merged / "samples.json").read_bytes() == (once / "samples.json").read_bytes()


def test_merging_again_leaves_every_file_as_it_is(shards, tmp_path):
    folders = shards()
    first = merge(tmp_path / "all", folders)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert merge(tmp_path / "all", folders) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_shards_with_more_samples_or_questions_add_to_what_was_merged(request_of, shards, tmp_path):
    merge(tmp_path / "all", shards())
    merged = merge(tmp_path / "all", shards(n=5, limit=11))
    assert merged.samples == drawn(request_of(n=5, limit=11)).samples
    assert SampleStore(merged.folder).whole() == SampleStore(request_of().folder).whole()


def test_what_is_merged_can_be_added_to_without_shards(request_of, shards, tmp_path):
    merge(tmp_path / "all", shards())
    assert drawn(request_of(n=5, out="all")).samples == drawn(request_of(n=5)).samples


def test_merging_what_was_added_to_since_takes_nothing_away(request_of, shards, tmp_path):
    folders = shards()
    merge(tmp_path / "all", folders)
    more = drawn(request_of(n=5, out="all"))
    assert [line.drawn for line in merge(tmp_path / "all", folders).samples] == [3] * 7
    assert SampleStore(more.folder).whole() == sorted(more.samples, key=lambda line: line.id)


def test_shards_without_verdicts_are_merged_and_graded_by_one_process(request_of, shards, tmp_path):
    ungraded = merge(tmp_path / "all", shards(None))
    assert (ungraded.counts.ungraded, ungraded.passes) == (21, ())
    assert drawn(request_of(out="all")).samples == drawn(request_of()).samples


def test_more_samples_without_verdicts_join_what_was_merged_and_graded(request_of, shards, tmp_path):
    folders = shards(None)
    merge(tmp_path / "all", folders)
    graded = drawn(request_of(out="all"))
    assert merge(tmp_path / "all", folders).samples == graded.samples
    assert merge(tmp_path / "all", shards(None, n=5)).counts.ungraded > 0
    assert drawn(request_of(n=5, out="all")).samples == drawn(request_of(n=5)).samples


def test_a_merge_that_was_killed_is_ended_by_another_one(shards, tmp_path):
    folders = shards()
    whole = content(merge(tmp_path / "all", folders).folder)
    (tmp_path / "all" / "000000.parquet").unlink()  # the head is written first
    assert content(merge(tmp_path / "all", folders).folder) == whole


@pytest.mark.parametrize("analysis", ["passk", "majority", "buckets"])
def test_analyses_take_what_is_merged_and_say_what_they_say_of_one_process(request_of, shards, tmp_path, analysis):
    merged, once = merge(tmp_path / "all" / "run", shards()).folder, drawn(request_of(out="once/run")).folder
    shown = []
    for folder in (merged, once):
        words = [analysis, str(folder), "--out", str(tmp_path / "out" / folder.parent.name), "--json"]
        done = CliRunner().invoke(analyze_app, words)
        assert done.exit_code == 0, done.output
        shown.append(json.loads(done.stdout)["rows"])
    assert shown[0] == shown[1]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/3", "1/0", "-1/3", "1/3/3", "1.0/3", "", "1/", "²/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(RequestError, match=r"^--shard .* is no I/N; the shards of 3 are 1/3, 2/3 and 3/3$"):
        parse_shard(text)


def test_a_shard_is_read_as_it_is_shown():
    assert parse_shard("2/3") == Shard(2, 3)
    assert str(parse_shard("16/16")) == "16/16"


def test_more_shards_than_questions_are_refused_before_a_model_is_loaded():
    with pytest.raises(RequestError, match=r"^--shard 1/9: there are 2 questions; draw them with at most 2 shards$"):
        sample(Request("there/is/no/such", limit=2, shard=Shard(1, 9)), RULES)


def test_each_shard_has_a_folder_of_its_own_unless_stated():
    folders = {Request("a/b", shard=shard).folder.name for shard in (None, Shard(1, 3), Shard(2, 3), Shard(1, 4))}
    assert folders == {f"sample-b-worldfacts_dedup-test{end}" for end in ("", "-1of3", "-2of3", "-1of4")}


@pytest.mark.parametrize(("other", "shown"), [(2, "'2/3'"), (None, "None")])
def test_another_shard_is_never_drawn_into_the_folder_of_one(request_of, other, shown):
    drawn(request_of(1))
    with pytest.raises(RequestError, match=f"holds samples of other settings: shard was '1/3' and is {shown}; choose"):
        drawn(request_of(other, out="s1"))


def test_a_shard_is_never_drawn_into_a_folder_with_all_questions(request_of):
    drawn(request_of())
    with pytest.raises(RequestError, match="shard was None and is '1/3'"):
        drawn(request_of(1, out="once"))


def test_a_shard_takes_more_samples_and_more_questions(request_of):
    drawn(request_of(1))
    assert drawn(request_of(1, n=5, limit=11)).samples == drawn(request_of(1, n=5, limit=11, out="once")).samples


OTHERS = [
    ({"model": "b" * 64}, "model is 'aaa.*' and 'bbb.*'"),
    ({"sampling": {"seed": 1}}, "sampling.seed is 0 and 1"),
    ({"judge": None}, "judge is None and 'rules'|judge.kind is 'rules' and None"),
    ({"n": 3}, "n is 2 and 3"),
    ({"every": IDS[:6]}, "questions is 7 and 6"),
    ({"every": [*IDS[:6], "other"]}, "questions is 7 and 7 others"),
    ({"of": 4}, "shard is '1/3' and '2/4'"),
]


@pytest.mark.parametrize(("changed", "named"), OTHERS)
def test_shards_of_other_settings_are_refused_by_what_differs(written, tmp_path, changed, named):
    folders = [written(1), written(2, **changed), written(3)]
    with pytest.raises(RequestError, match=rf"^{folders[0]} and {folders[1]} are no shards of one run: ({named}); "):
        merge(tmp_path / "all", folders)
    assert not (tmp_path / "all").exists()


def test_a_missing_shard_is_named_with_what_draws_it(written, tmp_path):
    said = r"^shards 1/4, 3/4 are missing; .* or draw them: the same `closedbook sample`, --shard 1/4$"
    with pytest.raises(RequestError, match=said):
        merge(tmp_path / "all", [written(4, of=4), written(2, of=4)])


def test_the_last_shard_is_missed_too(written, tmp_path):
    with pytest.raises(RequestError, match=r"^shard 3/3 is missing; .* --shard 3/3$"):
        merge(tmp_path / "all", [written(1), written(2)])


def test_the_same_shard_twice_is_refused(written, tmp_path):
    first = written(1)
    for other in (first, written(1, out="copy")):
        with pytest.raises(RequestError, match=rf"^{first} and {other} are both shard 1/3; name each shard once$"):
            merge(tmp_path / "all", [first, written(2), other, written(3)])


def test_an_unfinished_shard_is_refused_with_what_finishes_it(written, tmp_path):
    folders = [written(1), written(2, short=1), written(3)]
    with pytest.raises(RequestError) as refused:
        merge(tmp_path / "all", folders)
    assert str(refused.value) == (
        f"{folders[1]}: 1 of 2 questions have fewer than 2 samples; the same `closedbook sample` again, with "
        f"--shard 2/3 and --out {folders[1]}, draws what is missing"
    )
    assert not (tmp_path / "all").exists()


def test_a_shard_that_nobody_could_grade_is_refused_with_what_does(written, tmp_path):
    folders = [written(1, reward=None), written(2), written(3)]
    with pytest.raises(
        RequestError, match=r"3 of 3 questions have no verdict .* --shard 1/3 and --out .*, grades them$"
    ):
        merge(tmp_path / "all", folders)


def test_a_folder_that_is_no_shard_is_refused(written, request_of, tmp_path):
    once = drawn(request_of()).folder
    with pytest.raises(RequestError, match=rf"^{once} is no shard: it was drawn without --shard; name the folders"):
        merge(tmp_path / "all", [written(1), once])
    with pytest.raises(RequestError, match=r"cannot read .*none/samples.json"):
        merge(tmp_path / "all", [tmp_path / "none"])


@pytest.fixture
def folders(written):
    """All three shards."""
    return [written(number) for number in (1, 2, 3)]


CHANGED = [{"number": 2}, {"of": 0}, {"of": 4}, {"number": None}, {"every": IDS[::-1]}, {"every": 7}]


@pytest.mark.parametrize("changed", CHANGED)
def test_a_head_whose_shard_was_changed_is_refused(folders, tmp_path, changed):
    head = json.loads((folders[0] / "samples.json").read_text())
    (folders[0] / "samples.json").write_text(json.dumps(head | {"shard": head["shard"] | changed}))
    with pytest.raises(RequestError, match=r"samples.json(: there is no shard 1/0| was changed).*; name a folder"):
        merge(tmp_path / "all", folders)


def test_a_folder_with_other_files_is_never_merged_into(folders, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds other files; choose another folder"):
        merge(tmp_path / "all", folders)


def test_samples_of_other_settings_are_never_merged_into(folders, tmp_path):
    SampleStore(tmp_path / "all").begin(SETTINGS | {"model": "b" * 64}, IDS, 2)
    with pytest.raises(RequestError, match="holds samples of other settings: model was 'bbb"):
        merge(tmp_path / "all", folders)


def test_a_shard_is_never_merged_into(folders):
    with pytest.raises(RequestError, match="shard was '1/3' and is None; choose another folder"):
        merge(folders[0], folders)


def test_other_samples_of_the_same_settings_are_never_mixed_with_the_shards(folders, tmp_path):
    store = SampleStore(tmp_path / "all")
    store.begin(SETTINGS, IDS, 2)
    store.add([QuestionSamples(id, (said(1), said(0))) for id in IDS[:5]])
    store.add([QuestionSamples(id, (Sample("else", "else", 0.0, (0, 1)),)) for id in IDS[5:]])
    before = content(store.folder)
    with pytest.raises(RequestError, match=r"all holds other samples of 2 of the 7 questions; choose another folder$"):
        merge(store.folder, folders)
    assert content(store.folder) == before


def test_nothing_is_merged_where_another_run_writes(folders, tmp_path):
    with alone(tmp_path / "all"), pytest.raises(RequestError, match="another run writes to"):
        merge(tmp_path / "all", folders)


def test_what_the_judge_failed_on_has_no_reward_in_what_is_merged(folders, tmp_path):
    (folders[2] / "000000.parquet").unlink()
    SampleStore(folders[2]).add([QuestionSamples(id, (said(0), said(1, None))) for id in (IDS[2], IDS[5])])
    assert merge(tmp_path / "all", folders).counts.ungraded == 2


def test_samples_of_a_shard_beyond_those_asked_for_are_left_out(folders, tmp_path):
    SampleStore(folders[1]).add([QuestionSamples(IDS[1], (said(2),))])
    merge(tmp_path / "all", folders)
    assert {line.drawn for line in SampleStore(tmp_path / "all").read().values()} == {2}


def command(function):
    """A command as the program has it, where it need not be installed."""
    app = typer.Typer(rich_markup_mode="markdown")
    app.command()(function)
    return app


def run(function, *words):
    done = CliRunner().invoke(command(function), [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_commands_draw_shards_and_merge_them(tiny_policy, tmp_path):
    words = [tiny_policy, "-n", "2", "--limit", "5", "--max-new-tokens", "3", "--json"]
    folders = [tmp_path / f"s{number}" for number in (1, 2)]
    for number, folder in enumerate(folders, 1):
        shown = json.loads(run(sample_command, *words, "--shard", f"{number}/2", "--out", folder).stdout)
        assert shown["counts"]["samples"] == {1: 6, 2: 4}[number]
    merged = json.loads(run(sample_merge_command, tmp_path / "all", *folders, "--json").stdout)
    once = json.loads(run(sample_command, *words, "--out", tmp_path / "once").stdout)
    assert merged == once | {"folder": str(tmp_path / "all")}
    assert "pass@k in per cent" in run(sample_merge_command, tmp_path / "all", *folders).stdout


def test_the_same_command_finishes_a_shard(request_of, tmp_path):
    request = request_of(2)
    whole = drawn(request)
    shutil.move(whole.folder / "000000.parquet", tmp_path / "gone.parquet")
    with pytest.raises(RequestError, match="draws what is missing"):
        merge(tmp_path / "all", [drawn(request_of(n)).folder for n in (1, 3)] + [whole.folder])
    drawn(request)
    assert SampleStore(whole.folder).whole() == sorted(whole.samples, key=lambda line: line.id)
