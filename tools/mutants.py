"""Change the source of one room, one place at a time, and see whether its tests notice: `make mutants ROOM=threat`.

python tools/mutants.py ROOM [--minutes 10] [--out bench/results/mutants.json]

A room is a folder or a file of the package (`threat`, `report/text`, `stats/ranks.py`); it is run against its own
tests alone, up to the first that fails. Survivors are printed as a table and written to the file of results. An
`explanation` that is written beside one there (why no result depends on the place) stays when the room is run
again, and takes the mutant out of the share that counts.

The changes are cosmic-ray's. mutmut, which is faster, leaves properties, constants, defaults of dataclasses and
decorated functions as they are, and so most of what a threat model or a claim means here. Its speed comes from
forks, which this has too: torch is imported once, tests run in forks of that process, on a copy of the tree.
"""

import argparse
import ast
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/robustlens")
RESULTS = ROOT / "bench/results/mutants.json"
WARM = ("torch", "numpy", "scipy.optimize", "scipy.stats", "pytest", "hypothesis", "beartype", "jaxtyping", "pydantic")
"""Imported before the first fork; the package itself never is."""
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "Pow_Mul", "BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_USub", "Delete_Invert", "Delete_Not")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "NumberReplacer"),
)
"""One or two replacements of each operator, number and branch: all eleven of an operator say little more."""


@dataclass(frozen=True)
class Mutant:
    """A file of the package with one change; `was` and `now` are the line before and after."""

    file: str
    line: int
    was: str
    now: str
    code: str


@dataclass(frozen=True)
class Survivor:
    """A change that no test of its room noticed, and why none has to."""

    place: str
    was: str
    now: str
    explanation: str = ""


def main() -> None:
    """Run the mutants of one room, print the survivors, write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("room", help="folder or file of src/robustlens")
    parser.add_argument("--minutes", type=float, default=10, help="of processor time; an even sample is run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    for name in WARM:
        importlib.import_module(name)
    mutants = list(mutants_of(asked.room))
    random.Random(0).shuffle(mutants)
    survivors, run, seconds = [], 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "main"
        for part in ("src", "tests", "pyproject.toml"):
            copied(ROOT / part, tree / part)
        status, spent = tested(tree, asked.room, limit=600, keep_bytecode=True)
        if status != 0:
            sys.exit(f"{asked.room}: its tests fail without a change; repair them first")
        status, spent = tested(tree, asked.room, limit=600)  # with bytecode, as every mutant but its own file
        for mutant in mutants:
            if seconds > 60 * asked.minutes:
                break
            path = tree / mutant.file
            original, times = path.read_text(), path.stat()
            path.write_text(mutant.code)
            status, used = tested(tree, asked.room, limit=round(4 * spent + 5))
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            run, seconds = run + 1, seconds + used
            if status == 0:
                survivors.append(Survivor(f"{mutant.file}:{mutant.line}", mutant.was, mutant.now))
                print(f"survived: {mutant.file}:{mutant.line}: {mutant.now}", flush=True)
    write(asked.out, asked.room, len(mutants), run, seconds, survivors)
    print(table(json.loads(asked.out.read_text()), asked.room))


def files_of(room: str) -> list[Path]:
    """The files of a room, relative to the repository."""
    path = SOURCE / room
    if not (ROOT / path).exists():
        sys.exit(f"{room}: no such room; give a folder or a file of {SOURCE}")
    return [path] if path.suffix else sorted(file.relative_to(ROOT) for file in (ROOT / path).rglob("*.py"))


def tests_of(room: str) -> list[str]:
    """The tests of a room, and its source for the doctests."""
    own, source = Path(room), Path("tests") / room
    tests = source.with_name(f"test_{own.stem}.py") if own.suffix else source
    return [str(tests), str(SOURCE / room)]


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
    """The code's syntax tree without annotations and docstrings; None where it is no Python."""
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
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


def copied(source: Path, target: Path) -> None:
    """A copy without bytecode, of which a mutant must never be taken for another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def tested(tree: Path, room: str, *, limit: int, keep_bytecode: bool = False) -> tuple[int, float]:
    """Exit status of the room's tests in a fork (not 0 where a test fails or they hang), and its CPU seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        sys.dont_write_bytecode = not keep_bytecode
        os.environ |= {} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}
        used = int(process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + limit, used + limit))
        signal.alarm(20 * limit)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-W", "ignore:Module already imported", *tests_of(room)])))
    _, status, usage = os.wait4(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return status, usage.ru_utime + usage.ru_stime


def write(out: Path, room: str, mutants: int, run: int, seconds: float, survivors: list[Survivor]) -> None:
    """Write a room's results beside those of the others; explanations of its survivors stay."""
    results = json.loads(out.read_text()) if out.exists() else {}
    before = [Survivor(**each) for each in results.get("rooms", {}).get(room, {}).get("survivors", [])]
    known = {(each.place.partition(":")[0], each.was, each.now): each.explanation for each in before}
    explained = [
        asdict(
            Survivor(one.place, one.was, one.now, known.get((one.place.partition(":")[0], one.was, one.now), ""))
        )
        for one in sorted(survivors, key=lambda one: (one.place.partition(":")[0], int(one.place.split(":")[1])))
    ]
    rooms = {**results.get("rooms", {})}
    rooms[room] = {
        "command": f"make mutants ROOM={room}",
        "mutants": mutants,
        "run": run,
        "noticed": run - len(survivors),
        "cpu_seconds": round(seconds),
        "survivors": explained,
    }
    every = {path.stem for path in (ROOT / SOURCE).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    not_run = sorted(every - {Path(name).parts[0] for name in rooms} - {"__init__", "__main__", "version"})
    out.write_text(json.dumps({"rooms": dict(sorted(rooms.items())), "not_run": not_run}, indent=1) + "\n")


def table(results: dict, room: str) -> str:
    """The results of a room, and its survivors, as Markdown."""
    one = results["rooms"][room]
    open_ones = [each for each in one["survivors"] if not each["explanation"]]
    share = one["noticed"] / max(1, one["run"] - (len(one["survivors"]) - len(open_ones)))
    head = (
        f"{room}: {one['mutants']} mutants, {one['run']} run in {one['cpu_seconds']} s, {one['noticed']} noticed, "
        f"{len(open_ones)} survived and {len(one['survivors']) - len(open_ones)} change no result: "
        f"{100 * share:.1f} % of those that could be noticed\n"
    )
    rows = ["| where | was | now | explanation |", "|---|---|---|---|"]
    rows += [f"| {one['place']} | `{one['was']}` | `{one['now']}` | {one['explanation']} |" for one in one["survivors"]]
    return "\n".join([head, *(rows if one["survivors"] else [])])


if __name__ == "__main__":
    main()
