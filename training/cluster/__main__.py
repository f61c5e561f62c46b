"""`python -m closedbook.training.cluster` prints the folder of the files."""

from closedbook.training.cluster import cluster_dir

print(cluster_dir())
