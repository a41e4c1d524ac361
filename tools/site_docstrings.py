"""An extension of griffe (mkdocs.yml): doctests of docstrings become blocks of code in the reference."""

import re
from typing import Any

from griffe import Extension, Object

DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\s*$).*)*)", flags=re.MULTILINE)


class Doctests(Extension):
    """Fences every paragraph that begins with `>>>`, which Markdown would take for a quotation."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with each of its doctests in a fence."""
    return DOCTEST.sub(r"```pycon\n\1\n```", text)
