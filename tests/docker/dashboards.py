"""What is in the JSON of a Grafana dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)


def expressions(dashboard: dict[str, Any]) -> list[str]:
    """The PromQL of its panels, with its variables replaced by what matches all."""
    found = [node["expr"] for node in _nodes(dashboard.get("panels", [])) if isinstance(node.get("expr"), str)]
    settled = [re.sub(r"\$__(rate_)?interval\b|\$\{__(rate_)?interval\}", "1m", text) for text in found]
    settled = [text.replace("{global_filters}", "").replace("$__range", "1h") for text in settled]
    return [re.sub(r"\$\{?\w+(:\w+)?\}?", ".*", text) for text in settled]


def datasources(dashboard: dict[str, Any]) -> set[str]:
    """The uids by which it names data sources; by name where it is old."""
    named = [node["datasource"] for node in _nodes(dashboard) if node.get("datasource")]
    return {one["uid"] if isinstance(one, dict) else one for one in named}
