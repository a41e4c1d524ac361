"""Registries of what a user may name: its options, near names, and factories of the user's own.

Every kind of thing that people name in a recipe, a study or on the command line is an entry of one
`Registry`: its name, what it builds, and the options that the signature of that takes, with their types.
Wherever a name goes, "package.module:factory" goes too.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustlens.errors import ConfigError, RobustlensError
from robustlens.factories import is_factory

Entry = TypeVar("Entry")
_UNKNOWN = object()
_ADDED: set[tuple[str, str]] = set()  # entries of programs, by what they are and their name


class Registry(Mapping[str, Entry]):
    """Entries by name, in the order in which they are shown.

    Args:
        what: the word for one of them in messages, e.g. "objective".
        entries: what is there from the start; `registry[name] = entry` adds one.
        error: what an unknown name raises.
        hidden: parameters of an entry that are no options: the caller gives them.
        factories: whether "package.module:factory" may stand for an entry.
        other_names: names that the caller takes beside the entries, for messages.
        result_type: of the object that a factory has to return; None leaves its result and errors alone.
        required: whether a parameter without a default is an option, too, and has to be given.

    >>> shapes = Registry("shape", {"square": lambda side=1: side * side, "disc": lambda r=1: 3 * r * r})
    >>> shapes.find("squaer")
    Traceback (most recent call last):
    ...
    robustlens.errors.ConfigError: shape: found 'squaer', expected one of square, disc; did you mean 'square'?
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, Entry],
        *,
        error: type[RobustlensError] = ConfigError,
        hidden: tuple[str, ...] = (),
        factories: bool = False,
        other_names: Iterable[str] = (),
        result_type: type | None = None,
        required: bool = False,
    ) -> None:
        self.what, self.error, self.hidden, self.factories = what, error, hidden, factories
        self.required = required
        self._entries, self._other_names, self._result_type = dict(entries), other_names, result_type

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry
        _ADDED.add((self.what, name))

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        _ADDED.discard((self.what, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str, where: str = "") -> Any:
        """The entry `name`, or what "package.module:factory" names; `where` is the field, for messages."""
        where = where or self.what
        if name in self._entries:
            return self._entries[name]
        if self.factories and is_factory(name):
            factory = imported(name, where, self.error)
            if not callable(factory):
                kind = type(factory).__name__
                raise self.error(f"{where} {name!r}: found {kind}, expected a function or a class")
            return factory
        names = [*self._entries, *self._other_names, *(["package.module:factory"] if self.factories else [])]
        raise self.error(
            f"{where}: found {name!r}, expected one of {', '.join(names)}{near_name(name, names)}"
        )

    def options(self, name: str) -> tuple[str, ...]:
        """Names of the options that a registered entry takes."""
        return tuple(options_of(self[name], self.hidden, required=self.required))

    def checked(self, name: str, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """The options, each of the type that its entry declares.

        Raises:
            ConfigError (or the registry's error): unknown name or option, or a value of another type or
                outside its range; `where` is the field that holds the options, for messages.
        """
        entry, where = self.find(name), where or f"{self.what} {name!r}"
        known = options_of(entry, self.hidden, required=self.required)
        missing = [key for key, each in known.items() if each.default is each.empty and key not in options]
        if missing and name in self._entries:
            raise self.error(f"{where}.{missing[0]}: found none, expected a value: {name!r} has no default")
        return checked_options(entry, options, where, name, self.error, self.hidden, required=self.required)

    def build(
        self, name: str, *arguments: Any, options: Mapping[str, Any] | None = None, where: str = ""
    ) -> Any:
        """The entry `name`, called with `arguments` and its checked options; raises as `checked`, `call`."""
        entry, checked = self.find(name), self.checked(name, options or {}, where)
        if name in self._entries or self._result_type is None:
            return entry(*arguments, **checked)
        return self.call(name, entry, *arguments, **checked)

    def call(self, name: str, factory: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The object that a factory of the user's returns, which may fail in any way.

        Raises:
            ConfigError (or the registry's error): it fails, or returns something else; `name` is in the line.
        """
        try:
            made = factory(*arguments, **options)
        except RobustlensError:
            raise
        except (Exception, SystemExit) as problem:  # code of the user's can raise anything
            raise self.error(f"{self.what} {name!r}: failed ({one_line(problem)}); mend it") from problem
        if self._result_type is not None and not isinstance(made, self._result_type):
            expected = f"expected a {self._result_type.__name__}"
            raise self.error(f"{self.what} {name!r}: gives a {type(made).__name__}, {expected}")
        return made


def has_additions() -> bool:
    """Whether a program has added entries to a registry, which a process that does not import it lacks."""
    return bool(_ADDED)


def named(values: Mapping[str, Entry], name: str, where: str) -> Entry:
    """The value of a name.

    Raises:
        ConfigError: there is none; `where` is for the message.

    >>> named({"clean": 0.9}, "robust", "interval")
    Traceback (most recent call last):
    ...
    robustlens.errors.ConfigError: interval: found 'robust', expected one of clean
    """
    if name not in values:
        raise ConfigError(
            f"{where}: found {name!r}, expected one of {', '.join(values)}{near_name(name, values)}"
        )
    return values[name]


def near_name(name: object, names: Iterable[str]) -> str:
    """The end of a message that proposes the nearest of `names`; empty where none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def imported(name: str, where: str, error: type[RobustlensError] = ConfigError) -> Any:
    """The object that "package.module:factory" names.

    The module is imported as by `import`, with the working directory as the last place to look. A name of
    any other form is refused: `is_factory` alone tells whether a text can run code.
    """
    if not is_factory(name):
        raise error(f"{where}: found {name!r}, expected package.module:factory")
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that it shadows nothing
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as problem:
        raise error(f"{where} {name!r}: cannot import {module_name!r}: {one_line(problem)}") from problem
    for part in path.split("."):
        if not hasattr(target, part):
            raise error(f"{where} {name!r}: {module_name!r} has no {path!r}; expected package.module:factory")
        target = getattr(target, part)
    return target


def one_line(error: BaseException) -> str:
    """Type and first line of a foreign error."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters that can be given by name (and a `**` one); empty where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    by_name = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )
    return {key: parameter for key, parameter in parameters.items() if parameter.kind in by_name}


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether a function takes options by any name (`**options`)."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters_of(function).values())


def options_of(
    entry: Any, hidden: tuple[str, ...] = (), *, required: bool = False
) -> dict[str, inspect.Parameter]:
    """The parameters of an entry that have a default (or none, with `required`), less those in `hidden`."""
    return {
        name: parameter
        for name, parameter in parameters_of(entry).items()
        if (required or parameter.default is not parameter.empty)
        and parameter.kind is not parameter.VAR_KEYWORD
        and name not in hidden
    }


def checked_options(
    entry: Any,
    options: Mapping[str, Any],
    where: str,
    name: str,
    error: type[RobustlensError] = ConfigError,
    hidden: tuple[str, ...] = (),
    *,
    required: bool = False,
) -> dict[str, Any]:
    """The options, each validated by the annotation of its parameter; a bool is no number."""
    known, types = options_of(entry, hidden, required=required), _annotations(entry)
    checked = {}
    for option, value in options.items():
        if option not in known and not takes_any(entry):
            expected = f"expected one of {', '.join(known)}" if known else "it has none"
            raise error(f"{where}.{option}: unknown option of {name!r}; {expected}{near_name(option, known)}")
        checked[option] = _validated(types.get(option, _UNKNOWN), value, f"{where}.{option}", error)
    return checked


def _annotations(entry: Any) -> dict[str, Any]:
    """Types of the parameters of a function, a class or a partial of one."""
    while isinstance(entry, partial):
        entry = entry.func
    target = vars(entry).get("__init__", entry) if isinstance(entry, type) else entry
    try:
        return get_type_hints(target, include_extras=True)
    except Exception:  # a factory may annotate with what cannot be resolved; its options are then unchecked
        return {}


def _validated(kind: Any, value: Any, where: str, error: type[RobustlensError]) -> Any:
    if kind is _UNKNOWN or kind is Any:
        return value
    # A type with a configuration of its own takes no other.
    has_own = isinstance(kind, type) and hasattr(kind, "__pydantic_config__")
    adapter = TypeAdapter(kind, config=None if has_own else ConfigDict(arbitrary_types_allowed=True))
    try:
        if isinstance(value, bool) and not _takes_bool(kind):
            adapter.validate_python("a truth value")  # pydantic would make it 0 or 1: refuse it in its words
        return adapter.validate_python(value)
    except ValidationError as problem:
        message = problem.errors()[0]["msg"]
        raise error(f"{where}: found {value!r}; {message[:1].lower()}{message[1:]}") from problem


def _takes_bool(kind: Any) -> bool:
    return kind is bool or any(_takes_bool(part) for part in getattr(kind, "__args__", ()))
