"""The house itself: names that occur once, rooms without torch, files that can be read at a sitting."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "robustlens"
FILES = sorted(SOURCE.rglob("*.py"))
TORCH_FREE = ("report", "claims", "results", "config", "stats", "registry", "progress", "executors")
JSON_OUTSIDE_RESULTS = {
    "models/loading.py": "the header of a weights file, which its own writer reads",
    "training/state.py": "the header of a training state, which its own writer reads",
    "evaluation/state.py": "the header of an evaluation's state, which its own writer reads",
    "models/foreign.py": "files of others",
}
"""Files outside results/ that may parse JSON, and why."""
LONG: dict[str, str] = {}
"""Files above 300 lines, and why."""


def _trees():
    return ((path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES)


def test_a_class_name_occurs_once():
    """But for `compat`, whose names are those of other libraries."""
    names = Counter(
        node.name
        for path, tree in _trees()
        if "compat" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in names.items() if count > 1} == {}


@pytest.mark.parametrize("room", TORCH_FREE)
def test_reading_results_needs_no_torch(room):
    program = f"import sys, robustlens.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_training_alone_imports_lightning():
    importers = {
        path.relative_to(SOURCE).parts[0]
        for path, tree in _trees()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"))
        or (isinstance(node, ast.Import) and any(name.name.startswith("lightning") for name in node.names))
    }
    assert importers == {"training"}


def test_results_are_parsed_in_one_room():
    parsers = {
        str(path.relative_to(SOURCE))
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            (node.func.attr in ("loads", "load") and ast.unparse(node.func.value) == "json")
            or node.func.attr == "read_json"
        )
    }
    outside = {name for name in parsers if not name.startswith("results/")}
    assert outside <= set(JSON_OUTSIDE_RESULTS), outside - set(JSON_OUTSIDE_RESULTS)


@pytest.mark.parametrize(
    "stem", ["evaluation", "explanation", "run", "recipe", "study", "claims", "metrics", "state"]
)
def test_names_of_files_stand_in_one_room(stem):
    """No room but results builds the path of a document; error texts may name one."""
    pattern = re.compile(rf'/ f?"{stem}(\.json|\.jsonl|\.safetensors)"')
    users = {
        str(path.relative_to(SOURCE)) for path in FILES if pattern.search(path.read_text(encoding="utf-8"))
    }
    own = {"state": {"training/state.py"}}.get(stem, set())
    assert {name for name in users if not name.startswith("results/")} <= own


def test_found_is_a_word_of_error_texts_only():
    """A local variable says what it holds (HOUSE: nouns)."""
    users = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
        and node.id == "found"
        and isinstance(node.ctx, ast.Store)
        and not _is_text(tree, node)
    ]
    assert users == []


def _is_text(tree: ast.Module, name: ast.Name) -> bool:
    """Whether the variable is assigned a piece of an error text: a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and name in ast.walk(node):
            value = node.value
            if isinstance(value, ast.IfExp):
                return all(_is_string(part) for part in (value.body, value.orelse))
            return _is_string(value)
    return False


def _is_string(value: ast.expr) -> bool:
    is_join = (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "join"
    )
    return (
        isinstance(value, ast.JoinedStr)
        or is_join
        or (isinstance(value, ast.Constant) and isinstance(value.value, str))
    )


def test_files_can_be_read_at_a_sitting():
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES
    }
    assert {name: n for name, n in lengths.items() if n > 300 and name not in LONG} == {}


def test_public_names_are_the_functions_whatever_is_imported_first():
    program = (
        "import robustlens.training, robustlens.evaluation, robustlens.explain.spectrum, robustlens.explain.bound;"
        "import robustlens as rl;"
        "assert callable(rl.train) and callable(rl.evaluate) and callable(rl.explain.spectrum);"
        "assert callable(rl.explain.bound) and callable(rl.explain.margins) and callable(rl.explain.landscape)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


STATE = {
    "AdversarialImages",
    "EvaluationState",
    "MicroBatch",
    "_Worker",
    "ArrayFile",
    "Rows",
    "Ascent",
    "Walk",
    "AttackBudget",
    "Pace",
    "Certificates",
    "Propagation",
    "_Recorder",
}
"""Dataclasses that change while something is computed; so do those that are made from them."""


def test_dataclasses_are_frozen_unless_they_are_state():
    changing = {
        node.name
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and not STATE & {ast.unparse(base) for base in node.bases}
        and any(re.match("dataclass(?!.*frozen=True)", ast.unparse(each)) for each in node.decorator_list)
    }
    assert changing == STATE - {"Ascent", "Walk"}
