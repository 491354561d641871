"""Strategies and metrics from outside: files that a search space names, and strategies of installed packages.

The source of a file travels with the trial, so a worker needs no shared file system. A package must be installed
where the worker runs. Either is part of the identity of the trials that use it: changed code is a new trial.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import linecache
import logging
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError

from selgen_ray.errors import PluginError
from selgen_ray.trainers import registry, strategy_config
from selgen_ray.trainers.registry import Strategy

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from selgen_ray.config.evals import EvalConfig

GROUP = "selgen_ray.trainers"
logger = logging.getLogger(__name__)
_BROKEN = (Exception, SystemExit)  # of a module that is imported: some scripts end with sys.exit()


@dataclass(frozen=True)
class Plugin:
    """A Python file that defines strategies, metrics or both.

    Attributes:
        name: the path it was read from; two contents of one name are versions of one plugin.
        source: its text.
    """

    name: str
    source: str

    @functools.cached_property
    def sha256(self) -> str:
        """Hex sha256 of the text; line ends and encoding do not count."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """What the module is called in sys.modules."""
        return f"selgen_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', Path(self.name).stem)}_{self.sha256[:8]}"

    @classmethod
    def read(cls, path: Path) -> Plugin:
        """The plugin in a file. Raises PluginError: it cannot be read."""
        try:
            return cls(str(path), importlib.util.decode_source(path.read_bytes()))
        except (OSError, SyntaxError, UnicodeDecodeError) as error:  # SyntaxError: an unknown encoding
            reason = error.strerror if isinstance(error, OSError) else error
            raise PluginError(f"{path}: cannot be read: {reason}") from error


_modules: dict[str, Plugin] = {}  # name of the module -> its plugin
_in_use: dict[str, Plugin] = {}  # sha256 -> a plugin whose strategies are registered now


def used() -> list[Plugin]:
    """The plugins whose strategies this process knows, in the order in which they were loaded."""
    return list(_in_use.values())


def register_exactly(plugins: Sequence[Plugin]) -> None:
    """Let this process know the strategies of exactly these plugins, in this order.

    Those of other plugins are forgotten, so that what a search space or a trial can use depends on itself alone.

    Raises:
        PluginError: as `load`.
    """
    if list(dict.fromkeys(plugin.sha256 for plugin in plugins)) == list(_in_use):
        return
    for plugin in list(_in_use.values()):
        _forget(plugin)
    for plugin in plugins:
        load(plugin)


def load(plugin: Plugin) -> None:
    """Run a plugin as a module, and register its strategies in the place of those of its earlier versions.

    A content that is in use already is left alone.

    Raises:
        PluginError: it cannot be imported, defines no strategy, or one whose name is taken; says in which line.
    """
    if plugin.sha256 in _in_use:
        return
    for other in [other for other in _in_use.values() if other.name == plugin.name]:
        _forget(other)
    from selgen_ray.evals import registry as evals_registry  # late: it imports PyTorch, seconds of start-up

    registry.import_shipped()  # these have their names first
    import_entry_points()
    evals_registry.all_metrics()
    try:
        _execute(plugin)
        own = [t for t in registry.registered().values() if t.__module__ == plugin.module_name]
        measured = [m for m in evals_registry.all_metrics().values() if m.compute.__module__ == plugin.module_name]
        if not own and not measured:
            raise ImportError("defines no strategy: subclass BaseTrainer and set proxy_strategy_name; and no @metric")
        for trainer in own:
            _check_knobs(trainer)
    except _BROKEN as error:
        registry.forget(plugin.module_name)
        evals_registry.forget(plugin.module_name)
        sys.modules.pop(plugin.module_name, None)
        raise PluginError(_told(error, plugin.name)) from error
    _in_use[plugin.sha256] = plugin


def code_of(trainer: type[Strategy]) -> list[str]:
    """What tells the code of a strategy from other versions of it; nothing where all of it is shipped.

    'plugin:<sha256>' and '<distribution>==<version>' of everything that it inherits from, nearest first.
    """
    owners = (owner.__module__ for owner in trainer.__mro__)
    return list(dict.fromkeys(code for module in owners if (code := _code_of_module(module))))


def code_of_metrics(config: EvalConfig) -> list[str]:
    """Return what tells the code of the metrics that a trial computes, as `code_of`."""
    from selgen_ray.evals import registry as evals_registry  # late: start-up, as above

    owners = (one.compute.__module__ for one in evals_registry.selected(config).values())
    return sorted({code for module in owners if (code := _code_of_module(module))})


def _code_of_module(module: str) -> str | None:
    if module in _modules:
        return f"plugin:{_modules[module].sha256}"
    # a package may define its strategies elsewhere than in the module that it names
    entry = max(_entries(), key=lambda entry: _common_parts(entry.module, module), default=None)
    return _distribution(entry) if entry and _common_parts(entry.module, module) else None


def _common_parts(one: str, other: str) -> int:
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _forget(plugin: Plugin) -> None:
    from selgen_ray.evals import registry as evals_registry  # late: start-up, as above

    registry.forget(plugin.module_name)
    evals_registry.forget(plugin.module_name)
    del _in_use[plugin.sha256]


def _execute(plugin: Plugin) -> None:
    module = ModuleType(plugin.module_name)
    module.__file__ = plugin.name
    sys.modules[plugin.module_name] = module  # before it runs: types of knobs are looked up there
    _modules[plugin.module_name] = plugin
    # for tracebacks and inspect.getsource, where the file is not there, or has changed since; None: never stale
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[plugin.name] = (len(plugin.source), None, lines, plugin.name)
    exec(compile(plugin.source, plugin.name, "exec", dont_inherit=True), vars(module))


def _check_knobs(trainer: type[Strategy]) -> None:
    """Raises TypeError: a knob that no config can have, which would be met in the middle of reading a sweep."""
    strategy_config.config_model(trainer)
    for name, (kind, info) in trainer.knobs().items():
        try:
            allowed: Any = Annotated[kind, info]  # type: ignore[valid-type]
            TypeAdapter(allowed).validate_python(info.default)
        except ValidationError as error:
            told = f"the default {info.default!r} is not allowed: {error.errors()[0]['msg']}"
            raise TypeError(f"{trainer.__name__}.{name}: {told}") from error
        except TypeError as error:
            raise TypeError(f"{trainer.__name__}.{name}: {error}") from error


def _told(error: BaseException, file: str) -> str:
    """'<file>:<line>: <what>', with the line of the file that was last at work."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = _one_line(error)
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, what = [error.lineno], f"SyntaxError: {error.msg}"
    return f"{file}:{lines[-1]}: {what}" if lines else f"{file}: {what}"


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# entry points -------------------------------------------------------------------------------------------------

_seen: set[EntryPoint] = set()
_failed: list[str] = []


def import_entry_points() -> None:
    """Import what installed packages offer, once. One that is broken is logged, and does not stop the others."""
    for entry in _entries():
        if entry in _seen:
            continue
        _seen.add(entry)  # before the import, which may ask for other strategies
        try:
            _import(entry)
        except _BROKEN as error:
            name = f"the entry point {entry.name!r} of {_distribution(entry)}"
            _failed.append(f"{name} could not be loaded: {_one_line(error)}")
            logger.warning("%s", _failed[-1])


def failed_entry_points() -> str:
    """What to add to a message about an unknown strategy: ' But ...', or ''."""
    return f" But {'; '.join(_failed)}." if _failed else ""


@functools.cache
def _entries() -> list[EntryPoint]:
    found = importlib.metadata.entry_points(group=GROUP)
    return sorted(found, key=lambda entry: (_distribution(entry), entry.name, entry.value))


def _distribution(entry: EntryPoint) -> str:
    if entry.dist is None:
        return "an unknown distribution"
    return f"{re.sub(r'[-_.]+', '-', entry.dist.name).lower()}=={entry.dist.version}"


def _import(entry: EntryPoint) -> None:
    try:
        loaded = entry.load()
    finally:
        for trainer in _defined_by(entry):
            if trainer.__module__ not in sys.modules:  # Python took it back: only half of it was run
                registry.forget(trainer.__module__)
    ours = _defined_by(entry)
    if not ours or not (isinstance(loaded, ModuleType) or loaded in ours):
        raise ImportError(f"{entry.value} is no strategy: subclass BaseTrainer and set proxy_strategy_name")
    for trainer in ours:
        try:
            _check_knobs(trainer)
        except Exception:
            registry.forget(trainer.__module__)
            raise


def _defined_by(entry: EntryPoint) -> list[type[Strategy]]:
    """The strategies of the entry point's distribution; it may name them one by one."""
    return [t for t in registry.registered().values() if _code_of_module(t.__module__) == _distribution(entry)]
