"""Strategies, metrics and Trainers from outside: files that a search space names, strategies of installed packages.

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
    from selgen_ray.config.trial import TrialConfig

GROUP = "selgen_ray.trainers"
logger = logging.getLogger(__name__)
_BROKEN = (Exception, SystemExit)  # raised by an imported module: some scripts end with sys.exit()


@dataclass(frozen=True)
class Plugin:
    """A Python file that defines strategies, metrics, or Trainers of Transformers for the strategy `hf_trainer`.

    Attributes:
        name: the path it was read from; two plugins of one name are versions of one.
        source: the text of the file.
    """

    name: str
    source: str

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the text in hex digits; line ends and encoding do not change it."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """The name of the module in sys.modules."""
        return f"selgen_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', Path(self.name).stem)}_{self.sha256[:8]}"

    @classmethod
    def read(cls, path: Path) -> Plugin:
        """Read a plugin from a file.

        Raises:
            PluginError: the file cannot be read.
        """
        try:
            return cls(str(path), importlib.util.decode_source(path.read_bytes()))
        except (OSError, SyntaxError, UnicodeDecodeError) as error:  # SyntaxError: an unknown encoding
            reason = error.strerror if isinstance(error, OSError) else error
            raise PluginError(f"{path}: cannot be read: {reason}") from error


_modules: dict[str, Plugin] = {}  # name of the module -> its plugin
_in_use: dict[str, Plugin] = {}  # sha256 -> a plugin whose strategies are registered now


def used() -> list[Plugin]:
    """Return the plugins whose strategies are registered in this process, in the order in which they were loaded."""
    return list(_in_use.values())


def register_exactly(plugins: Sequence[Plugin]) -> None:
    """Register the strategies and metrics of exactly these plugins, in this order.

    Those of other plugins are removed, so that a search space or a trial can use only the plugins that it names.

    Raises:
        PluginError: raised by `load`.
    """
    if list(dict.fromkeys(plugin.sha256 for plugin in plugins)) == list(_in_use):
        return
    for plugin in list(_in_use.values()):
        _forget(plugin)
    for plugin in plugins:
        register_plugin(plugin)


def register_plugin(plugin: Plugin) -> None:
    """Run a plugin as a module and register its strategies and metrics; those of its earlier versions are removed.

    Nothing happens if a plugin of the same content is loaded already.

    Raises:
        PluginError: the plugin cannot be imported, defines neither strategy, metric nor Trainer, or one whose name is
            taken; the message names the line.
    """
    if plugin.sha256 in _in_use:
        return
    for other in [other for other in _in_use.values() if other.name == plugin.name]:
        _forget(other)
    from selgen_ray.evals import registry as evals_registry  # late: it imports PyTorch, seconds of start-up

    registry.import_shipped()  # first, so that a plugin cannot take their names
    import_entry_points()
    evals_registry.all_metrics()
    try:
        _execute(plugin)
        new_strategies = [t for t in registry.registered().values() if t.__module__ == plugin.module_name]
        new_metrics = [m for m in evals_registry.all_metrics().values() if m.compute.__module__ == plugin.module_name]
        if not new_strategies and not new_metrics and not _trainers_of(plugin):
            raise ImportError(
                "defines no strategy: subclass BaseTrainer and set proxy_strategy_name; no @metric; and no subclass of "
                "transformers.Trainer"
            )
        for trainer in new_strategies:
            _check_knobs(trainer)
    except _BROKEN as error:
        registry.forget(plugin.module_name)
        evals_registry.forget(plugin.module_name)
        sys.modules.pop(plugin.module_name, None)
        raise PluginError(_with_line(error, plugin.name)) from error
    _in_use[plugin.sha256] = plugin


def code_of(trainer: type[Strategy], config: TrialConfig) -> list[str]:
    """Return the versions of a strategy's code from outside this package; [] if all of it is shipped.

    They are 'plugin:<sha256>' or '<distribution>==<version>' of the class, of those that the config names, and of all
    that they inherit from, nearest first.
    """
    owners = (owner.__module__ for kind in (trainer, *trainer.named_classes(config)) for owner in kind.__mro__)
    return list(dict.fromkeys(code for module in owners if (code := _code_of_module(module))))


def is_hf_trainer(value: Any) -> bool:
    """Return whether a value is a subclass of transformers.Trainer, without importing that."""
    return isinstance(value, type) and any(
        (owner.__module__, owner.__name__) == ("transformers.trainer", "Trainer") for owner in value.__mro__
    )


def _trainers_of(plugin: Plugin) -> dict[str, type]:
    found = vars(sys.modules[plugin.module_name]).items()
    return {name: one for name, one in found if is_hf_trainer(one) and one.__module__ == plugin.module_name}


def trainers_of_plugins() -> list[tuple[str, str]]:
    """Return (name of the file, class) of every Trainer of Transformers in the plugins that are in use."""
    return [(Path(plugin.name).stem, name) for plugin in used() for name in _trainers_of(plugin)]


def class_of(path: str) -> Any:
    """Return what a plugin in use calls a name: 'my_file.MyTrainer' of a file my_file.py.

    Raises:
        LookupError: there is no such file or name, or two files are called so.
    """
    stem, _, name = path.rpartition(".")
    alike = [plugin for plugin in used() if Path(plugin.name).stem == stem]
    if len(alike) > 1:
        raise LookupError(f"two plugins are called {stem}: {' and '.join(plugin.name for plugin in alike)}")
    if not alike:
        raise LookupError(f"no plugin is a file {stem or path}.py" + _known_stems())
    try:
        return getattr(sys.modules[alike[0].module_name], name)
    except AttributeError as error:
        raise LookupError(f"{alike[0].name} defines no {name!r}") from error


def _known_stems() -> str:
    return f", of those that `plugins` names: {', '.join(plugin.name for plugin in used())}" if used() else ""


def code_of_metrics(config: EvalConfig) -> list[str]:
    """Return the versions of a trial's metrics from outside this package, in the form of `code_of`, sorted."""
    from selgen_ray.evals import registry as evals_registry  # late: start-up, as above

    owners = (metric.compute.__module__ for metric in evals_registry.selected(config).values())
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
    sys.modules[plugin.module_name] = module  # before it runs: the types of knobs are looked up in sys.modules
    _modules[plugin.module_name] = plugin
    # tracebacks and inspect.getsource show this text if the file is missing or has changed; None: never stale
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[plugin.name] = (len(plugin.source), None, lines, plugin.name)
    exec(compile(plugin.source, plugin.name, "exec", dont_inherit=True), vars(module))


def _check_knobs(trainer: type[Strategy]) -> None:
    """Raise TypeError if no config can have a knob; else the error would come in the middle of reading a sweep."""
    strategy_config.config_model(trainer)
    for name, (kind, info) in trainer.knobs().items():
        try:
            allowed: Any = Annotated[kind, info]  # type: ignore[valid-type]
            TypeAdapter(allowed).validate_python(info.default)
        except ValidationError as error:
            message = f"the default {info.default!r} is not allowed: {error.errors()[0]['msg']}"
            raise TypeError(f"{trainer.__name__}.{name}: {message}") from error
        except TypeError as error:
            raise TypeError(f"{trainer.__name__}.{name}: {error}") from error


def _with_line(error: BaseException, file: str) -> str:
    """Return '<file>:<line>: <error>', with the last line of the file that ran before the error."""
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
    """Import the strategies of installed packages, each once; log a broken one, and go on with the others."""
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
    """Return ' But <entry point> could not be loaded: ...' for a message about an unknown strategy, or ''."""
    return f" But {'; '.join(_failed)}." if _failed else ""


@functools.cache
def _entries() -> list[EntryPoint]:
    entries = importlib.metadata.entry_points(group=GROUP)
    return sorted(entries, key=lambda entry: (_distribution(entry), entry.name, entry.value))


def _distribution(entry: EntryPoint) -> str:
    if entry.dist is None:
        return "an unknown distribution"
    return f"{re.sub(r'[-_.]+', '-', entry.dist.name).lower()}=={entry.dist.version}"


def _import(entry: EntryPoint) -> None:
    try:
        loaded = entry.load()
    finally:
        for trainer in _defined_by(entry):
            if trainer.__module__ not in sys.modules:  # Python removed the module: only half of it was run
                registry.forget(trainer.__module__)
    new_strategies = _defined_by(entry)
    if not new_strategies or not (isinstance(loaded, ModuleType) or loaded in new_strategies):
        raise ImportError(f"{entry.value} is no strategy: subclass BaseTrainer and set proxy_strategy_name")
    for trainer in new_strategies:
        try:
            _check_knobs(trainer)
        except Exception:
            registry.forget(trainer.__module__)
            raise


def _defined_by(entry: EntryPoint) -> list[type[Strategy]]:
    """Return the strategies of the entry point's distribution, which may have an entry point for each."""
    return [t for t in registry.registered().values() if _code_of_module(t.__module__) == _distribution(entry)]
