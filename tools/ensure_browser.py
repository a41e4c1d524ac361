"""Makes sure that the page tests find a Chromium: `python tools/ensure_browser.py`, called by `make test`.

In order: one that is there; Debian's, where we are root and have apt-get; playwright's own download. Where
nothing works the page tests are skipped with a reason, so this never fails.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.browser import find_chromium  # in tests/, put on the path above

APT = (("apt-get", "update"), ("apt-get", "install", "-y", "--no-install-recommends", "chromium"))
PLAYWRIGHT = ((sys.executable, "-m", "playwright", "install", "chromium"),)
LIMIT = 300
"""Seconds for one command: a machine without a network must not wait for ever."""


def main() -> None:
    """Install a browser where there is none, and say in one line how it went."""
    if path := find_chromium():
        print(f"browser: {path}")
        return
    ways: list[tuple[tuple[str, ...], ...]] = [PLAYWRIGHT]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        ways.insert(0, APT)
    for commands in ways:
        if all(_succeeds(command) for command in commands) and (path := find_chromium()):
            print(f"browser: installed {path}")
            return
    print("browser: no Chromium found and none could be installed; the page tests will be skipped")


def _succeeds(command: tuple[str, ...]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
