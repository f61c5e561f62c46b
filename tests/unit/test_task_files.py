"""What the task files say of generation, against lm-eval's own reading of them."""

import pytest
from lm_eval.tasks import TaskManager

from closedbook.harness.errors import RequestError
from closedbook.harness.files import tasks_dir
from closedbook.harness.sources import benchmarks
from closedbook.harness.task_files import Generation, cut, generation, task_name


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(tasks_dir()), include_defaults=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a benchmark of one's own, whose task files a test writes."""
    description = (tasks_dir().parent / "harness" / "benchmarks.toml").read_text(encoding="utf-8")
    entry = description[description.index("[worldfacts]") :].replace("[worldfacts]", "[mine]")
    (tmp_path / "benchmarks.toml").write_text(entry)
    monkeypatch.setenv("CLOSEDBOOK_BENCHMARKS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_generation_is_what_lm_eval_reads(manager, style):
    name = task_name("worldfacts", style)
    stated = manager.load([name])["tasks"][name].config.generation_kwargs
    assert generation("worldfacts", style) == Generation(
        stated["temperature"], stated["max_gen_toks"], tuple(stated["until"])
    )


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_says_how_it_is_generated(name):
    assert generation(name, "cot").max_tokens > generation(name, "direct").max_tokens > 0


def test_files_of_ones_own_say_it_themselves(home):
    stated = "{temperature: 1, max_gen_toks: 9, until: [x]}"
    (home / "_base").write_text(f"class: !function a.b\ngeneration_kwargs: {stated}\n")
    (home / "mine_dedup.yaml").write_text("include: _base\ntask: mine_dedup\n")
    assert generation("mine", "direct") == Generation(1.0, 9, ("x",))


@pytest.mark.parametrize("until", ["stop", "[stop]", "['', stop]"])
def test_a_stop_is_read_as_lm_eval_reads_it_also_alone_or_empty(home, until):
    (home / "mine_dedup.yaml").write_text(f"generation_kwargs: {{temperature: 0, max_gen_toks: 9, until: {until}}}\n")
    assert generation("mine", "direct").stop == ("stop",)


def test_of_several_files_that_are_included_the_last_one_wins(home):
    for name, temperature in (("_a", 1), ("_b", 2)):
        stated = f"{{temperature: {temperature}, max_gen_toks: 9, until: []}}"
        (home / name).write_text(f"generation_kwargs: {stated}\n")
    (home / "mine_dedup.yaml").write_text("include: [_a, _b]\n")
    assert generation("mine", "direct").temperature == 2


def test_what_the_including_file_states_wins(home):
    stated = "generation_kwargs: {{temperature: {}, max_gen_toks: 9, until: []}}\n"
    (home / "_base").write_text(stated.format(1))
    (home / "mine_dedup.yaml").write_text("include: _base\n" + stated.format(2))
    assert generation("mine", "direct").temperature == 2


def test_a_process_reads_a_file_once(home):
    stated = "generation_kwargs: {{temperature: {}, max_gen_toks: 9, until: []}}\n"
    for temperature in (1, 2):
        (home / "mine_dedup.yaml").write_text(stated.format(temperature))
        assert generation("mine", "direct").temperature == 1


@pytest.mark.parametrize(
    "text",
    [
        "task: mine_dedup\n",
        "generation_kwargs: 3\n",
        "a: [",
        "include: nowhere\n",
        "include: mine_dedup.yaml\n",
        "",
        "text\n",
        "generation_kwargs: {temperature: warm, max_gen_toks: 9, until: []}\n",
        "generation_kwargs: {temperature: .nan, max_gen_toks: 9, until: []}\n",
        "generation_kwargs: {temperature: -1, max_gen_toks: 9, until: []}\n",
        "generation_kwargs: {temperature: 0, max_gen_toks: 0, until: []}\n",
        "generation_kwargs: {temperature: 0, max_gen_toks: .inf, until: []}\n",
        "generation_kwargs: {temperature: 0, max_gen_toks: 9, until: [3]}\n",
        b"task: \xff\n",
    ],
)
def test_a_file_that_does_not_say_it_is_named_with_what_to_do(home, text):
    (home / "mine_dedup.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError, match=r"mine_dedup.yaml does not say how to generate \(.*\); write it as"):
        generation("mine", "direct")


def test_a_response_ends_where_the_first_stop_begins():
    assert cut("a\nQuestion: b\nQuestion: c", ("\nQuestion:",)) == "a"
    assert cut("a. b", ("c", ".")) == "a"
    assert cut("a", ()) == "a"
