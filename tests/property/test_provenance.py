"""Laws of a checkpoint's provenance."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from closedbook.harness.provenance import Provenance, check_untrained, from_text, to_text
from closedbook.harness.questions import ids_digest

WORDS = st.text(max_size=8)
NUMBERS = st.integers(min_value=-(2**70), max_value=2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(WORDS, JSON, max_size=4)
NAMES = st.dictionaries(WORDS, WORDS, max_size=3)
IDS = st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), max_size=20)
PROVENANCES = st.builds(
    Provenance,
    method=WORDS,
    base_model=WORDS,
    base_digest=WORDS,
    step=st.integers(),
    seed=st.integers(),
    recipe=MAPPINGS,
    manifests=NAMES,
    train_ids=IDS.map(tuple),
    judge=st.none() | MAPPINGS,
    prompt=WORDS,
    versions=NAMES,
    revision=st.none() | WORDS,
    parent=st.none() | MAPPINGS,
)


@given(PROVENANCES)
def test_reading_gives_back_what_was_written(stated: Provenance) -> None:
    assert from_text(to_text(stated), "here") == stated


@given(PROVENANCES)
def test_writing_what_was_read_gives_the_same_bytes(stated: Provenance) -> None:
    text = to_text(stated)
    assert to_text(from_text(text, "here")) == text
    assert text.isascii()


@given(PROVENANCES, IDS)
def test_the_count_is_that_of_the_asked_questions_that_were_trained_on(stated: Provenance, asked: list[str]) -> None:
    counted = check_untrained("runs/x", stated, "worldfacts", "train", asked, allowed=True)
    assert counted["contaminated"] == len(set(asked) & set(stated.train_ids))
    assert stated.train_ids_digest == ids_digest(set(stated.train_ids))
