"""One way to name a part of mgsrl in the configuration, whoever wrote the part.

    REWARDS = Registry("reward", "mgsrl.rewards", {"http": "mgsrl.rewards.http_reward:HttpReward"})
    REWARDS.load("http", key="...")                         # ours, imported when asked for
    REWARDS.load("mylab.rewards:CodeReward", key="...")     # a module, in ./mylab/ too
    REWARDS.load("my_rewards.py:score", key="...")          # a file
    REWARDS.load("code", key="...")                         # an installed package's entry point

What cannot be found or imported is one `ConfigError` that says where it was looked for. Actors load
the same part in other processes: `located` gives the name by which they find it, whatever their
working directory is. `plugin_files` says which files were loaded, for a resumed run to compare.

Left out: sending code to other nodes. A plug-in lies on a shared disk, or is installed.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Self

from mgsrl.errors import ConfigError, nearest, one_line, shortened

PREFIX = "mgsrl_plugin_"
"""Of the module names of files, so that `json.py:score` hides no library."""
_PACKAGE = str(Path(__file__).parent) + os.sep
_folders: set[Path] = set()
"""Of the plug-ins' files that this process has loaded."""
_loaded: dict[str, Path] = {}
"""Files of users' plug-ins that this process has loaded, by the name they were asked for."""


class Registry:
    """The members of one kind of part.

    Args:
        kind: what a member is called in messages (`reward`).
        group: the entry-point group in which installed packages offer theirs.
        members: our own, name -> `module:attribute`; imported when they are asked for.
        base: the class that every member derives from, as `module:attribute`; members of a kind
            without one are checked by whoever loads them.
        else_say: what to do with something else than such a class.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        members: Mapping[str, str],
        base: str = "",
        else_say: str = "",
    ) -> None:
        self.kind, self.group, self.members, self._base = kind, group, dict(members), base
        self._else_say = else_say

    def names(self) -> list[str]:
        """Every plain name that `load` takes."""
        return [*self.members, *(p.name for p in self._entry_points())]

    def load(self, name: str, key: str) -> Any:
        """The member that the configuration calls `name`.

        Args:
            key: the configuration key that holds the name, for messages.

        Raises:
            ConfigError: an unknown name, no such file, module or attribute, an exception while it
                is imported, or what derives from another class than the kind's.
        """
        if name in self.members:
            return _ours(self.members[name])
        self.check_name(name, key)
        if ":" not in name:
            name = next(p.value for p in self._entry_points() if p.name == name)
        return self._import(name, key)

    def check_name(self, name: str, key: str) -> None:
        """Raise ConfigError for a plain name that is none; imports nothing."""
        if name in self.members or ":" in name or name in self.names():
            return
        ours = f"{nearest(name, self.names())}; or " if self.names() else ""
        raise ConfigError(
            f"{key} names no {self.kind}.",
            expected=f"{ours}your own: module:attribute, or file.py:attribute",
            found=shortened(repr(name)),
            todo=f"correct {key}",
        )

    def located(self, name: str) -> str:
        """`name` such that another process finds the same part: a file's path made absolute."""
        where, _, attribute = name.rpartition(":")
        if where.endswith(".py"):
            return f"{Path(where).expanduser().resolve()}:{attribute}"
        return name

    def _entry_points(self) -> Iterable[Any]:
        from importlib.metadata import entry_points  # here: it takes longer than all the rest

        return entry_points(group=self.group)

    def _import(self, reference: str, key: str) -> Any:
        where, _, attribute = reference.rpartition(":")
        if not where or not attribute:
            written = "module:attribute, or file.py:attribute"
            raise _problem(key, written, shortened(repr(reference)), f"correct {key}")
        module = _import_module(where, attribute, key)
        found: Any = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                own = [name for name in vars(found) if not name.startswith("_")]
                file = getattr(module, "__file__", None) or "built in"
                expected = f"{part!r} in {where} ({file})"
                raise _problem(key, expected, nearest(part, own), f"correct {key}")
            found = getattr(found, part)
        if self._base:
            base = _ours(self._base)
            if not (isinstance(found, type) and issubclass(found, base)):
                expected = f"a class that derives from {base.__module__}.{base.__qualname__}"
                described = f"the class {attribute}" if isinstance(found, type) else repr(found)
                todo = self._else_say or f"correct {key}"
                raise _problem(key, expected, shortened(described), todo)
        if file := getattr(module, "__file__", None):
            _loaded[reference] = Path(file).resolve()
        return found


def _ours(reference: str) -> Any:
    where, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(where), attribute)


class Part:
    """A function that is called with those arguments that it names, out of what is offered.

    Args:
        function: what was loaded. Its first argument goes by position, whatever it is called.
        offered: names of the others that it may ask for.
        key: the configuration key that names it, for messages.

    Raises:
        ConfigError: it cannot be called so.
    """

    def __init__(self, function: Any, offered: Sequence[str], key: str) -> None:
        try:
            parameters = dict(inspect.signature(function).parameters)
        except (TypeError, ValueError):  # nothing that can be called, or written in C
            parameters = {}
        all_of_them = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        taken = {name: None for name in offered if all_of_them or name in parameters}
        usage = f"a function of one argument and of those of {', '.join(offered)} that it names"
        check_signature(function, (None,), key, usage, taken)
        self.function, self.takes = function, frozenset(taken)
        self.named = self.takes & parameters.keys()
        """What it asks for by name, and does not merely take (`**others`)."""
        self.name = str(getattr(function, "__name__", type(function).__name__))

    @classmethod
    def of(cls, registry: Registry, named: Any, offered: Sequence[str], key: str) -> Self:
        """The member of `registry` that is `named`, or the function itself. Raises ConfigError."""
        if not isinstance(named, str):
            return cls(named, offered, key)
        part = cls(registry.load(named, key), offered, key)
        part.name = named
        return part

    def __call__(self, first: Any, **offered: Any) -> Any:
        return self.function(first, **{name: offered[name] for name in self.takes})


@contextmanager
def tried(key: str, name: str, expected: str) -> Iterator[None]:
    """Whatever a user's part raises inside is a ConfigError."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit, too
        problem = f"{key}={name} does not work."
        todo = "mend it (mgsrl.testing looks closer)"
        raise ConfigError(problem, expected=expected, found=_told(error), todo=todo) from error


def check_signature(
    found: Any,
    example: tuple[Any, ...],
    key: str,
    usage: str,
    by_name: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise ConfigError unless `found` can be called with arguments such as `example`.

    Args:
        example: positional arguments; only their number is looked at.
        by_name: keyword arguments; only their names are.
        usage: how it is called, for the message: `method(gram_MDD, orders_MDE)`.
    """
    problem = ""
    if not callable(found):
        problem = f"{type(found).__name__}, which cannot be called"
    else:
        try:
            inspect.signature(found).bind(*example, **by_name)
        except TypeError as error:
            problem = f"{getattr(found, '__name__', found)}{inspect.signature(found)}: {error}"
        except ValueError:  # written in C: it has no signature to look at
            return
    if problem:
        raise _problem(key, usage, problem, "give it these arguments")


def plugin_files() -> dict[str, dict[str, str]]:
    """What users' plug-ins this process has loaded: name -> `file` and `sha256` of it."""
    return {
        name: {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in sorted(_loaded.items())
    }


def _import_module(where: str, attribute: str, key: str) -> ModuleType:
    """The module of a dotted name or of a `.py` file. Raises ConfigError."""
    if where == "__main__":
        expected = "a module or file, which other processes can import too"
        found, todo = "a script or notebook", f"put {attribute} into a file: file.py:{attribute}"
        raise _problem(key, expected, found, todo)
    try:
        if where.endswith(".py"):
            return _from_file(Path(where).expanduser().resolve())
        if importlib.util.find_spec(where.partition(".")[0]) is None:
            # Last, so that it hides nothing; for good, since Ray's workers get the driver's path.
            sys.path.append(os.getcwd())
        return importlib.import_module(where)
    except FileNotFoundError as error:
        if error.filename is not None:  # the module's own
            raise _broken(key, where, error) from error
        raise _problem(
            key, f"the file {where}", f"none (in {os.getcwd()})", "correct its path"
        ) from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise _broken(key, where, error) from error
        given = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item]
        paths = [os.getcwd(), *(f"{item} (PYTHONPATH)" for item in given), "installed packages"]
        raise _problem(
            key,
            f"the module {where!r}",
            f"none in {', '.join(paths)}",
            "add its folder to PYTHONPATH, start in that folder, or name the file: "
            f"folder/file.py:{attribute}",
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's module raises, sys.exit included
        raise _broken(key, where, error) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(str(path))
    name = PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:  # what lies beside it can be imported, now and later
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
        _check_neighbours(path)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_neighbours(path: Path) -> None:
    """Raise ImportError if a file got a module of another plug-in's folder for one beside it."""
    _folders.add(path.parent)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    for name in names:
        found = getattr(sys.modules.get(name), "__file__", None)
        beside = (path.parent / f"{name}.py", path.parent / name / "__init__.py")
        if found is None or not any(file.is_file() for file in beside):
            continue
        others = _folders - {path.parent}
        if not others.isdisjoint([Path(found).parent, Path(found).parent.parent]):
            raise ImportError(f"{name} is {found}, loaded first: rename one of the two modules")


def _broken(key: str, where: str, error: BaseException) -> ConfigError:
    return _problem(key, f"{where}, importable", _told(error), "mend the module")


def _told(error: BaseException) -> str:
    """An exception in one line, with its place in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((_PACKAGE, "<frozen"))]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _problem(key: str, expected: str, found: str, todo: str) -> ConfigError:
    return ConfigError(f"{key} cannot be loaded.", expected=expected, found=found, todo=todo)
