"""Names of methods, for the help of an option."""

import ast
from importlib import resources


def registered(source: str, registry: str) -> str:
    """The names in a registry, in their order, with commas between them.

    They are read in its source: importing it loads torch, which takes seconds, and help should not wait.

    Args:
        source: the file of the package that fills the registry, e.g. "objectives/__init__.py".
        registry: its name there; its entries stand in the call that makes it.
    """
    tree = ast.parse(resources.files("robustlens").joinpath(source).read_text(encoding="utf-8"))
    (made,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and registry in (getattr(target, "id", "") for target in ast.walk(node))
        and isinstance(node.value, ast.Call)
    )
    (entries,) = (argument for argument in made.args if isinstance(argument, ast.Dict))
    return ", ".join(str(ast.literal_eval(key)) for key in entries.keys if key is not None)
