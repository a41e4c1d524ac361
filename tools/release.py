"""Build the wheel and the sdist, check them, and use each as a newcomer does, in an environment of its own.

Run: python tools/release.py. It writes dist/, and installs through constraints.txt. Nothing is published:
that is done for a tag (.github/workflows/release.yml).
"""

import argparse
import email
import email.message
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
INSIDE = (
    "robustlens/py.typed",
    "robustlens/data/fashion_mnist_10k.safetensors.gz",
    "robustlens/report/page/template.html",
    "robustlens/study/built_in/quickstart.yaml",
)
"""Files without which the package does not do what README says; pip would install it all the same."""
STOPPED = 75
"""Exit code of a command that a signal stopped and that goes on."""
BINARIES = "Scripts" if os.name == "nt" else "bin"


def build() -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    command = [sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)]
    subprocess.run(command, check=True, env=environment)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


def content(file: Path) -> tuple[email.message.Message, list[str]]:
    """Metadata of a wheel or an sdist, and the paths of its files inside the package's folder."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(archive.read(place)), names
    with tarfile.open(file) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        (place,) = (name for name in tar.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO"))
        metadata = tar.extractfile(place)
        assert metadata is not None
        return email.message_from_bytes(metadata.read()), [name.removeprefix("src/") for name in names]


def problems(metadata: email.message.Message, names: Sequence[str]) -> list[str]:
    """Everything that keeps these files from being published, a line each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = re.findall(
        r'__version__ = "(.+)"', (ROOT / "src/robustlens/version.py").read_text(encoding="utf-8")
    )[0]
    wanted = {
        "Name": "robustlens",
        "Version": version,
        "Requires-Python": project["requires-python"],
        "License-Expression": project["license"],
        "Author": project["authors"][0]["name"],
        "Description-Content-Type": "text/markdown",
    }
    said = [
        f"{key}: found {metadata[key]!r}, expected {value!r}"
        for key, value in wanted.items()
        if metadata[key] != value
    ]
    urls = {str(line).partition(", ")[0] for line in metadata.get_all("Project-URL", [])}
    said += [f"Project-URL: found no {name}" for name in project["urls"] if name not in urls]
    text = readme(metadata)
    said += [] if len(text) > 1000 else [f"description: found {len(text)} characters, expected README"]
    said += [
        f"description: the link {link} leads nowhere on the package index" for link in relative_links(text)
    ]
    said += [f"{name}: is not inside" for name in INSIDE if name not in names]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said += [] if f"version: {version}\n" in cited else [f"CITATION.cff: found no version {version}"]
    return said


def readme(metadata: email.message.Message) -> str:
    """README as the package index shows it."""
    payload = metadata.get_payload(decode=True)
    return payload.decode("utf-8") if isinstance(payload, bytes) else ""


def relative_links(text: str) -> list[str]:
    """Links of a Markdown text to files beside it, without those in code."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"https?://|#", link)]


def use(file: Path, folder: Path) -> None:
    """Install a file in a fresh environment, and spend a newcomer's first minute with it."""
    python, robustlens = (folder / "venv" / BINARIES / name for name in ("python", "robustlens"))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(file)], check=True, cwd=folder)
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for arguments in (["--version"], ["doctor"], ["study", "quickstart", "--plan"]):
        subprocess.run([str(robustlens), *arguments], check=True, cwd=folder, env=outside)
    for block in re.findall(r"```python\n(.*?)```", readme(content(file)[0]), flags=re.S):
        subprocess.run([str(python), "-c", block], check=True, cwd=folder, env=outside)
    stop_and_go_on(str(robustlens), folder, outside)


def stop_and_go_on(robustlens: str, folder: Path, environment: dict[str, str]) -> None:
    """Stop quickstart's first training after an epoch, as Ctrl-C does, and train one network whole."""
    study = subprocess.Popen([robustlens, "study", "quickstart", "--quiet"], cwd=folder, env=environment)
    end = time.monotonic() + 600
    while not list(folder.glob("robustlens-out/quickstart/runs/*/state.safetensors")):
        if study.poll() is not None or time.monotonic() > end:
            study.kill()
            sys.exit(f"study quickstart: no epoch in ten minutes, exit {study.wait()}")
        time.sleep(0.2)
    if os.name == "posix":  # elsewhere a signal ends the process at once
        study.send_signal(signal.SIGINT)
        if (code := study.wait(timeout=120)) != STOPPED:
            sys.exit(f"study quickstart: exit {code} after a signal, expected {STOPPED}")
    else:
        study.kill()
        study.wait()
    small = [
        "--epochs",
        "1",
        "--set",
        "data.train_limit=512",
        "--set",
        "attack.steps=2",
        "--out",
        "run",
        "--quiet",
    ]
    for arguments in (["train", "--objective", "at", "--eps", "0.1", *small], ["verify", "run"]):
        subprocess.run([robustlens, *arguments], check=True, cwd=folder, env=environment)


def main() -> None:
    """Build, check, install and use; exit 1 with every problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-only", action="store_true", help="build and check, and install nothing")
    asked = parser.parse_args()
    files = build()
    if said := [f"{file.name}: {line}" for file in files for line in problems(*content(file))]:
        sys.exit("\n".join(said))
    for file in () if asked.build_only else files:
        with tempfile.TemporaryDirectory() as folder:
            use(file, Path(folder))
        print(f"{file.name}: installs, trains, stops and goes on", flush=True)


if __name__ == "__main__":
    main()
