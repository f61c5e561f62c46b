"""`python -m closedbook.training.accelerate` prints the folder of the configurations."""

from closedbook.training.accelerate import accelerate_dir

print(accelerate_dir())
