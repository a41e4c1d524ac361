"""Builds the documentation into site/: `python tools/build_docs.py [FOLDER]`, called by `make docs`.

First the sample study, whose report and figures are part of the site: minutes the first time, nothing while it is
current. Then the pages (mkdocs.yml), where a warning is an error: a link or an anchor that leads nowhere, a page
that the navigation leaves out, a name of the reference that is not there.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "examples" / "every_figure.yaml"
SAMPLE = ROOT / "robustlens-out" / "sample"


def main(site: Path) -> None:
    """Carry out what is left of the sample study, and build the site into a folder."""
    run("robustlens", "study", str(STUDY), "--out", str(SAMPLE))
    run("mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site.resolve()))
    print(f"docs: {site}/index.html; with its search: python -m http.server --directory {site}")


def run(*command: str) -> None:
    """Run a module of this Python at the root of the repository; its failure is ours."""
    # mkdocs-material's notice of another generator is not about this site.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
