"""Seconds of processor time until the command answers: the package, its help, and the call of an evaluation.

Each is the smallest of several fresh processes, with the time that Python itself takes: python bench/start.py
"""

import argparse
import resource
import subprocess
import sys

COMMANDS = {
    "python": ["-c", "pass"],
    "import robustlens": ["-c", "import robustlens"],
    "robustlens --version": ["-m", "robustlens", "--version"],
    "robustlens --help": ["-m", "robustlens", "--help"],
    "robustlens train --help": ["-m", "robustlens", "train", "--help"],
    "import torch": ["-c", "import torch"],
    "rl.evaluate": ["-c", "import robustlens as rl; rl.evaluate"],
}


def seconds(arguments):
    """Processor time, user and system, of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    for name, arguments in COMMANDS.items():
        print(f"{name:26}{min(seconds(arguments) for _ in range(asked.repeats)):6.2f} s")


if __name__ == "__main__":
    main()
