"""`python -m selgen_ray.cluster.health [FILE]`: join or start Ray, look at each node, print what was found as JSON.

`selgen doctor` runs it as a process of its own, which it can end if Ray does not answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_MOST_NODES = 32
_NODE_S = 60.0  # a node has so long to answer


def look(file: str | None) -> dict[str, Any]:
    """Return what Ray says: {'error'} if it cannot be used, else {'version', 'address', 'nodes'}.

    Args:
        file: a file on this machine that every node should see, None: there is none to look for.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises bare ones
        return {"error": " ".join(str(error).split()) or type(error).__name__, "version": ray.__version__}
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        function: Any = ray.remote(num_cpus=0)(_facts)
        nodes: list[dict[str, Any]] = []
        for node in alive[:_MOST_NODES]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            try:
                ray.get(function.options(scheduling_strategy=here).remote(None), timeout=_NODE_S)  # starts its worker
                sent = time.time()
                facts: Any = ray.get(function.options(scheduling_strategy=here).remote(file), timeout=_NODE_S)
                clock = facts.pop("time") - (sent + time.time()) / 2
                nodes.append(facts | {"clock_s": clock})
            except Exception as error:
                nodes.append({"error": " ".join(str(error).split())[:300]})
            nodes[-1] |= {"host": node["NodeManagerHostname"], "gpus": node["Resources"].get("GPU", 0.0)}
        return {"version": ray.__version__, "address": address, "nodes": nodes}
    finally:
        ray.shutdown()


def _facts(file: str | None) -> dict[str, Any]:
    """Return a node's versions, its clock in seconds, and whether it sees the file; imports nothing of ours there."""
    import os
    import platform
    import time
    from importlib import metadata

    versions: dict[str, str | None] = {"Python": platform.python_version()}
    for name in ("ray", "selgen-ray", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "sees": file is None or os.path.exists(file), "time": time.time()}  # noqa: PTH110


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(sys.argv[1] if len(sys.argv) > 1 else None)) + "\n")
