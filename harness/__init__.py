"""Evaluation: questions, splits, deduplication, judge, lm-eval tasks, statistics, and the command line.

Importing this package imports nothing heavy: no torch, no datasets, no lm_eval. Modules that need those import them
inside the function that does. `closedbook.training` imports this package; this package never imports training.
"""
