"""Names of ours in the documents: Python that resolves and takes these arguments, commands that parse, recipe fields."""

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import robustlens as rl
import robustlens.cli  # registers the commands
from robustlens.cli.application import app
from robustlens.config import Recipe
from robustlens.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]


def spans(path: Path) -> list[str]:
    """The pieces of code in the prose of a page."""
    return SPAN.findall(FENCE.sub("", path.read_text(encoding="utf-8")))


def check_python(text: str) -> None:
    """Every `rl....` in an expression is there, and every call of one takes the arguments that it gets."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("rl."):
            resolved(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("rl."):
            called = resolved(node.func)
            given = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            if callable(called):
                inspect.signature(called).bind_partial(*node.args, **given)


def resolved(node: ast.expr) -> object:
    """What a dotted name is; None for an attribute of what a call returns."""
    text = ast.unparse(node)
    if not re.fullmatch(r"rl(\.\w+)+", text):
        return None
    found: object = rl
    for name in text.split(".")[1:]:
        found = getattr(found, name)
    return found


def check_command(text: str) -> None:
    """The words of a shell line are a command of ours and options that it has."""
    words = shlex.split(text, comments=True)
    command: Any = get_command(app)
    for word in words[words.index("robustlens") + 1 :]:
        if word.startswith("--"):
            known = {name for parameter in command.params for name in parameter.opts}
            assert word.split("=")[0] in known | {"--help"}, f"{word} in {text!r}"
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_python_names_in_the_prose_are_there(path):
    for span in spans(path):
        if span.startswith("rl."):
            check_python(span)


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_commands_have_these_options(path):
    text = path.read_text(encoding="utf-8")
    lines = [
        line
        for language, block in FENCE.findall(text)
        if language == "sh"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    for line in [*lines, *(span for span in spans(path) if span.startswith("robustlens "))]:
        if re.search(r"(^|\s)robustlens\s+[a-z]", line) and "pip" not in line:
            check_command(line)


def ours() -> list[str]:
    """The right column of the tables of docs/coming-from.md."""
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    return [
        row.split(" | ")[1] for row in text.splitlines() if row.startswith("| ") and "| here |" not in row
    ]


def test_recipe_fields_named_for_newcomers_are_fields():
    fields = [span for row in ours() if row.startswith("recipe:") for span in SPAN.findall(row)]
    fields = [field for field in fields if ": " in field]
    assert len(fields) > 8
    for field in fields:
        Recipe.model_validate({**Recipe().model_dump(exclude_defaults=True), **yaml.safe_load(field)})


def test_attacks_named_for_newcomers_are_attacks():
    quoted = [name for row in ours() for name in re.findall(r'`"([a-z0-9-]+)"', row)]
    assert {"square-5000", "cw-20", "apgd-t", "standard"} <= set(quoted)
    for name in quoted:
        rl.attacks.names([name])
    with pytest.raises(ConfigError):
        rl.attacks.names(["apgd-x"])


def test_a_name_that_is_not_there_is_noticed():
    with pytest.raises(AttributeError):
        check_python("rl.attacks.PGDL2(threat)")
    with pytest.raises(TypeError):
        check_python("rl.attacks.PGD(threat, alpha=2 / 255)")
    with pytest.raises(AssertionError):
        check_command("robustlens evaluate model.pt --alpha 1")
