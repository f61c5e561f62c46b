"""Numbers, quantities and dates as values. How judging uses them is tested with its rules, in test_rules.py."""

import pytest

from closedbook.harness.values import date


@pytest.mark.parametrize("text", ["30 February 1990", "June 31, 1980", "1990-13-01", "1990-00-10", "May 0, 1990"])
def test_a_day_that_does_not_exist_is_no_date(text):
    assert date(text) is None
    assert date("29 February") is not None
