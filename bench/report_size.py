"""Time, memory and size of the report and the claims of studies of many distinct methods.

    python bench/report_size.py [--sizes 20 200 500] [--images 200] [--out bench/results/report-size.json]

Writes a study folder for each size through the classes of results, with made numbers (`tests/helpers`): N
methods with a run each, at strengths 0 to 0.2. Claims, then the report, each in a process of its own, whose
processor seconds and peak memory are measured. Exits with 1 where the report of a study takes more than 20
processor seconds, 12 MB or 400 MB of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS, PAGE, MEMORY = 20.0, 12e6, 400e6
MEASURED = """
import json, resource, sys
from pathlib import Path
from robustlens import {room}
{call}
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{"seconds": used.ru_utime + used.ru_stime, "memory": 1024 * used.ru_maxrss}}))
"""
CALLS = {"claims": "claims.write(Path(sys.argv[1]))", "report": "report.write(Path(sys.argv[1]))"}


def write(folder: Path, methods: int, images: int) -> None:
    """A study of so many methods, a run each."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.made_networks import Member
    from helpers.study_files import write_study

    strengths = (0.05, 0.1, 0.2)
    adversarial = [
        Member(f"Method {number}", ("at", "trades", "mart")[number % 3], strengths[number // 3 % 3])
        for number in range(methods - 1)
    ]
    write_study(folder, members=[Member("Standard", "standard", 0.0), *adversarial], n=images, epochs=8)


def measured(room: str, folder: Path) -> dict[str, float]:
    """Processor seconds and peak memory of one command's work, in a process of its own."""
    code = MEASURED.format(room=room, call=CALLS[room])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200, 500])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for methods in arguments.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder, began = Path(temporary) / "study", time.process_time()
            write(folder, methods, arguments.images)
            print(f"{methods} methods: written in {time.process_time() - began:.1f} s", flush=True)
            row = rows[str(methods)] = {room: measured(room, folder) for room in CALLS}
            row["page"] = (folder / "report" / "index.html").stat().st_size
        print(
            f"{methods} methods: claims {row['claims']['seconds']:.1f} s, "
            f"{row['claims']['memory'] / 1e6:.0f} MB; "
            f"report {row['report']['seconds']:.1f} s, {row['report']['memory'] / 1e6:.0f} MB, "
            f"page {row['page'] / 1e6:.1f} MB",
            flush=True,
        )
    if arguments.out:
        content = {"command": " ".join(sys.argv), "images": arguments.images, "methods": rows}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fits = (
        row["report"]["seconds"] <= SECONDS and row["report"]["memory"] <= MEMORY and row["page"] <= PAGE
        for row in rows.values()
    )
    sys.exit(not all(fits))


if __name__ == "__main__":
    main()
