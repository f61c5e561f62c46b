"""Deduplication at the level of facts: which training question states the fact that a test question asks for?

Three steps, each replaceable: candidates (which pairs are worth a look), a decider (is one contained in the other?),
and the ledger of its decisions.
"""

from closedbook.harness.dedup.candidates import RETRIEVAL, Embed, candidate_pairs
from closedbook.harness.dedup.decisions import Decider, Decision, Verdict, strongest
from closedbook.harness.dedup.ledger import compare
from closedbook.harness.dedup.rules import RULES, decide_by_rules, rules

__all__ = [
    "RETRIEVAL",
    "RULES",
    "Decider",
    "Decision",
    "Embed",
    "Verdict",
    "candidate_pairs",
    "compare",
    "decide_by_rules",
    "rules",
    "strongest",
]
