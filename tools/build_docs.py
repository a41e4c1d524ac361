"""Builds the documentation into site/: `python tools/build_docs.py [FOLDER]`, called by `make docs`.

First the sample study, whose report and figures are part of the site: minutes the first time, nothing while
it is current. Then the pages (mkdocs.yml), where a warning is an error: a link or an anchor that leads
nowhere, a page that the navigation leaves out, a name of the reference that is not there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from robustlens.errors import StateError

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "examples" / "every_figure.yaml"
SAMPLE = ROOT / "robustlens-out" / "sample"


def main(site: Path) -> None:
    """Carry out what is left of the sample study, and build the site into a folder."""
    study = ("robustlens", "study", str(STUDY), "--out", str(SAMPLE))
    status = run(*study)
    if status == StateError.exit_code:  # of another study file, or damaged
        shutil.rmtree(SAMPLE)
        status = run(*study)
    status = status or run("mkdocs", "build", "--strict", "--site-dir", str(site.resolve()))
    if status:
        sys.exit(status)
    print(f"docs: {site}/index.html; with its search: python -m http.server --directory {site}")


def run(*command: str) -> int:
    """Run a module of this Python at the root of the repository; returns its exit status."""
    # mkdocs-material's notice of another generator is not about this site.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
