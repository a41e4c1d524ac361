"""The command starts at once: what help, versions and an evaluation do not import; names in the help."""

import os
import subprocess
import sys

import pytest

from robustlens import __version__, cli
from robustlens.cli.names import registered
from robustlens.explain import MEASURES
from robustlens.objectives import OBJECTIVES

HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "plotly",
    "rich.progress",
    "robustlens.config",
    "robustlens.results",
)


def run(program):
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["explain", "--help"], ["--version"]], ids=str
)
def test_help_imports_nothing_that_takes_time(arguments):
    program = f"""
import sys
from robustlens import cli
code = cli.run({arguments})
sys.exit(code or ", ".join(name for name in {HEAVY} if name in sys.modules) or 0)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_imports_nothing_but_its_version():
    program = """
import sys
before = set(sys.modules)
import robustlens
print(sorted(set(sys.modules) - before - {"typing", "importlib", "warnings"} - set(sys.builtin_module_names)))
"""
    new = run(program).stdout
    assert "robustlens.version" in new
    assert not any(f"'{name}'" in new for name in HEAVY)


@pytest.mark.slow
def test_an_evaluation_imports_no_fabric_and_no_room_scipy_stats():
    program = """
import sys, torch
import robustlens as rl
import robustlens.cli, robustlens.claims, robustlens.explain, robustlens.report, robustlens.study
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
x, y = torch.rand(24, 1, 4, 4), torch.arange(24) % 3
evaluation = rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.05), attacks=["fgsm", "pgd-5", "square"])
assert evaluation.interval("robust").high <= 1
evaluation.result()
sys.exit(", ".join(name for name in ("lightning_fabric", "scipy.stats") if name in sys.modules) or 0)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_fabric_comes_without_torchmetrics_and_says_nothing():
    program = """
import sys
from robustlens.training.distributed import fabric_for
fabric_for("bf16-mixed", "cpu")
code = ", ".join(name for name in ("torchmetrics", "transformers") if name in sys.modules)
from lightning_fabric.utilities import imports
try:
    import torchmetrics
except ImportError:
    torchmetrics = None
code += " changed" * (imports._TORCHMETRICS_GREATER_EQUAL_1_0_0 != (torchmetrics is not None))
sys.exit(code or 0)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_recipe_is_checked_without_a_compiler():
    program = """
import sys, torch
from robustlens import models
from robustlens.config import OptimizerSpec
from robustlens.training.checks import check_optimizer
for name in ("small-cnn", "resnet20", "preactresnet18"):
    models.registry.check(name, {})
before = torch.optim.Optimizer.add_param_group
for name, schedule in (("sgd", "cosine"), ("adam", "OneCycleLR"), ("adamw", "CosineAnnealingLR")):
    check_optimizer(OptimizerSpec(name=name, schedule=schedule, lr=0.01))
assert torch.optim.Optimizer.add_param_group is before
sys.exit("torch._dynamo" in sys.modules)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("source", "name", "registry"),
    [("objectives/__init__.py", "OBJECTIVES", OBJECTIVES), ("explain/registry.py", "MEASURES", MEASURES)],
    ids=["objectives", "measures"],
)
def test_names_read_in_the_source_of_a_registry_are_its_own(source, name, registry):
    assert registered(source, name).split(", ") == list(registry)


def test_help_names_every_objective_and_measure(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, registry in (("train", OBJECTIVES), ("explain", MEASURES)):
        assert cli.run([command, "--help"]) == 0
        words = capsys.readouterr().out.replace(",", " ").replace(".", " ").replace(";", " ").split()
        assert set(registry) <= set(words)


def test_the_version_is_that_of_the_package(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"robustlens {__version__}\n"


def test_completion_can_be_shown_for_a_shell():
    environment = {
        **os.environ,
        "_ROBUSTLENS_COMPLETE": "complete_bash",
        "COMP_WORDS": "robustlens ev",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "robustlens"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["evaluate"], done.stderr


@pytest.mark.parametrize("arguments", [["methods"], ["methods", "--json"], ["--version"]])
def test_a_reader_that_leaves_ends_the_command_without_a_word(arguments):
    """As in `robustlens methods | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "robustlens", *arguments]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_output_in_an_encoding_of_old_windows_is_no_error(tmp_path):
    """The table of methods has no such sign; a comparison of negative numbers does, after all the work."""
    program = """
from robustlens import cli, __main__
from robustlens.cli.display import output
cli.run = lambda: output.print("\\u22121.0 points, \\u03b1") or 0
__main__.main()
"""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, b"-1.0 points, \\u03b1", b"")


def test_no_garbage_is_looked_for_among_the_modules_as_a_command_ends():
    program = """
import atexit, gc, sys
from robustlens.__main__ import main

# the first to be registered is the last to be called
atexit.register(lambda: print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0] == 2_000))
sys.argv = ["robustlens", "--version"]
main()
"""
    done = run(program)
    assert done.stdout.splitlines()[-1] == "True True", done.stderr
