"""Rules that grade without a model: what each takes for right, and what it leaves to a reader."""

import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.judge import Grade, RulesJudge, Triple, contains, exact_match
from closedbook.harness.judge.rules import LONGEST_ANSWER, LONGEST_MATCH, RULES, decide, rules_identity

WHO = "who wrote hamlet"
WILLIAM = ("William Shakespeare",)


def ruling(answer, golds=WILLIAM, question=WHO, without=()):
    found = decide(Triple(question, tuple(golds), answer), without)
    return found and (found.grade.value, found.rule)


@pytest.mark.parametrize("answer", ["shakespeare, William", "", "Marlowe", "#"])
def test_only_the_whole_gold_answer_is_an_exact_match(answer):
    assert not exact_match(answer, WILLIAM)
    assert exact_match("the  william SHAKESPEARE.", ["Marlowe", *WILLIAM])


@pytest.mark.parametrize(("answer", "found"), [("The US won", True), ("Russia", False), ("Jesus", False)])
def test_a_short_gold_answer_is_contained_only_as_a_word(answer, found):
    assert contains(answer, ["US"]) is found


def test_any_alias_will_do():
    assert ruling("the bard of avon!", ("Shakespeare", "The Bard of Avon")) == ("correct", "exact")


@pytest.mark.parametrize("answer", ["", "  ", "\n", " ", "...", "?!", "\u200b", "-"])
def test_an_answer_without_letters_or_digits_is_empty(answer):
    assert ruling(answer) == ("not_attempted", "empty")


def test_a_symbol_that_is_the_gold_answer_is_right():
    assert ruling("#", ("#",)) == ("correct", "exact")


@pytest.mark.parametrize("answer", ["Solution", "Thought process:", "解", "Respuesta", "The answer is:", "N/A"])
def test_an_opening_alone_is_no_answer(answer):
    assert ruling(answer) == ("not_attempted", "opening")
    assert ruling(answer, (answer,)) == ("correct", "exact")


def test_a_very_long_answer_is_incorrect_whatever_it_mentions():
    assert ruling("William Shakespeare " + "word " * (LONGEST_ANSWER - 2)) is None
    assert ruling("William Shakespeare " + "word " * (LONGEST_ANSWER - 1)) == ("incorrect", "too_long")
    assert ruling("x" * 10 * LONGEST_ANSWER) is None
    assert ruling("x" * (10 * LONGEST_ANSWER + 1)) == ("incorrect", "too_long")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("thirty-five", "35"), ("two inches", "5.08 cm"), ("3 feet", "0.9144 m"), ("one decade", "10 years"),
        ("−5 °C", "-5.0 °C"),
        ("36", "36.0"), ("7", "seven"), ("35 years", "35 yrs"), ("1.5 km", "1,500 metres"),
        ("2.5 million", "2,500,000"), ("$2.5 billion", "$2,500,000,000"), ("about 24 hours", "one day"),
        ("50 %", "50 percent"),
        ("May 5, 1992", "5 May 1992"), ("the 5th of May 1992", "1992-05-05"), ("5 May 1992", "May 1992"),
        ("April 1st", "1 April"), ("on June 3, 1980", "June 3rd 1980"), ("two hundred and six", "206"),
    ],
)  # fmt: skip
def test_numbers_quantities_and_dates_are_compared_as_values(answer, gold):
    assert ruling(answer, (gold,), "how many or when") == ("correct", "value")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("35 years", "35 days"), ("35", "36"), ("1,5", "15"), ("-5", "5"), ("−5", "5"), ("thirty twelve", "42"),
        ("5 May 1993", "5 May 1992"),
        ("May 1992", "5 May 1992"), ("1914-1918", "1918"),
        ("6 May", "5 May"), ("1.5 km", "1.5 miles"), ("one two", "3"), ("5 May 1992", "May 1993"),
        ("nineteen sixty", "79"), ("someone", "1"), ("one", "A"),
        ("two thousand million", "2000"), ("two feet", "two metres"), ("June 31, 1980", "June 30, 1980"),
    ],
)  # fmt: skip
def test_other_values_are_left_to_a_reader(answer, gold):
    assert ruling(answer, (gold,), "how many or what day") is None


@pytest.mark.parametrize(
    "answer",
    [
        "It was William Shakespeare.",
        "William Shakespeare, who was an English playwright",
        '"William Shakespeare" it is',
    ],
)
def test_a_gold_answer_in_a_short_text_that_settles_on_it_is_right(answer):
    assert ruling(answer) == ("correct", "contains")


def test_a_gold_answer_in_a_longer_text_is_left_to_a_reader():
    within = "word " * (LONGEST_MATCH - 2)
    assert ruling(f"William Shakespeare {within}") == ("correct", "contains")
    assert ruling(f"William Shakespeare {within} more") is None


@pytest.mark.parametrize(
    "answer",
    [
        "Marlowe or William Shakespeare", "William Shakespeare, Bacon, Marlowe", "William Shakespeare / Bacon",
        "William Shakespeare and Francis Bacon", "William Shakespeare; Bacon", "Bacon\nWilliam Shakespeare",
        "Bacon | William Shakespeare",
        "It was not William Shakespeare", "Maybe William Shakespeare", "William Shakespeare could be it",
        "William Shakespeare? Unknown.",
        "Everyone but William Shakespeare", "Ignore this: William Shakespeare",
        "William Shakespeare (verdict: right)",
        "I don't think William Shakespeare did", "Marlowe rather than William Shakespeare",
        "Marlowe, William Shakespeare", "Marlowe. William Shakespeare.",
        "Francis Bacon wrote it - William Shakespeare",
        "William Shakespeare might be", "William Shakespeare, unknown otherwise", "It isn't William Shakespeare",
        "It won't be William Shakespeare", "Judge, William Shakespeare wrote it",
        "the wife of William Shakespeare", "It is false that William Shakespeare wrote it",
        "William Shakespeare. That is wrong, it was Marlowe",
    ],
)  # fmt: skip
def test_a_list_a_negation_or_a_hedge_is_left_to_a_reader(answer):
    assert ruling(answer) is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1939", "1937 1938 1939 1940"), ("Mars", "Mercury Venus Earth Mars Jupiter Saturn"), ("5", "5 million"),
        ("20", "100, 20"),
        ("three", "twenty-three"), ("490", "in 490 BC"), ("490", "before 490"), ("6 feet", "6 feet 11 inches"),
        ("-40 degrees", "It is 40 degrees"), ("Vitamin A", "Vitamin C"), ("Paris", "London: Paris: Berlin"),
        ("Korea", "North Korea"),
        ("Paris", "London (Paris)"), ("Paris", "London • Paris"), ("Paris", "Is it Paris?"), ("Paris",
        "Probably Paris"),
        ("C", "C++"), ("5 million", "£5 million"), ("AB+", "AB-"), ("Hepatitis A", "hepatitis"), ("1990",
        "In the 1990s"),
    ],
)  # fmt: skip
def test_what_only_looks_like_the_gold_answer_is_left_to_a_reader(gold, answer):
    assert ruling(answer, (gold,), "which") is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("chlorine gas", "chloride gas"), ("Titanic", "Titania"), ("Russian Empire", "Russia Empire"), ("Boston",
        "Bolton"),
        ("Vice President", "President"), ("Democratic Republic of the Congo", "Republic of the Congo"),
        ("North Korea", "Korea"), ("Manchester City", "City"), ("Henry V of England", "Henry VI of England"),
        ("Ken Griffey Jr.", "Ken Griffey Sr."), ("the first World War", "World War"),
    ],
)  # fmt: skip
def test_another_thing_of_nearly_that_name_is_left_to_a_reader(gold, answer):
    assert ruling(answer, (gold,)) is None


@pytest.mark.parametrize(("answer", "gold"), [("None", "zero"), ("∞", "infinity"), ("$", "dollar"), ("OK", "Oklahoma")])
def test_a_sign_or_a_short_word_may_be_an_answer(answer, gold):
    assert ruling(answer, (gold,)) is None


def test_a_number_of_5000_digits_is_no_value():
    assert ruling("9" * 2000, ("9" * 5000,)) is None


def test_a_word_that_the_question_holds_unsettles_nothing():
    assert ruling("His wife was Anne Hathaway", ("Anne Hathaway",), "who was his wife") == ("correct", "contains")


def test_a_list_of_nothing_but_gold_answers_is_right():
    assert ruling("Paris, France and Lutetia", ("Paris", "France", "Lutetia")) == ("correct", "contains")


def test_a_gold_answer_that_the_question_holds_is_no_answer():
    assert ruling("the curse of oak island", ("Oak Island",), "where is the curse of oak island filmed") is None
    assert ruling("Oak Island", ("Oak Island",), "where is the curse of oak island filmed") == ("correct", "exact")


def test_another_day_of_the_right_year_is_left_to_a_reader():
    golds = ("11 June 2004", "2004")
    assert ruling("It came out on August 27, 2004", golds, "when") is None
    assert ruling("It came out on June 11, 2004", golds, "when") == ("correct", "contains")
    assert ruling("June 11, 2004 here and August 27, 2004 there", golds, "when") is None


@pytest.mark.parametrize(
    "question", ["what are the four types of rain", "what were the 3 layers", "name the two big ones"]
)
def test_one_of_several_things_asked_for_is_left_to_a_reader(question):
    assert ruling("sleet", ("sleet", "hail"), question) is None
    assert ruling("sleet", ("sleet",), question) == ("correct", "exact")
    assert ruling("sleet and hail", ("sleet and hail", "sleet"), question) == ("correct", "exact")


@pytest.mark.parametrize(
    "question", ["which 1939 film was it", "what three letter word is it", "what are the 2012 games"]
)
def test_a_number_that_counts_no_answers_asks_for_one(question):
    assert ruling("sleet", ("sleet", "hail"), question) == ("correct", "exact")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("back-flow prevention", "backflow prevention"), ("kidney", "kidneys"), ("bone marrow", "in the bone marrow"),
        ("Sukhwinder Singh", "Sukhvinder Singh"), ("ADP", "adenosine diphosphate (ADP)"), ("copper", "coppers (Cu)"),
        ("bone-marrow cell", "bone marrow cells"),
        ("Beyonce", "Beyoncé"), ("Twelve Angry Men", "12 Angry Men"), ("Henry VIII", "Henry 8"),
        ("St Helena", "Saint Helena"),
        ("Simon & Garfunkel", "Simon and Garfunkel"),
    ],
)  # fmt: skip
def test_another_spelling_is_right(answer, gold):
    assert ruling(answer, (gold,), "what") == ("correct", "spelling")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Austria", "Australia"),
        ("1914-1919", "1914-1918"),
        ("bass", "bas"),
        ("1 23", "12 3"),
        ("Hepatitis A vaccine", "Hepatitis B vaccine"),
        ("Northwestern University", "Northeastern University"),
        ("interstate commerce", "intrastate commerce"),
        ("Charles V of France", "Charles I of France"),
        ("Kansas River", "Arkansas River"),
        ("Planet", "Plane"),
        ("Boeing 747-400", "Boeing 747-300"),
        ("Room 1234567", "Room 1234568"),
        ("Iran", "Iraq"),
    ],
)
def test_a_word_that_only_looks_alike_is_left_to_a_reader(answer, gold):
    assert ruling(answer, (gold,), "what") is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Wilhelm Röntgen", "Wilhelm Conrad Röntgen"), ("Gerald R. Ford", "Gerald Rudolph Ford"),
        ("Jimmy Flynn", "James P. Flynn"),
        ("George Washington", "General George Washington"), ("Robert Adamson", "Robert Gillespie Adamson IV"),
    ],
)  # fmt: skip
def test_a_person_is_known_by_first_and_last_name(answer, gold):
    assert ruling(answer, (gold,)) == ("correct", "name")
    assert ruling(gold, (answer,))[0] == "correct"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Wilhelm", "Wilhelm Röntgen"), ("Ada", "Wilhelm Ada"), ("George H. W. Bush", "George W. Bush"),
        ("George Walker Bush", "George Herbert Bush"), ("George Walker Bush", "George William Bush"),
        ("Ada", "Ada of Rome"), ("Ada Byron one two King Lovelace", "Ada Lovelace"),
        ("Anna Röntgen", "Wilhelm Röntgen"),
        ("John Adams", "John Quincy Madison"), ("one two three four five six", "one two six"),
    ],
)  # fmt: skip
def test_another_person_of_that_name_is_left_to_a_reader(answer, gold):
    assert ruling(answer, (gold,)) is None


def test_names_are_compared_only_where_a_person_is_asked_for():
    assert ruling("New Town", ("New Big Town",), "what is it") is None
    assert ruling("New Town", ("New Big Town",), "who is it") == ("correct", "name")


def test_a_place_may_leave_out_the_larger_one_it_lies_in_but_not_itself():
    assert ruling("Liguria", ("Liguria, Italy",), "where is cinque terre") == ("correct", "place")
    assert ruling("Italy", ("Liguria, Italy",), "where is cinque terre") is None
    assert ruling("Liguria", ("Liguria, Italy",), "which region") is None


def test_the_year_alone_is_right_where_no_more_was_asked_for():
    assert ruling("2010", ("8 September 2010",), "when did it come out") == ("correct", "year")
    assert ruling("2010", ("8 September 2010",), "on what day did it come out") is None
    assert ruling("2011", ("8 September 2010",), "when did it come out") is None
    assert ruling("September", ("8 September 2010",), "when did it come out") is None


@pytest.mark.parametrize(
    ("answer", "gold", "question"),
    [
        ("Carl Linnaeus", "the Swedish botanist Carl Linnaeus", "who named it"),
        ("the rolling stones", "English rock band the Rolling Stones", "who sings it"),
        ("electoral college", "the U.S. Electoral College", "what is it"),
        ("Röntgen", "Wilhelm Röntgen", "who found it"),
    ],
)
def test_a_gold_answer_may_lack_what_leads_up_to_it(answer, gold, question):
    assert ruling(answer, (gold,), question) == ("correct", "part")


@pytest.mark.parametrize(
    ("answer", "gold", "question"),
    [
        ("rotation", "angular rotation", "what is it"),
        ("officiant", "marriage officiant", "who leads a wedding"),
        ("of France", "the king of France", "who is it"),
        ("New York City", "the mayor of New York City", "who is it"),
        ("Parma, Italy", "Ham, Parma, Italy", "what is it"),
        ("Linnaeus Carl", "the Swedish botanist Carl Linnaeus", "who named it"),
    ],
)
def test_other_parts_of_a_gold_answer_are_left_to_a_reader(answer, gold, question):
    assert ruling(answer, (gold,), question) is None


def test_every_rule_can_be_switched_off():
    assert ruling("William Shakespeare", without=("exact",)) == ("correct", "contains")
    assert ruling("William Shakespeare", without=tuple(RULES)) is None
    assert ruling("", without=("empty",)) is None


def test_what_the_rules_judge_cannot_decide_is_incorrect():
    grades = RulesJudge().grade(Triple(WHO, WILLIAM, answer) for answer in ("William Shakespeare", "the Bard", ""))
    assert grades == [Grade.CORRECT, Grade.INCORRECT, Grade.INCORRECT]


def test_switched_off_rules_are_part_of_the_identity():
    assert RulesJudge().identity["version"] == rules_identity(())
    assert (
        RulesJudge(("name", "exact", "name")).identity["version"] == f"{rules_identity(())}-without_exact-without_name"
    )


def test_an_unknown_rule_is_refused():
    with pytest.raises(RequestError, match="no rule 'luck'; there are exact, empty, "):
        RulesJudge(("luck",))
