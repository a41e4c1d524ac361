"""Kill an evaluation at random moments and see that the same command ends with the same masks.

    python bench/kills.py --run robustlens-out/quickstart/runs/at-0.1-s0 --kills 30

Each round starts the evaluation in a fresh folder, kills it (SIGKILL and SIGTERM in turn) at a moment drawn
uniformly over the time that an undisturbed one takes, asks for another suite in the same folder (which must
be refused, exit 7), repeats the command and compares every mask with those of the undisturbed one.
Exit 1 unless all masks are identical and nothing was reused wrongly.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run folder, or weights.safetensors")
    parser.add_argument("--data", default="fashion-mnist-10k")
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--attacks", default="fgsm,pgd-20,apgd-ce-20,apgd-t-10,square-200")
    parser.add_argument("--images", type=int, default=300, help="of each split")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the rounds")
    args = parser.parse_args()
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
        args.out.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(not (identical == args.kills and all(refusals)))


if __name__ == "__main__":
    main()
