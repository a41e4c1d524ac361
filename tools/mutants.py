"""Change the source of a room, one place at a time, and see whether its tests notice.

make mutants ROOM=threat, or: python tools/mutants.py ROOM [--minutes 10] [--out FILE]

A room is a folder or a file of the package (`threat`, `report/text`, `stats/ranks.py`); its own tests alone
are run, up to the first that fails. Tests that are marked slow or take more than LONGEST seconds are left
out, so that the shares are lower bounds. Survivors are printed as a table and written to
bench/results/mutants.json. An `explanation` that is written beside one there (why no result depends on that
place) stays when the room is run again, and takes the mutant out of the share that counts. With --again, only
the survivors without an explanation are run: after new tests, what was noticed is noticed still.

What no result depends on by its kind is not changed: annotations, docstrings, kinds of parameters, and the
keywords of HARMLESS.

The changes are cosmic-ray's. mutmut, which is faster, leaves properties, constants, defaults of dataclasses
and functions with a decorator as they are, where much of what a threat model or a claim means is written. It
is fast by forks, as this is: torch is imported once, and tests run in forks of that process, on a copy of the
tree.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/robustlens")
RESULTS = ROOT / "bench/results/mutants.json"
WARM = ("torch", "numpy", "scipy.optimize", "scipy.stats", "pytest", "hypothesis", "beartype", "pydantic")
"""Imported before the first fork; the package itself never is."""
BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitAnd_BitOr BitOr_BitAnd"
COMPARISON = "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_Gt Gt_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
UNARY = "USub_UAdd Delete_USub Delete_Invert Delete_Not"
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY.split()),
    *(f"ReplaceComparisonOperator_{pair}" for pair in COMPARISON.split()),
    *(f"ReplaceUnaryOperator_{pair}" for pair in UNARY.split()),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "NumberReplacer"),
)
"""cosmic-ray's, with one or two replacements of an operator in place of all eleven."""

HARMLESS = {
    "frozen": "an immutable class computes what a mutable one does; tests/test_architecture.py asks for it",
    "repr": "what a debugger shows",
    "strict": "of zip: a check of lengths that are equal by construction",
    "stable": "of sort: the order of equal values, in which torch sorts on CPU anyway",
}
"""Keywords of a call that are left as they are, and why."""
LONGEST = 4.0
"""Seconds above which a test is left out; tests above a second come last."""


@dataclass(frozen=True)
class Mutant:
    """A file of the package with one change; `was` and `now` are the line before and after."""

    file: str
    line: int
    was: str
    now: str
    code: str

    @property
    def change(self) -> tuple[str, str, str]:
        """What it is known by in another run, whose lines may have moved."""
        return self.file, self.was, self.now


@dataclass(frozen=True)
class Survivor:
    """A change that no test of its room noticed, and why none has to."""

    file: str
    line: int
    was: str
    now: str
    explanation: str = ""

    @property
    def change(self) -> tuple[str, str, str]:
        """What it is known by in another run, whose lines may have moved."""
        return self.file, self.was, self.now


@dataclass(frozen=True)
class Outcome:
    """The tests of a room on a tree: whether they passed, and the processor seconds that they took."""

    passed: bool
    seconds: float


class QuickestFirst:
    """Plugin of pytest: the quick tests come first, the longest are left out, by the times of an earlier run.

    Args:
        path: where the times of tests and of files are kept; written by the first run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Order the tests, those of a file together as far as they are quick."""
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        items[:] = [item for item in items if known.get(item.nodeid, 0.0) <= LONGEST]
        items.sort(key=lambda item: (known.get(item.nodeid, 0.0) > 1, known.get(item.location[0], 0.0)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up the time of a test without its fixtures, and of a file with them."""
        self.seconds[report.location[0]] += report.duration
        self.seconds[report.nodeid] += report.duration if report.when == "call" else 0

    def pytest_sessionfinish(self) -> None:
        """Keep the times of the first run."""
        if not self.path.exists():
            self.path.write_text(json.dumps(self.seconds))


def main() -> None:
    """Run the mutants of one room, print the survivors, write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("room", help="folder or file of src/robustlens")
    parser.add_argument("--minutes", type=float, default=10, help="of processor time, for a random sample")
    parser.add_argument("--again", action="store_true", help="run the survivors of an earlier run alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in WARM:
        importlib.import_module(name)
    mutants = list(mutants_of(asked.room))
    random.Random(0).shuffle(mutants)
    before = recorded(asked.out).get(asked.room, {}) if asked.again else {}
    chosen = [one for one in mutants if one.change in unexplained(before)] if asked.again else mutants
    with tempfile.TemporaryDirectory() as folder:
        result = run(chosen, asked.room, Path(folder), 60 * asked.minutes)
    result = joined(before, result) if asked.again else result | {"mutants": len(mutants)}
    written = write(asked.out, asked.room, result)
    print(table(asked.room, written["rooms"][asked.room]))


def run(mutants: Sequence[Mutant], room: str, tree: Path, seconds: float) -> dict[str, Any]:
    """Test as many mutants as there is time for, in a copy of the sources and tests at `tree`."""
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tree)
    tested(tree, room, limit=600, keep_bytecode=True)
    plain = tested(tree, room, limit=600, keep_bytecode=False)
    if not plain.passed:
        sys.exit(f"{room}: its tests fail without a change; repair them first")
    survivors: list[Survivor] = []
    done, spent = 0, 0.0
    for mutant in mutants:
        if spent > seconds:
            break
        path = tree / mutant.file
        original, status = path.read_text(), path.stat()
        path.write_text(mutant.code)
        outcome = tested(tree, room, limit=round(4 * plain.seconds + 5), keep_bytecode=False)
        path.write_text(original)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that its bytecode is valid again
        done, spent = done + 1, spent + outcome.seconds
        if outcome.passed:
            survivors.append(Survivor(mutant.file, mutant.line, mutant.was, mutant.now))
            print(f"survived: {mutant.file}:{mutant.line}: {mutant.now}", flush=True)
    return {
        "run": done,
        "noticed": done - len(survivors),
        "cpu_seconds": round(spent),
        "survivors": survivors,
    }


def recorded(out: Path) -> dict[str, Any]:
    """The rooms of a file of results."""
    return dict(json.loads(out.read_text())["rooms"]) if out.exists() else {}


def unexplained(room: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The changes that survived an earlier run and have no explanation."""
    survivors = [Survivor(**each) for each in room.get("survivors", ())]
    return {one.change for one in survivors if not one.explanation}


def joined(before: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """An earlier run in which only those unexplained survivors remain that survived again."""
    survivors = [Survivor(**each) for each in before["survivors"]]
    kept = {one.change for one in again["survivors"]} | {one.change for one in survivors if one.explanation}
    left = [one for one in survivors if one.change in kept]
    spent = before["cpu_seconds"] + again["cpu_seconds"]
    return before | {"noticed": before["run"] - len(left), "cpu_seconds": spent, "survivors": left}


def files_of(room: str) -> list[Path]:
    """The files of a room, relative to the repository."""
    path = ROOT / SOURCE / room
    if not path.exists():
        sys.exit(f"{room}: no such room; give a folder or a file of {SOURCE}")
    return [file.relative_to(ROOT) for file in ([path] if path.suffix else sorted(path.rglob("*.py")))]


def tests_of(room: str) -> list[str]:
    """The tests of a room, and its source for the doctests."""
    tests = Path("tests") / room
    tests = tests.with_name(f"test_{tests.name}") if tests.suffix else tests
    return [str(path) for path in (tests, SOURCE / room) if (ROOT / path).exists()]


def mutants_of(room: str) -> Iterator[Mutant]:
    """Every change of a room's files that changes more than an annotation or a docstring."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    for file in files_of(room):
        code = (ROOT / file).read_text()
        tree, meaning = get_ast(code), meaning_of(code)
        for name in OPERATORS:
            operator = get_operator(f"core/{name}")()
            places = sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(tree))
            for place in range(places):
                changed = mutate_code(code, operator, place)
                if changed is None or meaning_of(changed) in (meaning, None):
                    continue
                lines = zip(code.splitlines(), changed.splitlines(), strict=False)
                line, (was, now) = next(each for each in enumerate(lines, 1) if each[1][0] != each[1][1])
                yield Mutant(str(file), line, was.strip(), now.strip(), changed)


def meaning_of(code: str) -> str | None:
    """The syntax tree without what no result depends on by its kind; None where it is no Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults = [*node.defaults, *(each for each in node.kw_defaults if each)]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        elif isinstance(node, ast.Call):
            node.keywords = [each for each in node.keywords if each.arg not in HARMLESS]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


def tested(tree: Path, room: str, *, limit: int, keep_bytecode: bool) -> Outcome:
    """The room's tests in a fork, which ends after `limit` seconds of processor time or 20 times as long.

    A mutant's bytecode is never kept: its source may be as long as the original, and as old by the second.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        os.environ["PYTHONPATH"] = str(tree / "src")  # of the programs that tests start
        sys.dont_write_bytecode = not keep_bytecode
        os.environ |= {} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # a fork's clock starts at 0
        signal.alarm(20 * limit)
        import pytest

        warmed = ("-W", "ignore:Module already imported")
        order = QuickestFirst(tree / "seconds.json")
        quick = ("-m", "not slow")
        os._exit(int(pytest.main(["-x", "-q", *quick, *warmed, *tests_of(room)], plugins=[order])))
    try:
        _, status, usage = os.wait4(child, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a test has left running, or all of it after a signal
    return Outcome(status == 0, usage.ru_utime + usage.ru_stime)


def write(out: Path, room: str, result: dict[str, Any]) -> dict[str, Any]:
    """Write a room's results beside those of the others; explanations of its survivors stay."""
    rooms = recorded(out)
    before = [Survivor(**each) for each in rooms.get(room, {}).get("survivors", ())]
    explanations = {one.change: one.explanation for one in before}
    survivors = [
        asdict(replace(one, explanation=explanations.get(one.change, "")))
        for one in sorted(result["survivors"], key=lambda one: (one.file, one.line, one.now))
    ]
    command = {"command": f"make mutants ROOM={room}"}
    rooms = dict(sorted({**rooms, room: command | result | {"survivors": survivors}}.items()))
    modules = [path for path in (ROOT / SOURCE).iterdir() if path.suffix == ".py" or path.is_dir()]
    parts = {path.stem for path in modules if not path.stem.startswith("__")} - {"version"}
    not_run = sorted(parts - {Path(name).parts[0] for name in rooms})
    left_out = f"tests that are marked slow or take more than {LONGEST:g} s"
    content = {"rooms": rooms, "left_out": left_out, "not_run": not_run}
    out.write_text(json.dumps(content, indent=1) + "\n")
    return content


def table(room: str, result: dict[str, Any]) -> str:
    """The results of a room and its survivors, as Markdown."""
    survivors = result["survivors"]
    explained = sum(bool(one["explanation"]) for one in survivors)
    share = 100 * result["noticed"] / max(1, result["run"] - explained)
    head = (
        f"{room}: {result['run']} of {result['mutants']} mutants run in {result['cpu_seconds']} s, "
        f"{result['noticed']} noticed, {explained} change no result, {len(survivors) - explained} survived: "
        f"{share:.1f} % of those that a test could notice"
    )
    rows = ["", "| where | was | now | why nothing notices |", "|---|---|---|---|"]
    rows += [
        f"| {one['file']}:{one['line']} | `{one['was']}` | `{one['now']}` | {one['explanation']} |"
        for one in survivors
    ]
    return "\n".join([head, *(rows if survivors else [])])


if __name__ == "__main__":
    main()
