"""Kill an evaluation, or a study, at random moments and see that the same command ends with the same bits.

    python bench/kills.py --run robustlens-out/quickstart/runs/at-0.1-s0 --kills 30
    nice -n 19 python bench/kills.py --study --kills 60 --out bench/results/chaos.json

With `--run`, each round starts the evaluation in a fresh folder, kills it (SIGKILL and SIGTERM in turn) at a
moment drawn uniformly over the time that an undisturbed one takes, asks for another suite in the same folder
(which must be refused, exit 7), repeats the command and compares every mask with those of the undisturbed
one. Exit 1 unless all masks are identical and nothing was reused wrongly.

With `--study`, each round starts a study of four tiny runs with evaluation and measures in a fresh folder,
and sends SIGTERM, SIGINT, SIGKILL or two of them, at a seeded moment between the first line of ours that runs
and the end. The command must end with 75 and one line, or be killed (137), leave no process behind after two
seconds, and when repeated end with the files of the undisturbed study. Two files are the same where all
their bytes are, but for times: values called "seconds" or "..._seconds", and the seals over them, in JSON and
in the headers of training states. Reports are made of these files, and locks are empty: both are left out.
"""

import argparse
import contextlib
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import tiny_study


def command(args: argparse.Namespace, folder: Path, seed: int = 0) -> list[str]:
    what = ["--attacks", args.attacks, "--limit", str(args.images), "--batch-size", "64", "--quiet"]
    restarts = ["--restarts", str(1 + seed)]  # another number of restarts is another suite
    where = ["--data", args.data, "--eps", args.eps, "--out", str(folder), "--save-adversarial"]
    return [sys.executable, "-m", "robustlens", "evaluate", str(args.run), *where, *what, *restarts]


def finish(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False)


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same masks, distances and adversarial images, bit for bit."""
    for name in ("evaluation", "adversarial"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
        if a.keys() != b.keys() or not all(np.array_equal(a[key], b[key], equal_nan=True) for key in a):
            return False
    return True


def one_round(
    args: argparse.Namespace, whole: Path, folder: Path, moment: float, stop: signal.Signals
) -> dict:
    began = time.perf_counter()
    process = subprocess.Popen(command(args, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and time.perf_counter() - began < moment:
        time.sleep(0.01)
    process.send_signal(stop)
    code = process.wait()
    states = list(folder.glob("evaluation.state/*/progress.safetensors"))
    refused = None
    if states and not (folder / "evaluation.json").exists():
        refused = finish(command(args, folder, seed=1)).returncode == 7
    again = finish(command(args, folder))
    return {
        "moment": round(moment, 2),
        "signal": stop.name,
        "exit": code,
        "had_state": bool(states),
        "wrong_suite_refused": refused,
        "resumed": again.returncode == 0,
        "identical": again.returncode == 0 and same(whole, folder),
    }


SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM, SIGTERM": [signal.SIGTERM, signal.SIGTERM],
    "SIGINT, SIGTERM": [signal.SIGINT, signal.SIGTERM],
    "SIGTERM, SIGKILL": [signal.SIGTERM, signal.SIGKILL],
}
_LINES = re.compile(r"error: stopped by SIG\w+; the same command goes on where it stopped\n|")
_TAKEN = re.compile(r"[^\n]*: taken over from process \d+ on [^\n]*, which ended without releasing it\n")


def of_study(source: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "robustlens", "study", str(source), "--out", str(folder), "--quiet"]


def content(folder: Path) -> dict[str, str]:
    """Digest of every file of a study, without times."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {
        str(path.relative_to(folder)): digest(path) for path in sorted(paths) if "report" not in path.parts
    }


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        content = b"\n".join(json.dumps(untimed(json.loads(line))).encode() for line in lines)
    elif path.suffix == ".safetensors":
        size = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:size])
        ours = header["__metadata__"].get("robustlens", "{}")
        header["__metadata__"] = untimed(json.loads(ours)) if "seconds" in ours else header["__metadata__"]
        content = json.dumps(header).encode() + content[size:]
    return hashlib.sha256(content).hexdigest()


def untimed(value: Any) -> Any:
    """A JSON value without times; one that holds times is without its seal, too."""
    if isinstance(value, list):
        return [untimed(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: untimed(item) for key, item in value.items() if not key.endswith("seconds")}
    return {key: item for key, item in kept.items() if key != "seal"}


def study_round(
    source: Path, folder: Path, whole: dict[str, str], moment: float, kind: str, gap: float
) -> dict[str, Any]:
    process = subprocess.Popen(
        of_study(source, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not catches(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    time.sleep(moment)
    for number, stop in enumerate(SIGNALS[kind]):
        time.sleep(gap if number else 0)
        process.send_signal(stop)
    _, error = process.communicate(timeout=300)
    ended = time.monotonic()
    while (left := processes_of(process.pid)) and time.monotonic() - ended < 2:
        time.sleep(0.02)
    code = 137 if process.returncode == -signal.SIGKILL else process.returncode
    again = finish(of_study(source, folder))
    now = content(folder) if again.returncode == 0 else {}
    differing = sorted(name for name in {*whole, *now} if whole.get(name) != now.get(name))
    return {
        "moment": round(moment, 2),
        "signals": kind,
        "gap": round(gap, 4),
        "exit": code,
        "line": _LINES.fullmatch(_TAKEN.sub("", error)) is not None or error,
        "processes_left": len(left),
        "resumed": again.returncode,
        "said_again": _TAKEN.sub("", again.stderr),
        "differing": differing,
        "same": again.returncode == 0 and not differing,
    }


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles a signal; before that, it ends by it as any other."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def processes_of(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    left = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                left.append(int(path.parent.name))
    return left


def hurt_studies(args: argparse.Namespace) -> None:
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        source = tiny_study.write(Path(work))
        wholes, took = [], 0.0
        for name in ("whole", "control"):  # the second shows that nothing but times is left out
            began = time.perf_counter()
            done = finish(of_study(source, Path(work) / name))
            if done.returncode:
                sys.exit(done.stderr)
            took = time.perf_counter() - began
            wholes.append(content(Path(work) / name))
        if wholes[0] != wholes[1]:
            sys.exit("two undisturbed studies differ")
        rounds: list[dict[str, Any]] = []
        while len(rounds) < args.kills:
            number, folder = len(rounds), Path(work) / f"round-{len(rounds)}"
            kind, gap = list(SIGNALS)[number % len(SIGNALS)], draw.choice((0.0, 0.001, 0.01, 0.1, 1.0))
            one = study_round(source, folder, wholes[0], draw.uniform(0, 0.9 * took), kind, gap)
            shutil.rmtree(folder)
            if one["exit"] == 0:  # it was done before: draw another moment
                continue
            rounds.append(one)
            print(len(rounds), one, flush=True)
    fine = [
        one["same"] and one["exit"] in (75, 137) and one["line"] is True and not one["processes_left"]
        for one in rounds
    ]
    same = sum(one["same"] for one in rounds)
    print(f"{same} of {args.kills} the same; {sum(fine)} of {args.kills} as they should")
    if args.out:
        exits = {
            str(code): sum(one["exit"] == code for one in rounds)
            for code in sorted({one["exit"] for one in rounds})
        }
        summary = {
            "command": " ".join(["python", *sys.argv]),
            "same": same,
            "exits": exits,
        }
        args.out.write_text(json.dumps(summary | {"rounds": rounds}, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(fine))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", action="store_true", help="hurt a whole study instead of one evaluation")
    parser.add_argument("--run", type=Path, help="a run folder, or weights.safetensors")
    parser.add_argument("--data", default="fashion-mnist-10k")
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--attacks", default="fgsm,pgd-20,apgd-ce-20,apgd-t-10,square-200")
    parser.add_argument("--images", type=int, default=300, help="of each split")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the rounds")
    args = parser.parse_args()
    if args.study:
        hurt_studies(args)
    if args.run is None:
        parser.error("give --run or --study")
    draw = random.Random(args.seed)
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    began = time.perf_counter()
    done = finish(command(args, work / "whole"))
    if done.returncode:
        sys.exit(done.stderr)
    took = time.perf_counter() - began
    rounds = []
    for number in range(args.kills):
        folder = work / f"round-{number}"
        stop = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        rounds.append(one_round(args, work / "whole", folder, draw.uniform(0, took), stop))
        print(number + 1, rounds[-1], flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(work)
    identical = sum(each["identical"] for each in rounds)
    refusals = [each["wrong_suite_refused"] for each in rounds if each["wrong_suite_refused"] is not None]
    print(f"{identical} of {args.kills} identical; {sum(refusals)} of {len(refusals)} other suites refused")
    if args.out:
        summary = {"command": " ".join(sys.argv), "images": args.images, "rounds": rounds}
        args.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(not (identical == args.kills and all(refusals)))


if __name__ == "__main__":
    main()
