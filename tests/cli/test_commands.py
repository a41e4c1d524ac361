"""The command line: every verb, exit codes, one-line errors, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from robustlens import cli
from robustlens.results import Run

pytestmark = pytest.mark.lasts(120)

TINY = {
    "name": "tiny",
    "data": {"name": "fashion-mnist-10k", "train_limit": 400, "test_limit": 100},
    "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}},
    "defaults": {
        "attack": {"steps": 2},
        "optimizer": {"epochs": 2, "schedule": "one-cycle"},
        "monitor": {"examples": 50, "steps": 2},
    },
    "methods": [{"label": "Standard", "objective": "standard"}, {"label": "AT", "objective": "at"}],
    "evaluation": {"attacks": ["fgsm", "pgd-2"], "curve": [1]},
    "explanation": {
        "examples": 50,
        "options": {"landscape": {"examples": 20, "steps": 2, "alphas": [0.5]}, "smoothness": {"steps": 2}},
    },
}


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    """A tiny study carried out through the command line, with real worker processes."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["study", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--quiet"]
    assert cli.run([*arguments, "--figures", "none"]) == 0
    assert not list((folder / "out" / "report" / "figures").glob("*.p*"))
    return folder / "out"


def test_study_writes_a_report_and_says_where(study_folder, capsys):
    source = study_folder.parent / "tiny.yaml"
    assert cli.run(["study", str(source), "--out", str(study_folder), "--quiet", "--figures", "png"]) == 0
    drawn = {path.suffix for path in (study_folder / "report" / "figures").iterdir()}
    assert drawn == {".csv", ".png"}
    said = capsys.readouterr().out
    page = study_folder / "report" / "index.html"
    assert f"report: {page}" in said
    assert page.stat().st_size > 100_000
    assert "Described on these networks only (a decision takes 3 training seeds or more)" in said
    assert "supported" not in said


def test_plan_starts_nothing(study_folder, tmp_path, capsys):
    assert (
        cli.run(["study", str(study_folder.parent / "tiny.yaml"), "--out", str(tmp_path / "x"), "--plan"])
        == 0
    )
    assert "at-0.1-s0" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_evaluate_and_explain_a_run(study_folder, capsys):
    run = str(study_folder / "runs" / "at-0.1-s0")
    out = str(study_folder.parent / "extra")
    options = ["--limit", "40", "--attacks", "fgsm,pgd-2", "--out", out, "--quiet"]
    assert cli.run(["evaluate", run, *options]) == 0
    assert "robust gap" in capsys.readouterr().out
    assert json.loads((Path(out) / "evaluation.json").read_text())["splits"]["test"]["n"] == 40
    assert (
        cli.run(["explain", run, "--measures", "margins", "--examples", "40", "--out", out, "--quiet"]) == 0
    )
    assert "confidence" in capsys.readouterr().out
    assert cli.run(["report", run, "--figures", "none"]) == 0
    assert (Path(run) / "report" / "index.html").exists()


def test_evaluate_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = [
        "evaluate",
        "mine:make",
        "--data",
        "fashion-mnist-10k",
        "--eps",
        "0.1",
        "--limit",
        "50",
        "--quiet",
    ]
    assert cli.run([*arguments, "--attacks", "fgsm"]) == 0
    assert "fgsm" in capsys.readouterr().out


def test_train_takes_options_and_files(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({"data": TINY["data"], "model": TINY["model"], **TINY["defaults"]})
    )
    options = [
        "--recipe",
        str(tmp_path / "recipe.yaml"),
        "--objective",
        "trades",
        "--eps",
        "8/255",
        "--awp",
        "0.005",
    ]
    options += ["--epochs", "1", "--set", "optimizer.lr=1e-2", "--set", "objective_options.beta=3"]
    assert cli.run(["train", *options, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    recipe = Run(tmp_path / "run").recipe
    assert recipe.threat.eps == 8 / 255
    assert recipe.awp.gamma == 0.005
    assert (recipe.optimizer.lr, recipe.optimizer.epochs) == (0.01, 1)
    assert recipe.objective_options == {"beta": 3}
    assert "validation: clean" in capsys.readouterr().out


def test_methods_and_doctor(capsys):
    assert cli.run(["methods"]) == 0
    said = capsys.readouterr().out
    for name in ("trades", "pgd", "landscape", "preactresnet18", "cifar10", "quickstart"):
        assert name in said
    assert cli.run(["doctor"]) == 0
    assert "attack on a linear model: right" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", ["", "study", "train", "evaluate", "explain", "report", "verify", "methods", "doctor"]
)
def test_help_teaches(verb, capsys):
    assert cli.run([verb, "--help"] if verb else ["--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["study", "nowhere.yaml"], 2, "found no file 'nowhere.yaml'"),
        (["train", "--objective", "att"], 2, "expected one of standard"),
        (["train", "--eps", "8"], 2, "did you mean 8/255 = 0.03137?"),
        (["train", "--set", "optimizer.lrr=1"], 2, "optimizer.lrr: unknown key"),
        (["train", "--set", "nonsense"], 2, "expected FIELD=VALUE"),
        (["train", "--data", "imagenot"], 2, "imagenot"),
        (["train", "--model", "resnet21"], 3, "resnet21"),
        (["evaluate", "nowhere.safetensors", "--data", "fashion-mnist-10k", "--eps", "0.1"], 3, "nowhere"),
        (["evaluate", "json:loads"], 2, "--data and --eps are needed"),
        (["report", "nowhere"], 7, "nowhere"),
        (["study", "quickstart", "--data-dir", "/nowhere/at/all"], 2, "--data-dir"),
        (["fly"], 2, "fly"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(arguments, code, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*arguments, "--quiet"] if arguments[0] in ("train", "evaluate") else arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    if code != 2 or arguments[0] != "fly":
        assert len(error.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("ROBUSTLENS_DEBUG", "")  # so that --debug is undone afterwards
    assert cli.run(["--debug", "study", "nowhere.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_stopped_study_exits_75_and_goes_on(tmp_path):
    """SIGTERM to the real program in the middle of training; then the same command finishes the work."""
    slow = {
        **TINY,
        "methods": TINY["methods"][1:],
        "evaluation": {"attacks": ["fgsm"], "curve": []},
        "explanation": {"examples": 20, "measures": ["margins"]},
    }
    slow["defaults"] = {**TINY["defaults"], "optimizer": {"epochs": 12, "schedule": "one-cycle"}}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))
    command = [
        sys.executable,
        "-m",
        "robustlens",
        "study",
        str(tmp_path / "slow.yaml"),
        "--out",
        str(tmp_path / "o"),
        "--figures",
        "none",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    run = Run(tmp_path / "o" / "runs" / "at-0.1-s0")
    deadline = time.monotonic() + 90
    while run.record.epochs_done < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "the same command goes on" in error
    assert 1 <= run.record.epochs_done <= 12
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert [epoch.epoch for epoch in run.metrics()] == list(range(1, 13))


def test_reports_of_the_command_line_import_no_torch_for_help():
    program = "import sys; from robustlens import cli; cli.run(['--help']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "COLUMNS": "120"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True)
    assert found.returncode == 0
