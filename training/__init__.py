"""Training: rewards, advantages, GRPO and its baselines, on TRL.

The arrow points one way: training imports `closedbook.harness`, never the reverse. Nothing here is needed to score a
checkpoint.
"""
