"""The package as others get it: its metadata, the links of README, what is built, tested and released where."""

import email.message
import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from robustlens import __version__
from robustlens.cli.application import app
from robustlens.data.hub import HUB_DATASETS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOLD = README + (ROOT / "docs" / "overview.md").read_text(encoding="utf-8")
"""Where the commands are told: README, and the overview that it points to."""


def release():
    location = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def on_the_index(text):
    """README as hatch-fancy-pypi-readme makes it."""
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def pins(file):
    """The versions of a file of constraints, by name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def metadata(**changes):
    made = email.message.Message()
    values = {
        "Name": "robustlens",
        "Version": __version__,
        "Requires-Python": ">=3.11",
        "License-Expression": "MIT",
        "Author": "robustlens developers",
        "Description-Content-Type": "text/markdown",
    }
    for key, value in (values | changes).items():
        made[key] = value
    for name in PROJECT["project"]["urls"]:
        made["Project-URL"] = f"{name}, https://example.org"
    made.set_payload(on_the_index(README).encode())
    return made


def test_links_of_readme_are_absolute_on_the_package_index_and_lead_to_files():
    relative = release().relative_links(README)
    assert len(relative) >= 8
    shown = on_the_index(README)
    assert release().relative_links(shown) == []
    beside = re.findall(
        r"\]\(https://(?:raw\.githubusercontent|github)\.com/robustlens/robustlens/(?:blob/)?main/([^)#]+)",
        shown,
    )
    assert len(beside) == len(relative)
    assert all((ROOT / path).exists() for path in beside)
    assert "](https://raw.githubusercontent.com/robustlens/robustlens/main/docs/images/report.png)" in shown


def test_a_release_names_every_problem():
    tool = release()
    assert tool.problems(metadata(), tool.INSIDE) == []
    for change, said in (
        ({"Version": "9.9"}, "Version: found '9.9'"),
        ({"Author": "somebody"}, "Author: found 'somebody'"),
        ({"Requires-Python": ">=3.9"}, "Requires-Python: found '>=3.9'"),
    ):
        assert [line.startswith(said) for line in tool.problems(metadata(**change), tool.INSIDE)] == [True]
    assert tool.problems(metadata(), tool.INSIDE[1:]) == ["robustlens/py.typed: is not inside"]
    plain = metadata()
    plain.set_payload(README.encode())
    assert "description: the link docs/start.md leads nowhere on the package index" in tool.problems(
        plain, tool.INSIDE
    )
    plain.set_payload(b"")
    assert tool.problems(plain, tool.INSIDE) == ["description: found 0 characters, expected README"]


def test_files_that_a_release_looks_for_are_there():
    assert all((ROOT / "src" / name).is_file() for name in release().INSIDE)


def test_the_lowest_versions_are_those_that_the_project_allows():
    pinned = pins("constraints-lowest.txt")
    for requirement in PROJECT["project"]["dependencies"]:
        name, floor = requirement.lower().split(">=")
        assert re.fullmatch(rf"{re.escape(floor)}(\.0)*", pinned[canonicalize_name(name)]), requirement


def test_what_is_installed_runs_on_the_oldest_python_that_the_package_names():
    """A pin that wants a later patch of it cannot be installed there: pip then says that versions conflict."""
    floor = f"{PROJECT['project']['requires-python'].removeprefix('>=')}.0"
    pinned = pins("constraints.txt")
    wanted = {
        f"{each.name} {each.version}": SpecifierSet(each.metadata["Requires-Python"] or "")
        for each in importlib.metadata.distributions()
        if canonicalize_name(each.name) in pinned
    }
    assert len(wanted) > 40
    assert not [name for name, specifier in wanted.items() if not specifier.contains(floor)]


def test_every_system_and_python_that_the_package_names_is_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["matrix"]["strategy"]["matrix"]
    classifiers = PROJECT["project"]["classifiers"]
    named = [line.rpartition(" :: ")[2] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    assert matrix["python"] == named
    systems = {
        line.rpartition(" :: ")[2].lower() for line in classifiers if line.startswith("Operating System")
    }
    assert {system.removesuffix("-latest").replace("ubuntu", "linux") for system in matrix["os"]} == systems


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob(".github/**/*.yml")), ROOT / "CITATION.cff"], ids=lambda path: path.name
)
def test_files_for_the_forge_are_yaml(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


# -- the commands of the overview ---------------------------------------------------------------------------


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", TOLD, flags=re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(robustlens [a-z][^`]+)`", TOLD)
    return [line.partition("robustlens ")[2].split() for line in [*lines, *inline] if "robustlens " in line]


def installed_by(target):
    """Extras that a target of the Makefile installs."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").split(f"$(VENV)/{target}:")[1].split("\n\n")[0]
    return set(re.findall(r"\.\[([\w,]+)\]", lines)[0].split(","))


def needs(words):
    """Extras that a command needs."""
    data = words[words.index("--data") + 1] if "--data" in words else ""
    extras = {"hub"} if data in HUB_DATASETS or data.startswith("hf:") else set()
    return extras | ({"cluster"} if {"ray", "slurm"} & set(words) else set())


def test_commands_of_readme_are_commands():
    import typer

    group = typer.main.get_command(app)
    assert len(commands()) >= 8
    for verb, *words in commands():
        if words:  # a command that is only spoken of has none
            group.commands[verb].make_context(verb, list(words), resilient_parsing=False)


def test_make_study_leaves_an_environment_in_which_the_commands_of_readme_run():
    needed = [needs(words) for words in commands()]
    assert {"hub"} in needed
    told = set(re.findall(r"pip install -c constraints.txt -e '\.\[(\w+)\]'", TOLD))
    for extras in needed:
        assert extras <= installed_by(".installed") | told
    assert "hub" in installed_by(".installed")


def test_the_search_for_extras_knows_what_needs_one():
    assert needs(["train", "--data", "cifar10"]) == {"hub"}
    assert needs(["study", "quickstart"]) == set()
    assert needs(["study", "x.yaml", "--executor", "ray"]) == {"cluster"}
