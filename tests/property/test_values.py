"""Laws of values: numbers, quantities and dates read from any text."""

from hypothesis import given
from hypothesis import strategies as st

from closedbook.harness.values import date, quantity, refines


@given(st.integers(0, 10**9))
def test_a_number_is_the_same_with_and_without_commas(number):
    assert quantity(f"{number:,}") == quantity(str(number)) == quantity(f"{number}.0")


@given(st.dates())
def test_a_date_is_the_same_in_every_form_and_refines_its_month(day):
    if day.year >= 1000:
        forms = {day.strftime("%B %-d, %Y"), day.strftime("%-d %B %Y"), day.isoformat(), day.strftime("%d %b %Y")}
        (value,) = {date(form) for form in forms}
        assert refines(value, date(day.strftime("%B %Y")))
        assert not refines(date(day.strftime("%B %Y")), value)


@given(st.text())
def test_reading_values_is_total(text):
    date(text)
    quantity(text)
