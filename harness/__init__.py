"""Evaluation: questions, splits, deduplication, judge, lm-eval tasks, statistics, and the command line.

Importing this package imports nothing heavy: no torch, no datasets, no lm_eval. Modules import those inside the
function that needs them; only `task` and `testing`, whose classes derive from lm_eval's, import it at the top.
`closedbook.training` imports this package; this package never imports training.

What others may import stands in `__all__` of the modules that docs/api/harness.md shows.
"""
