"""Trust at the command line: what files name is not run, read or written unless the user says so."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.small_models import blobs
from robustlens import cli, models
from robustlens.config import Recipe
from robustlens.errors import StateError
from robustlens.results import Run, RunEntry, StudyFolder, StudyRecord

pytestmark = pytest.mark.lasts(120)

FIRED = (
    "import pathlib\ndef fire(*args, **kwargs):\n    pathlib.Path('FIRED').touch()\n    raise SystemExit(0)\n"
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with code that anybody may name and a small data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap_module.py").write_text(FIRED)
    (x, y), (x_test, y_test) = blobs(), blobs(60, seed=1)
    np.savez(
        tmp_path / "blobs.npz",
        x_train=x.numpy(),
        y_train=y.numpy(),
        x_test=x_test.numpy(),
        y_test=y_test.numpy(),
    )
    return tmp_path


def fired(folder) -> bool:
    return (folder / "FIRED").exists() or "trap_module" in sys.modules


def refused(arguments, capsys, code=2, said="trap_module:fire") -> str:
    assert cli.run(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    return error


SMALL = {"data": {"name": "npz:blobs.npz", "augment": "none"}, "optimizer": {"epochs": 1, "batch_size": 32}}


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"name": "trap_module:fire"}},
        {"optimizer": {"name": "trap_module:fire"}},
        {"optimizer": {"schedule": "trap_module:fire"}},
        {"listeners": ["trap_module:fire"]},
        {"data": {"name": "trap_module:fire"}},
        {"data": {"name": "npz:blobs.npz", "augment": "trap_module:fire"}},
        {"objective": "trap_module:fire"},
        {"weight_perturbation": {"factory": "trap_module:fire"}},
        {"init": {"model": "trap_module:fire"}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_code_in_a_recipe_file_is_not_run(folder, capsys, values):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SMALL | values))
    said = refused(["train", "--recipe", "recipe.yaml", "--out", "run", "--quiet"], capsys)
    assert "--trust-code" in said
    assert not fired(folder)
    assert not (folder / "run").exists()


def test_a_listener_whose_module_is_called_as_a_hub_is_not_run(folder, capsys):
    """Such a name is that of no function anywhere, so that nothing takes it for one."""
    (folder / "hf.py").write_text(FIRED)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SMALL | {"listeners": ["hf:fire"]}))
    for trusted in ([], ["--trust-code"]):
        said = "recipe.listeners.0: found 'hf:fire', expected package.module:factory"
        refused(["train", "--recipe", "recipe.yaml", "--out", "run", *trusted, "--quiet"], capsys, said=said)
    assert not fired(folder)
    assert "hf" not in sys.modules


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"name": "trap_module:fire"}},
        {"data": {"name": "trap_module:fire"}},
        {"methods": [{"objective": "trap_module:fire"}]},
        {"defaults": {"init": {"model": "trap_module:fire"}}, "methods": [{}]},
        {"evaluation": {"attacks": ["trap_module:fire"]}},
        {"evaluation": {"attacks": "fgsm,trap_module:fire"}},
        {"evaluation": {"attacks": ["fgsm", "trap_module:fire-5"]}},
        {"explanation": {"measures": ["trap_module:fire"]}},
        {"explanation": {"options": {"trap_module:fire": {}}}},
    ],
    ids=lambda values: next(iter(values)),
)
@pytest.mark.parametrize("plan", [True, False])
def test_code_in_a_study_file_is_not_run(folder, capsys, values, plan):
    spec = {"name": "mine", "data": SMALL["data"], "methods": [{}]} | values
    (folder / "mine.yaml").write_text(yaml.safe_dump(spec))
    said = refused(["study", "mine.yaml", *(["--plan"] if plan else [])], capsys)
    assert "--trust-code" in said
    assert not fired(folder)
    assert not (folder / "robustlens-out").exists()


def sent_run(folder: Path, *, model: str = "small-cnn", data: str = "npz:blobs.npz") -> Run:
    """A run folder that somebody sent: its seals are right, and it names code."""
    run = Run(folder / "sent")
    recipe = Recipe.model_validate(
        {"model": {"name": model}, "data": {"name": data, "augment": "none"}, "threat": {"eps": 0.1}}
    )
    run.bind(recipe)
    description = {"name": "trap_module:fire", "options": {}, "num_classes": 3}
    for name in ("best", "last"):
        content = models.to_bytes({}, description, recipe=recipe.hash(), epoch=1)
        run.write_bytes(f"{name}.safetensors", content)
    run.update(status="done", epochs_done=1, best_epoch=1)
    return run


@pytest.mark.parametrize("verb", ["evaluate", "explain", "report", "verify"])
@pytest.mark.parametrize("trusted", [False, True])
def test_code_in_a_run_folder_is_not_run(folder, capsys, verb, trusted):
    """A network other than the recipe's is refused even where the recipe's code is trusted."""
    sent_run(folder)
    cli.run(
        [
            verb,
            "sent",
            *(["--quiet"] if verb in ("evaluate", "explain") else []),
            *(["--trust-code"] if trusted and verb in ("evaluate", "explain") else []),
        ]
    )
    assert "Traceback" not in capsys.readouterr().err
    assert not fired(folder)


def test_code_that_the_recipe_of_a_run_folder_names_is_refused_by_name(folder, capsys):
    sent_run(folder, model="trap_module:fire")
    refused(["evaluate", "sent", "--quiet"], capsys, 3)
    sent_run(folder / "other", data="trap_module:fire")
    refused(["explain", "other/sent", "--quiet"], capsys, 3)
    assert not fired(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model", "trap_module:fire", "--data", "npz:blobs.npz", "--out", "run", "--quiet"],
        ["evaluate", "trap_module:fire", "--data", "npz:blobs.npz", "--eps", "0.1", "--quiet"],
        ["train", "--recipe", "recipe.yaml", "--trust-code", "--out", "run", "--quiet"],
    ],
    ids=["train", "evaluate", "trusted file"],
)
def test_code_on_the_command_line_is_trusted_and_cannot_end_the_command(folder, capsys, arguments):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SMALL | {"model": {"name": "trap_module:fire"}}))
    try:
        said = refused(arguments, capsys, 3)
        assert "SystemExit: 0" in said
        assert (folder / "FIRED").exists()
    finally:
        sys.modules.pop("trap_module", None)


BAD_FORWARDS = {
    "leaves": ("import sys; sys.exit(0)", "code outside robustlens called sys.exit(0)"),
    "fails later": (
        "Bad.passes += 1\n"
        "        if Bad.passes > 3:\n            raise ValueError('no\\nmore')\n"
        "        return super().forward(x)",
        "model: fails in its forward pass: ValueError: no more",
    ),
}


@pytest.mark.parametrize("name", BAD_FORWARDS)
def test_a_network_that_ends_the_process_or_fails_later_is_one_line(folder, capsys, name):
    forward, said = BAD_FORWARDS[name]
    module = f"bad_{name.replace(' ', '_')}"
    (folder / f"{module}.py").write_text(
        "from torch import nn\n"
        "class Bad(nn.Linear):\n"
        "    passes = 0\n"
        f"    def forward(self, x):\n        {forward}\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), Bad(64, 3))\n"
    )
    arguments = ["evaluate", f"{module}:make", "--data", "npz:blobs.npz", "--eps", "0.1", "--quiet"]
    refused(arguments, capsys, 3, said)


@pytest.mark.parametrize("name", ["../../ESCAPED", "/etc/x", "", "a\nb", "a\0b", "x" * 300])
def test_a_study_is_not_written_elsewhere_by_its_name(folder, capsys, name):
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": name, "data": SMALL["data"], "methods": [{}]}))
    before = sorted(folder.parent.rglob("*"))
    refused(["study", "mine.yaml"], capsys, said="name: found")
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("label", ["../x", "a/b", "", "a\nb", "x" * 300, "\u65e5\u672c"])
def test_labels_are_names_too(folder, capsys, label):
    spec = {"name": "mine", "data": SMALL["data"], "methods": [{"label": label}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(spec))
    refused(["study", "mine.yaml", "--plan"], capsys, said="label: found")


@pytest.mark.parametrize("eps", ["1e99999999", "1e400", "9" * 5000])
def test_a_radius_that_no_machine_can_write_out_is_refused_at_once(folder, capsys, eps):
    began = time.process_time()
    refused(["train", "--eps", eps, "--quiet"], capsys, said="eps: found")
    refused(
        ["evaluate", "json:loads", "--data", "npz:blobs.npz", "--eps", eps, "--quiet"],
        capsys,
        said="eps: found",
    )
    assert time.process_time() - began < 20


@pytest.mark.parametrize("text", ["[" * 5000, "&a [*a]", "1" * 5000, "2024-99-99"])
def test_values_of_options_are_plain_yaml(folder, capsys, text):
    refused(["train", "--set", f"optimizer.lr={text}", "--quiet"], capsys, said="")


def test_a_linked_lock_is_not_emptied(folder, capsys):
    sent_run(folder)
    (folder / "precious").write_text("mine")
    for name in ("lock", "lease", "evaluation.state"):
        (folder / "sent" / name).unlink(missing_ok=True)
        (folder / "sent" / name).symlink_to(folder / "precious")
        refused(["explain", "sent", "--quiet"], capsys, 7, name)
        (folder / "sent" / name).unlink()
    assert (folder / "precious").read_text() == "mine"


def test_a_study_that_points_outside_itself_is_refused(folder, capsys):
    StudyFolder(folder / "study").write_record(StudyRecord("s", runs=(RunEntry("a", "../sent", "A"),)))
    sent_run(folder)
    refused(["report", "study"], capsys, 7, "'../sent'")
    with pytest.raises(StateError):
        StudyFolder(folder / "study").runs()


def test_other_labels_under_the_same_path_end_with_7(folder, capsys):
    options = ["--set", "optimizer.batch_size=32", "--set", "attack.steps=1", "--set", "monitor.examples=8"]
    options += ["--data", "npz:blobs.npz", "--epochs", "1", "--eps", "0.05", "--out", "run", "--quiet"]
    assert cli.run(["train", *options]) == 0
    evaluate = ["evaluate", "run", "--attacks", "fgsm", "--limit", "20", "--quiet"]
    assert cli.run(evaluate) == 0
    assert cli.run(["explain", "run", "--measures", "margins", "--examples", "20", "--quiet"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    arrays = dict(np.load("blobs.npz"))
    np.savez("blobs.npz", **{**arrays, "y_test": arrays["y_test"][::-1]})
    capsys.readouterr()
    for arguments in (
        ["train", *options],
        evaluate,
        ["explain", "run", "--measures", "margins", "--examples", "20", "--quiet"],
    ):
        refused(arguments, capsys, 7, "belongs to other images")
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.01, 0.5])
def test_a_second_signal_ends_a_study_with_75_and_one_line(folder, gap):
    spec = {
        "name": "mine",
        "data": SMALL["data"],
        "methods": [{"optimizer": {"epochs": 10_000, "batch_size": 8}}],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "robustlens", "study", "mine.yaml", "--quiet", "--figures", "none"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    run = Run(folder / "robustlens-out" / "mine" / "runs" / "at-0.1-s0")
    deadline = time.monotonic() + 90
    while run.record.epochs_done < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    time.sleep(gap)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=40)
    assert process.returncode == 75
    assert error in {
        f"error: stopped by SIG{name}; the same command goes on where it stopped\n"
        for name in ("TERM", "INT")
    }
    assert run.record.status == "training"
    assert cli.run(["report", str(run.folder), "--figures", "none"]) == 0
    assert "incomplete: training stopped after" in (run.folder / "report" / "index.html").read_text()


def test_a_damaged_run_is_one_line_for_every_verb(folder, capsys):
    run = sent_run(folder)
    (run.folder / "run.json").write_text(json.dumps({"format": 1, "status": ["done"]}))
    for verb in ("evaluate", "explain", "verify"):
        refused([verb, "sent", *(["--quiet"] if verb != "verify" else [])], capsys, 7, "run.json")


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
@pytest.mark.parametrize(
    "subject",
    [["trap_module:fire", "--data", "npz:blobs.npz", "--eps", "0.1"], ["other/sent"],
     ["sent", "--data", "npz:blobs.npz"]],
    ids=["a network", "another run", "other images"],
)  # fmt: skip
@pytest.mark.parametrize("several", [[], ["--devices", "2"]], ids=["alone", "shared"])
def test_a_run_keeps_its_folder_to_itself(folder, capsys, verb, subject, several):
    """Another network's result in it would be taken for its own. It is refused before anything is loaded."""
    sent_run(folder / "other")
    run = sent_run(folder)
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    said = (
        "sent/recipe.json: belongs to a run, whose results are of its own weights and images; choose another"
    )
    refused([verb, *subject, *several, "--device", "cpu", "--out", "sent", "--quiet"], capsys, 7, said)
    assert {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before
    assert not (folder / "FIRED").exists()
