"""Judges: is this answer right? The verdict is the metric, the reward and the statistic, so there is one way to get it.

>>> RulesJudge().grade([Triple("what is the capital of france", ("Paris",), "Paris, of course")])
[<Grade.CORRECT: 'correct'>]
"""

from __future__ import annotations

from functools import cache

from closedbook.harness.judge.cascade import LLMJudge
from closedbook.harness.judge.rubrics import RUBRICS
from closedbook.harness.judge.rules import RulesJudge, contains, exact_match
from closedbook.harness.judge.settings import JudgeSettings, judge_settings
from closedbook.harness.judge.verdicts import Grade, Judge, JudgeFailure, Judgement, Reason, Tally, Triple

__all__ = [
    "Grade",
    "Judge",
    "JudgeFailure",
    "JudgeSettings",
    "Judgement",
    "LLMJudge",
    "Reason",
    "RulesJudge",
    "Tally",
    "Triple",
    "contains",
    "exact_match",
    "judge_settings",
    "make_judge",
]


@cache
def make_judge(settings: JudgeSettings) -> Judge:
    """The judge of these settings; call its `preflight` before relying on it.

    Equal settings give the same judge, so the tasks of a run share one budget and one preflight; `cache_clear` starts
    afresh.

    Raises:
        RequestError: A rule is switched off that does not exist.
    """
    if settings.kind == "rules":
        return RulesJudge(settings.without, RUBRICS[settings.prompt].empty)
    return LLMJudge(settings)
