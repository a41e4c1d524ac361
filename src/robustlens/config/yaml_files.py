"""YAML that people write, read as they mean it: a key stands once, and what looks like text is text."""

import re
from pathlib import Path
from typing import Any

import yaml

from robustlens.errors import ConfigError

_YAML_1_1 = re.compile(r"yes|no|on|off|[-+]?0[0-9_]+|[-+]?[0-9_]+(:[0-9_.]+)+", re.IGNORECASE)
"""Words and numbers of YAML 1.1 alone: truth values, octal numbers and numbers to the base of 60."""
_OTHER_KINDS = ("binary", "omap", "pairs", "set")


class _Loader(yaml.SafeLoader):
    """The safe loader, with words and numbers as YAML 1.2 has them, and the kinds of JSON and dates alone."""

    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if str(tag).rpartition(":")[2] not in _OTHER_KINDS
    }

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and _YAML_1_1.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)

    def compose_mapping_node(self, anchor: Any) -> Any:
        """The mapping, in which no key stands twice: the first value would be lost."""
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    raise yaml.MarkedYAMLError(
                        problem=f"found {key.value!r} twice", problem_mark=key.start_mark
                    )
                known.add(key.value)
        return node


LARGEST_YAML, MOST_VALUES = 1 << 18, 20_000
"""Bytes of a YAML file, and values in it with its aliases written out: a thousand methods take fewer."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, through the safe loader.

    Raises:
        ConfigError: the file cannot be read, is too large, no YAML, names a key twice, or holds no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_YAML + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a YAML file") from error
    if len(content) > LARGEST_YAML:
        raise ConfigError(f"{path}: found more than {LARGEST_YAML} bytes, the most of a YAML file here")
    values = parsed_yaml(content, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected a mapping of fields")
    return values


def parsed_yaml(content: str | bytes, where: str) -> Any:
    """The value of a YAML text; `ConfigError` naming `where` for any that is not one, or is too large."""
    try:
        size = _written_out(yaml.compose(content, Loader=_Loader), {})
        if size > MOST_VALUES:
            raise ConfigError(
                f"{where}: found more than {MOST_VALUES} values with aliases written out, the most here"
            )
        return yaml.load(content, Loader=_Loader)
    except ConfigError:
        raise
    except RecursionError as error:
        raise ConfigError(f"{where}: found values nested too deeply, expected a recipe or a study") from error
    except Exception as error:  # the constructors of dates and numbers raise more than YAMLError
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())[:500]}") from error


def _written_out(node: Any, known: dict[int, int]) -> int:
    """Number of values below a node of a YAML graph, each alias counted as what it stands for."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # a node inside itself has no end
        below = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in below)
    return known[id(node)]
