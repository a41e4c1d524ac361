"""Damage every file of a finished study, and see that nobody takes the damage for a result.

    nice -n 19 python bench/damage.py --cases 2000 --out bench/results/damage.json

A study of four tiny runs is carried out in this process. Each case copies it, damages one file, and goes
through one command as the command line would: `train` (which resumes), `evaluate` and `explain` (which read
what is there, or make it anew), `report`, `verify` and `study`. A case passes where the command ends with an
exit code of ours and one line, or the page says which file cannot be read, or the page is the one of the
undamaged study, number for number. Anything else is a traceback or a silent difference; exit 1 where there is
one. Clocks stand still here, so that pages of equal results are equal.

Files whose JSON was changed and sealed anew are no damage but forgery: of these only tracebacks count.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

import still_clocks  # noqa: F401 - before anything takes the clocks by name
import tiny_study
from robustlens import data, study
from robustlens.config import Recipe
from robustlens.errors import RobustlensError
from robustlens.evaluation import evaluate_run
from robustlens.executors import InProcess
from robustlens.explain import explain_run
from robustlens.report.figures import figures
from robustlens.report.page import rendering
from robustlens.report.page.rendering import page
from robustlens.report.reading import read_study
from robustlens.report.text.headline import headline
from robustlens.results import Run, StudyFolder, array_files, files, verify
from robustlens.study.planning import evaluation_plan, explanation_plan
from robustlens.study.stages import Fingerprints, is_done
from robustlens.training import train

ACCEPTED = (2, 3, 4, 7)
"""Exit codes that a damaged file may end with."""
_VALUES: list[Any] = [
    None,
    True,
    -1,
    1 << 80,
    1e999,
    "",
    "x" * 99,
    "\ud800",
    [],
    {},
    [[]],
    {"a": [None]},
    "os:system",
]


class Bench:
    """A finished study, the commands that read it, and what each of them leaves of it undamaged."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.copy = work, work / "whole", work / "copy"
        self.source, self.study_file = tiny_study.write(work), work / "damaged.yaml"
        self.spec = study.read(self.source)
        study.run(self.spec, self.whole, executor=InProcess())
        self.plans = evaluation_plan(self.spec), explanation_plan(self.spec)
        self.planned = {one.id: one for one in study.plan(self.spec)}
        self.splits = data.of_spec(self.spec.data)
        self.commands: dict[str, Callable[[Run], object]] = {
            "train": self.train,
            "evaluate": self.evaluate,
            "evaluate anew": self.evaluate,
            "explain": self.explain,
            "explain anew": self.explain,
            "report": lambda run: None,  # the page is made after every command
            "verify": self.verify,
            "study": self.study,
        }
        self._pages: dict[tuple[str, str], str] = {}
        vars(rendering)["get_plotlyjs"] = lambda: ""  # the same in all pages, and most of their time

    def files(self) -> list[str]:
        """Every file of the study, from its folder; locks are empty."""
        paths = (path for path in self.whole.rglob("*") if path.is_file() and path.stat().st_size)
        return sorted(str(path.relative_to(self.whole)) for path in paths)

    def fresh(self, command: str, name: str) -> Run:
        """A copy of the study in which the command has something to read; its run called `name`."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.whole, self.copy)
        self.study_file.write_bytes(self.source.read_bytes())
        run = Run(self.copy / "runs" / name)
        if command == "train":
            run.update(status="training")
        if command.endswith("anew"):
            stage = "evaluation" if command.startswith("evaluate") else "explanation"
            for path in run.folder.glob(f"{stage}*"):
                path.unlink()
        return run

    def page(self) -> str:
        """The page of the copy, without the folder that it lies in."""
        content = read_study(self.copy)
        return page(content, figures(content), headline(content))

    def expected(self, command: str, name: str) -> str:
        """The page after a command on the undamaged study."""
        if (command, name) not in self._pages:
            self.commands[command](self.fresh(command, name))
            self._pages[command, name] = self.page()
        return self._pages[command, name]

    # -- commands --------------------------------------------------------------------------------

    def recipe(self, run: Run) -> Recipe:
        """The recipe of a run, as the study has it."""
        return self.planned[run.folder.name].recipe

    def train(self, run: Run) -> None:
        """Resume the training."""
        train(self.recipe(run), run.folder, splits=self.splits)

    def evaluate(self, run: Run) -> None:
        """Read the evaluation, or make it."""
        evaluate_run(run, self.plans[0], splits=self.splits)

    def explain(self, run: Run) -> None:
        """Read the explanation, or make it."""
        explain_run(run, self.plans[1], splits=self.splits)

    def verify(self, run: Run) -> None:
        """Check every file; raises what the command line would."""
        problems = [check.problem for check in verify(self.copy) if check.problem]
        if problems:
            raise study_error(problems[0])

    def study(self, run: Run) -> None:
        """Plan the study and look which of its runs are done."""
        study.plan(study.read(self.study_file))
        for one in StudyFolder(self.copy).runs():
            is_done(one, *self.plans, Fingerprints())


def study_error(problem: str) -> RobustlensError:
    error = RobustlensError(problem)
    error.exit_code = 7
    return error


# -- damage ----------------------------------------------------------------------------------------------


def flip(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 50))):
        bit = draw.randrange(8 * len(content))
        changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def cut(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    lines = content.splitlines(keepends=True)
    whole_lines = b"".join(lines[: draw.randrange(len(lines) + 1)])
    return draw.choice((content[:first], content[last:], content[:first] + content[last:], whole_lines))


def swap(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The content of another file of its kind, or two parts of this one exchanged."""
    if others and draw.random() < 0.7:
        return draw.choice(others)
    at, size = sorted((draw.randrange(len(content)), draw.randrange(len(content)))), draw.choice((1, 8, 64))
    one, two = content[at[0] : at[0] + size], content[at[1] : at[1] + size]
    return content[: at[0]] + two + content[at[0] + len(one) : at[1]] + one + content[at[1] + len(two) :]


def garble(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """Bytes that are no UTF-8, or another encoding of the same text."""
    at = draw.randrange(len(content) + 1)
    text = content.decode("latin-1").encode("utf-16")
    return draw.choice((content[:at] + b"\xff\xfe\x80\0" + content[at:], b"\xef\xbb\xbf" + content, text))


def retype(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    return _changed(content, draw, lambda: draw.choice(_VALUES))


def nest(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    depth = draw.choice((3, 500, 100_000))
    marked = _changed(content, draw, lambda: "NEST")
    return marked.replace(
        b'"NEST"', draw.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    )


DAMAGES = {"flip": flip, "cut": cut, "swap": swap, "garble": garble, "retype": retype, "nest": nest}


def _changed(content: bytes, draw: random.Random, value: Callable[[], Any]) -> bytes:
    """One value of a JSON document, of a line of them, of a YAML file or of a safetensors header changed."""
    if content[8:9] == b"{" and content[:1] != b"{":
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        inner = header.get("__metadata__", {})
        if "robustlens" in inner and draw.random() < 0.7:
            ours = json.loads(inner["robustlens"])
            _replace(ours, draw, value())
            inner["robustlens"] = json.dumps(ours)
        else:
            _replace(header, draw, value())
        head = json.dumps(header).encode()
        return len(head).to_bytes(8, "little") + head + content[8 + size :]
    try:
        lines = [json.loads(content)]
    except ValueError:
        try:
            lines = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            lines = [yaml.safe_load(content)]
    _replace(draw.choice(lines), draw, value())
    return b"".join(
        json.dumps(line, indent=1 if len(lines) == 1 else None).encode() + b"\n" for line in lines
    )


def _replace(document: Any, draw: random.Random, value: Any) -> None:
    places = list(_places(document))
    inside, key = draw.choice(places)
    inside[key] = value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def forged(content: bytes) -> bytes:
    """The content with a seal that fits it, where it is JSON or safetensors that can still carry one."""
    try:
        if content[8:9] == b"{" and content[:1] != b"{":
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])["__metadata__"]["robustlens"]
            return array_files.sealed_tensors(content, json.loads(header))
        lines = content.splitlines() if content.count(b"\n{") else [content]
        indent = 1 if len(lines) == 1 else None
        return b"".join(_sealed({**json.loads(line)}, indent) for line in lines)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError):
        return content


def _sealed(values: dict[str, Any], indent: int | None) -> bytes:
    values.pop("seal", None)
    content = json.dumps({**values, "seal": files.ZEROS}, indent=indent).encode() + b"\n"
    return files.sealed(content, files._SEALED_JSON)


# -- cases -----------------------------------------------------------------------------------------------


def one_case(bench: Bench, seed: int) -> dict[str, Any]:
    """Damage one file by a seed, go through one command, and say how it ended."""
    draw = random.Random(seed)
    command, name = draw.choice(list(bench.commands)), draw.choice(list(bench.planned))
    damage = draw.choice(list(DAMAGES))
    expected = bench.expected(command, name)
    run = bench.fresh(command, name)
    known = [path for path in bench.files() if (bench.copy / path).exists()]
    own = [path for path in known if path.startswith(f"runs/{name}/") or "/" not in path]
    if command in ("report", "verify", "study"):
        own = known
    file = draw.choice([*own, *(["the study file"] if command == "study" else [])])
    path = bench.study_file if file == "the study file" else bench.copy / file
    same = [bench.copy / one for one in known if Path(one).suffix == path.suffix and one != file]
    content = path.read_bytes()
    changed = DAMAGES[damage](content, draw, [one.read_bytes() for one in same])
    is_forged = damage in ("retype", "nest") and draw.random() < 0.5
    changed = forged(changed) if is_forged else changed
    path.write_bytes(changed)
    case = {"seed": seed, "command": command, "file": file, "damage": damage + " and seal" * is_forged}
    try:
        bench.commands[command](run)
        shown = bench.page()
    except RobustlensError as error:
        fine = error.exit_code in ACCEPTED and "\n" not in str(error)
        return case | {"end": f"exit {error.exit_code}" if fine else f"traceback: {error!r}"}
    except BaseException as error:  # whatever it is, a user would see its traceback
        return case | {"end": f"traceback: {type(error).__name__}: {str(error)[:200]}"}
    if shown == expected:
        return case | {"end": "same page"}
    pair = (
        Path(file).with_suffix(suffix).name for suffix in (".json", ".safetensors")
    )  # a result's two files
    names = {Path(file).name, *pair, *(one.name for one in same)}
    if any(
        re.search(rf"{re.escape(one)}[^<]*(damaged|expected|found|changed|belong)", shown) for one in names
    ):
        return case | {"end": "named on the page"}
    return case | {"end": "forged" if is_forged else "silent difference"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others count on")
    parser.add_argument("--out", type=Path, help="a JSON file for the table")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="damage-") as work:
        bench = Bench(Path(work))
        ends, bad = Counter[tuple[str, str, str]](), []
        for seed in range(args.seed, args.seed + args.cases):
            case = one_case(bench, seed)
            ends[case["command"], case["damage"], case["end"].partition(":")[0]] += 1
            if case["end"].startswith(("traceback", "silent")):
                bad.append(case)
                print(case, flush=True)
            if (seed + 1) % 100 == 0:
                print(seed + 1, "of", args.seed + args.cases, flush=True)
    total = Counter(dict.fromkeys(("traceback", "silent difference"), 0))
    for (_, _, end), number in ends.items():
        total[end] += number
    print(", ".join(f"{number} {end}" for end, number in sorted(total.items())))
    if args.out:
        rows = [
            dict(zip(("command", "damage", "end"), key, strict=True), cases=number)
            for key, number in sorted(ends.items())
        ]
        table = {"command": " ".join(["python", *sys.argv]), "cases": args.cases, "seed": args.seed}
        content = json.dumps(table | {"total": dict(total), "bad": bad, "ends": rows}, indent=1)
        args.out.write_text(content + "\n", encoding="utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
