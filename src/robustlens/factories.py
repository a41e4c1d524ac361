"""Names of code of the user's: "package.module:factory", and the ways in which a text holds such a name."""

import re
from collections.abc import Iterator

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_WITH_STEPS = re.compile(r"(.+)-([1-9]\d{0,6})")


def is_factory(name: object) -> bool:
    """Whether `name` has the form "package.module:factory".

    >>> is_factory("my.package:network"), is_factory("hf:owner/name"), is_factory("resnet8")
    (True, False, False)
    """
    text = str(name)
    return _FACTORY.fullmatch(text) is not None and not text.startswith(("hf:", "timm:"))


def without_steps(name: str) -> tuple[str, int | None]:
    """A name and the steps that it may end with.

    >>> without_steps("pgd-50"), without_steps("fgsm")
    (('pgd', 50), ('fgsm', None))
    """
    ending = _WITH_STEPS.fullmatch(name)
    return (ending[1], int(ending[2])) if ending else (name, None)


def factories_in(text: str) -> Iterator[str]:
    """What the text names as "package.module:factory": alone, between commas, or with steps behind it.

    These are all the ways in which a text becomes a name that is imported.

    >>> list(factories_in("fgsm,mine:Attack-5"))
    ['mine:Attack']
    """
    return (name for name, _ in map(without_steps, text.split(",")) if is_factory(name))
