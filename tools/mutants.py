"""Change the source of a room, one place at a time, and see whether its tests notice.

make mutants ROOM=threat, or: python tools/mutants.py ROOM [--minutes 10] [--out FILE]

A room is a folder or a file of the package (`threat`, `report/text`, `stats/ranks.py`); its own tests alone
are run, of these the ones that call the changed function, up to the first that fails. Tests that are marked
slow or take more than LONGEST seconds are left out, so that the shares are lower bounds.

Survivors are printed as a table and written to bench/results/mutants.json. An `explanation` that is written
beside one there (why no result depends on that place) stays when the room is run again, and takes the mutant
out of the share that counts. With --again TESTS, the survivors without an explanation are run against these
new tests alone: what was noticed is noticed still.

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
import time
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
LONGEST = 5.0
"""Processor seconds, with the trace, above which a test is left out."""


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


class Trace:
    """Plugin of pytest: processor time of every test, and the functions of the package that it calls.

    What fixtures call counts for all tests of their file.

    Args:
        tree: the copy of the repository.
        out: where it is written at the end.
    """

    def __init__(self, tree: Path, out: Path) -> None:
        self.source, self.tree, self.out = f"{tree / SOURCE}/", tree, out
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.by, self.begun = "", 0.0
        self.failed: list[str] = []

    def pytest_runtest_logstart(self, location: tuple[str, int, str]) -> None:
        """Fixtures begin."""
        self.by = location[0]
        sys.setprofile(self._called)

    def pytest_runtest_call(self, item: Any) -> None:
        """The test begins."""
        self.by, self.begun = item.nodeid, time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """The test has ended."""
        sys.setprofile(None)
        self.seconds[nodeid] = time.process_time() - self.begun

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test that fails, such as one that a busy machine is too slow for."""
        self.failed += [report.nodeid] if report.failed else []

    def pytest_sessionfinish(self) -> None:
        """Write what was seen."""
        calls = {by: sorted(places) for by, places in self.calls.items()}
        seen = {"seconds": self.seconds, "calls": calls, "failed": self.failed}
        self.out.write_text(json.dumps(seen), encoding="utf-8")

    def _called(self, frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.source):
            file = str(Path(frame.f_code.co_filename).relative_to(self.tree))
            self.calls[self.by].add((file, frame.f_code.co_firstlineno))


class Chosen:
    """Plugin of pytest: some tests alone, those that take less than a second first.

    Args:
        seconds: of each of them.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Choose and order the tests, those of a file together."""
        of_file: dict[str, float] = defaultdict(float)
        for name, spent in self.seconds.items():
            of_file[name.split("::")[0]] += spent
        items[:] = [item for item in items if item.nodeid in self.seconds]
        items.sort(key=lambda item: (self.seconds[item.nodeid] > 1, of_file[item.nodeid.split("::")[0]]))


def main() -> None:
    """Run the mutants of one room, print the survivors, write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("room", help="folder or file of src/robustlens")
    parser.add_argument("--minutes", type=float, default=10, help="of processor time, for a random sample")
    parser.add_argument("--again", nargs="+", metavar="TESTS", help="survivors alone, against these tests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in WARM:
        importlib.import_module(name)
    before = recorded(asked.out).get(asked.room, {}) if asked.again else {}
    wanted = unexplained(before)
    if asked.again and not wanted:
        sys.exit(f"{asked.room}: no survivor without an explanation in {asked.out}")
    files = [
        file for file in files_of(asked.room) if not asked.again or str(file) in {one[0] for one in wanted}
    ]
    mutants = [one for one in mutants_of(files) if not asked.again or one.change in wanted]
    random.Random(0).shuffle(mutants)
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        if asked.again:
            written = joined(before, run(mutants, tree, 60 * asked.minutes, Together(asked.again)))
        else:
            tests = Reaching(tree, [*tests_of(asked.room), "-m", "not slow"])
            written = run(mutants, tree, 60 * asked.minutes, tests) | {"mutants": len(mutants)}
    print(table(asked.room, write(asked.out, asked.room, written)["rooms"][asked.room]))


def copied(tree: Path) -> Path:
    """The sources, the tests and the programs that these run in the folder `tree`."""
    for part in ("src", "tests", "bench"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tree)
    return tree


class Together:
    """All of some tests, for every mutant.

    Args:
        tests: files of them.
    """

    def __init__(self, tests: Sequence[str]) -> None:
        self.tests = tests

    def outcome(self, tree: Path, mutant: Mutant, original: str) -> Outcome:
        """Theirs, in a tree with the mutant."""
        return tested(tree, self.tests, object(), limit=300, keep_bytecode=False)


class Reaching:
    """For every mutant the tests that call the changed function, by a trace of all of them.

    Args:
        tree: the copy of the repository, without a change.
        tests: files of them, and options of pytest.
    """

    def __init__(self, tree: Path, tests: Sequence[str]) -> None:
        trace = tree / "trace.json"
        tested(tree, [*tests, "--maxfail=20"], Trace(tree, trace), limit=1200, keep_bytecode=True)
        seen = json.loads(trace.read_text(encoding="utf-8"))
        for name in seen["failed"]:
            print(f"left out, as it fails without a change: {name}", flush=True)
        kept = {name: spent for name, spent in seen["seconds"].items() if name not in seen["failed"]}
        self.seconds = {name: spent for name, spent in kept.items() if spent <= LONGEST}
        self.calls: dict[str, list[tuple[str, int]]] = seen["calls"]

    def outcome(self, tree: Path, mutant: Mutant, original: str) -> Outcome:
        """Theirs, in a tree with the mutant; no tests pass."""
        seconds = {name: self.seconds[name] for name in self._names(mutant, original)}
        if not seconds:
            return Outcome(passed=True, seconds=0.0)
        files = sorted({name.split("::")[0] for name in seconds})
        limit = round(3 * sum(seconds.values()) + 20)
        return tested(tree, files, Chosen(seconds), limit=limit, keep_bytecode=False)

    def _names(self, mutant: Mutant, original: str) -> list[str]:
        """Tests that call the function around the change, not the longest; all where there is no function."""
        around = [
            node
            for node in ast.walk(ast.parse(original))
            if isinstance(node, ast.FunctionDef)
            and _first_line(node) <= mutant.line <= (node.end_lineno or 0)
        ]
        if not around:
            return list(self.seconds)
        innermost = max(around, key=_first_line)
        callers = {
            by
            for by, places in self.calls.items()
            for file, line in places
            if file == mutant.file and _first_line(innermost) <= line < innermost.body[0].lineno
        }
        return [name for name in self.seconds if {name, name.split("::")[0]} & callers]


def run(mutants: Sequence[Mutant], tree: Path, seconds: float, tests: Together | Reaching) -> dict[str, Any]:
    """Test as many mutants as there is time for, in a copy of the repository."""
    survivors: list[Survivor] = []
    done, spent = 0, 0.0
    for mutant in mutants:
        if spent > seconds:
            break
        path = tree / mutant.file
        original, status = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutant.code, encoding="utf-8")
        outcome = tests.outcome(tree, mutant, original)
        path.write_text(original, encoding="utf-8")
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


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])


def recorded(out: Path) -> dict[str, Any]:
    """The rooms of a file of results."""
    return dict(json.loads(out.read_text(encoding="utf-8"))["rooms"]) if out.exists() else {}


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


def mutants_of(files: Sequence[Path]) -> Iterator[Mutant]:
    """Every change of the files that changes more than an annotation or a docstring."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    for file in files:
        code = (ROOT / file).read_text(encoding="utf-8")
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


def tested(tree: Path, tests: Sequence[str], plugin: object, *, limit: int, keep_bytecode: bool) -> Outcome:
    """Tests in a fork, which ends after `limit` seconds of processor time or 20 times as long.

    A mutant's bytecode is never kept: its source may be as long as the original, and as old by the second.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # of the same session, and so of the same priority
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
        os._exit(int(pytest.main(["-q", "-x", *warmed, *tests], plugins=[plugin])))
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
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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
