"""A Ray cluster on loopback, in its own process: `add` and `kill ADDRESS` on standard input, answers on the other one.

Each node has an address of its own, 127.0.0.2 and so on: Ray takes 127.0.0.1 for the machine's outer address.
"""

import os
import sys
from typing import Any

STARTED = {"object_store_memory": 80_000_000, "include_dashboard": False}


def main(folder: str, nodes: int) -> None:
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_period_ms": "500",
        "OMP_NUM_THREADS": "1",
    }
    from ray.cluster_utils import Cluster

    head = {"node_ip_address": "127.0.0.2", "num_cpus": 1, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=STARTED | head)
    there: dict[str, Any] = {}

    def add():
        address = f"127.0.0.{3 + len(there)}"
        there[address] = cluster.add_node(
            node_ip_address=address, num_cpus=1, object_store_memory=STARTED["object_store_memory"]
        )
        return address

    for _ in range(nodes - 1):
        add()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, address = line.strip().partition(" ")
        if word == "kill":
            cluster.remove_node(there[address], allow_graceful=False)
        print(address if word == "kill" else add(), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
