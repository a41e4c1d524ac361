"""Builds the documentation: `python tools/build_docs.py [--site FOLDER] [--sample STUDY]`.

First the sample study, whose report and figures are part of the site: minutes the first time, nothing while
it is current, and nothing where another study with a report is given. Then the pages (mkdocs.yml), where a
warning is an error: a link or an anchor that leads nowhere, a page that the navigation leaves out, a name of
the reference that is not there.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from robustlens.errors import StateError

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "examples" / "every_figure.yaml"
SAMPLE = ROOT / "robustlens-out" / "sample"


def main() -> None:
    """Build the site, with the report of the sample study or of the one that is given."""
    parser = argparse.ArgumentParser(description="Builds the documentation.")
    parser.add_argument("--site", type=Path, default=ROOT / "site", help="folder of the site")
    parser.add_argument("--sample", type=Path, help="a study with its report, in place of the sample study")
    given = parser.parse_args()
    site, sample = given.site, given.sample or SAMPLE
    status = 0 if given.sample else carry_out_sample()
    status = status or run("mkdocs", "build", "--strict", "--site-dir", str(site.resolve()), sample=sample)
    if status:
        sys.exit(status)
    print(f"docs: {site}/index.html; with its search: python -m http.server --directory {site}")


def carry_out_sample() -> int:
    """Carry out what is left of the sample study; returns the exit status."""
    study = ("robustlens", "study", str(STUDY), "--out", str(SAMPLE))
    status = run(*study)
    if status == StateError.exit_code:  # of another study file, or damaged
        shutil.rmtree(SAMPLE)
        status = run(*study)
    return status


def run(*command: str, sample: Path = SAMPLE) -> int:
    """Run a module of this Python at the root of the repository; returns its exit status."""
    # The sample is for tools/site_hooks.py; the notice of mkdocs-material is of another generator.
    environment = {**os.environ, "SAMPLE_STUDY": str(sample.resolve()), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    main()
