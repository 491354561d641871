"""The plugins of a search space, loaded before the rest is read: they declare knobs, which are keys there."""

from __future__ import annotations

from selgen_ray.errors import PluginError, Problem
from selgen_ray.space.mappings import is_a
from selgen_ray.syntax.paths import find_path
from selgen_ray.syntax.tree import Node, show
from selgen_ray.trainers import plugins
from selgen_ray.trainers.plugins import Plugin


def use_plugins(tree: Node, problems: list[Problem]) -> tuple[Node, tuple[Plugin, ...]] | None:
    """Load the plugins that a search space names, and forget those of a search space that was read before.

    Returns:
        The search space with absolute paths of its plugins, and the plugins. None if one cannot be used; the reason
        is added to `problems`.
    """
    plugins.register_exactly(())
    listed = tree.value.get("plugins")
    if listed is None:
        return tree, ()
    if listed.value is not None and not is_a(list, listed, problems):
        return None
    loaded = [(node, _load(node, problems)) for node in listed.value or ()]
    paths = [Node(plugin.name, node.origin) for node, plugin in loaded if plugin]
    if len(paths) < len(loaded):
        return None
    resolved = Node({**tree.value, "plugins": Node(paths, listed.origin)}, tree.origin)
    return resolved, tuple(plugin for _, plugin in loaded if plugin)


def _load(node: Node, problems: list[Problem]) -> Plugin | None:
    path = find_path(node, problems)
    if path is None:
        return None
    if path.suffix != ".py":
        problems.append(node.problem(f"found {show(node.value)}; allowed: the path of a Python file, *.py."))
        return None
    try:
        plugin = Plugin.read(path.resolve())
        plugins.register_plugin(plugin)
    except PluginError as error:
        problems.append(node.problem(f"found {show(node.value)}, which cannot be used: {error}"))
        return None
    return plugin
