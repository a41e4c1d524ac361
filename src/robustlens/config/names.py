"""One rule for everything that becomes the name of a file or folder, and for what a file may make run."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from robustlens.errors import ConfigError
from robustlens.factories import factories_in, is_factory

LONGEST_NAME = 100
"""Characters of a name: with a strength and a seed behind it, a file system still takes it (255 bytes)."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices, to Windows
_TEXTS = ("description", "label", "data_dir")  # fields that are never looked up
_HUBS = ("hf:", "hf-run:", "timm:")  # of models: what follows is a name, or for hf: a folder
_LOCAL_FOLDER = re.compile(r"hf:([/~.\\]|[A-Za-z]:[/\\])")
_CODE_OPTIONS = ("trust_remote_code", "code_revision")  # of transformers, which then runs a repository's code
_READERS = ("folder:", "idx:", "npz:", "packed:")  # of data: what follows is a path


def name_problem(name: str) -> str | None:
    """Words for what keeps `name` from being the name of a file, or None.

    >>> name_problem("AT+AWP (BN)"), name_problem(".hidden")
    (None, "found '.hidden', expected a name that begins with no dot and no drive")
    """
    shown = f"found {name[:LONGEST_NAME]!r}, expected a name"
    if not name.strip():
        return shown
    if name != name.strip():
        return f"{shown} with no space around it"
    if len(name) > LONGEST_NAME or len(name.encode(errors="replace")) > 2 * LONGEST_NAME:
        return f"{shown} of at most {LONGEST_NAME} characters"
    if re.search(r"[/\\]", name):
        return f"{shown} without / or \\"
    if not name.isprintable():
        return f"{shown} without line breaks and other characters that cannot be printed"
    if name.startswith(".") or re.match(r"[A-Za-z]:", name):
        return f"{shown} that begins with no dot and no drive"
    if name.startswith("-"):
        return f"{shown} that does not look like an option"
    if name.endswith(".") or _RESERVED.fullmatch(name):
        return f"{shown} that Windows takes for a file, too"
    return None


def slug(text: str) -> str:
    """A part of the name of a file.

    >>> slug("Logit margin, cumulative")
    'logit-margin-cumulative'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def in_unicode(text: str) -> str:
    """Text in which what is no character is escaped: a path in another encoding holds such, no file of ours.

    >>> in_unicode("café") == "café", in_unicode("caf" + chr(0xDCE9)).isprintable()
    (True, True)
    """
    return text.encode("utf-8", "backslashreplace").decode()


def unicode_alone(value: Any) -> Any:
    """Any value but a text that is no Unicode, which is a `ValueError`."""
    if isinstance(value, str) and value != in_unicode(value):
        raise ValueError(f": found {value!r}, expected Unicode text; rename what has another encoding")
    return value


def _name(value: Any) -> Any:
    problem = name_problem(value) if isinstance(value, str) else None
    if problem:
        raise ValueError(f": {problem}")
    return value


Name = Annotated[str, BeforeValidator(_name)]
"""Text that becomes the name of a file or folder."""


def _factory(text: str) -> str:
    if not is_factory(text):
        raise ValueError(f": found {text!r}, expected package.module:factory")
    return text


Factory = Annotated[
    str,
    AfterValidator(_factory),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"}),
]
"""Text that names a function or a class as "package.module:factory"."""


def code_in(values: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(field, what it says) for all code that a recipe, a plan or a study names: factories, code of the Hub.

    Sets and bytes are looked through as lists and text are: YAML can write them, and fields take them.

    >>> list(code_in({"model": {"name": "os:system"}, "data": {"name": "npz:x"}}))
    [('model.name', 'os:system')]
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            place = f"{field}.{key}".lstrip(".")
            yield from code_in(key, place)
            if _runs_hub_code(str(key), value):
                yield place, str(value)
            elif key not in _TEXTS:
                yield from code_in(value, place)
    elif isinstance(values, list | tuple | set | frozenset):
        for number, value in enumerate(values):
            yield from code_in(value, f"{field}.{number}")
    elif isinstance(values, str | bytes):
        text = values.decode(errors="replace") if isinstance(values, bytes) else values
        is_path = text.startswith(_READERS) and field.endswith("data.name")
        if not is_path:
            yield from ((field, name) for name in factories_in(text))


def _runs_hub_code(option: str, value: Any) -> bool:
    """Whether transformers runs a repository's code with this option: modules, or a kernel "owner/name"."""
    name = option.rpartition(".")[2]
    return (name in _CODE_OPTIONS and bool(value)) or ("_implementation" in name and "/" in str(value))


def refuse_code(values: Any, where: str, *, trust_code: bool = False) -> None:
    """Raise `ConfigError` where a file names code of others to be run, unless the user trusts it.

    Args:
        values: content of the file, as mappings, lists and text.
        where: the file, for messages.
        trust_code: whether the user does.
    """
    named = next(code_in(values), None)
    if named is not None and not trust_code:
        field, code = named
        raise ConfigError(
            f"{where}: {field}: found {code!r}, which runs code from outside; give --trust-code "
            "(trust_code=True) if you trust the code and whoever names it"
        )


def names_path(data_name: str) -> bool:
    """Whether the name of a data set is a path on the machine that wrote it.

    >>> names_path("folder:~/imagenet"), names_path("hf:owner/name")
    (True, False)
    """
    return data_name.startswith(_READERS)


def paths_in(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, text) for the fields of a recipe that name a file or folder of the machine that wrote it.

    >>> list(paths_in({"data": {"name": "npz:/home/me/x.npz"}, "init": {"model": "runs/at"}}))
    [('data.name', 'npz:/home/me/x.npz'), ('init.model', 'runs/at')]
    """
    data, init, model = (recipe.get(name) or {} for name in ("data", "init", "model"))
    if names_path(data.get("name", "")):
        yield "data.name", data["name"]
    if init.get("model") and not is_factory(init["model"]) and not init["model"].startswith(_HUBS):
        yield "init.model", init["model"]
    if _LOCAL_FOLDER.match(str(model.get("name", ""))):
        yield "model.name", model["name"]
