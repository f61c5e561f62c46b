"""Training: rewards, advantages, GRPO and its baselines, on TRL.

The arrow points one way: training imports `closedbook.harness`, never the reverse. Nothing here is needed to score a
checkpoint.

What others may import stands in `__all__` of the modules that docs/api/training.md shows.
"""
