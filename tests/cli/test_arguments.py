"""Options that are refused before anything is read: a device that is not there, a checkpoint of no run."""

from pathlib import Path

import pytest
import torch
import yaml

from robustlens import cli
from robustlens.cli import sharding
from robustlens.cli.arguments import recipe_values
from robustlens.cli.options import RecipeOptions
from robustlens.errors import ConfigError

VERBS = {
    "train": ["train", "--data", "npz:absent.npz"],
    "evaluate": ["evaluate", "absent", "--data", "npz:absent.npz", "--eps", "0.1"],
    "explain": ["explain", "absent", "--data", "npz:absent.npz", "--eps", "0.1"],
    "study": ["study", "quickstart"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("name", "code"), [("cuda", 5), ("cuda:1", 5), ("gpu", 2)])
def test_a_device_that_is_not_there_is_refused_first(verb, name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run([*VERBS[verb], "--device", name]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"error: device: found '{name}'")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
def test_a_checkpoint_of_what_is_no_run_is_refused(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*VERBS[verb], "--checkpoint", "last"]) == 2
    assert capsys.readouterr().err == "error: --checkpoint: found last, but absent is no run folder of ours\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "cloud"], "--executor: found 'cloud', expected one of local, ray, slurm"),
        (["--address", "auto"], "--address: found it with --executor local, expected ray"),
        (["--memory-gib", "2"], "--memory-gib: found it with --executor local, expected ray, slurm"),
        (["--executor", "slurm", "--memory-gib", "inf"], "--memory-gib: found inf, expected a number of GiB"),
        (["--executor", "slurm", "--send-data"], "--send-data: found it with --executor slurm, expected ray"),
        (["--executor", "slurm", "--slurm", "gpu"], "--slurm: found 'gpu', expected NAME=VALUE"),
        (
            ["--executor", "ray", "--device", "cuda:1"],
            "--device: found 'cuda:1', expected auto, cpu, cuda on",
        ),
    ],
)
def test_an_executor_that_is_not_there_and_options_of_others_are_refused(
    options, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["study", "quickstart", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_options_of_a_study_make_its_executor(tmp_path, monkeypatch):
    from robustlens.cli.executors import ExecutorOptions, of

    options = ExecutorOptions("ray", 8, 4, 2, "auto", 1.5, None, True)
    ray = of(options, "cuda", tmp_path)
    assert (ray.address, ray.workers, ray.threads, ray.share) == ("auto", 8, 4, 0.5)
    assert (ray.memory, ray.send_data, ray.use_gpus) == (3 << 29, True, True)
    slurm = of(ExecutorOptions("slurm", threads=3, slurm=["partition=gpu"]), "cuda", tmp_path / "study")
    assert (slurm.folder, slurm.gpus, slurm.threads) == (tmp_path / "study.slurm", 1, 3)
    assert slurm.parameters["slurm_partition"] == "gpu"
    asked = {"time": "12:00:00", "account": "0123", "qos": "no", "partition": "on", "comment": "1.10",
             "exclude": "null", "begin": "2024-01-01", "reservation": "1_0", "mem": "'a b'"}  # fmt: skip
    given = [f"{name}={text}" for name, text in asked.items()]
    given += ["timeout_min=600", "exclusive=true", "setup=[module load x]"]
    values = of(ExecutorOptions("slurm", slurm=given), "cpu", tmp_path).parameters
    assert {name: values[f"slurm_{name}"] for name in asked} == {**asked, "mem": "a b"}
    assert (values["slurm_exclusive"], values["slurm_setup"]) == (True, ["module load x"])
    assert 600 in values.values()
    assert of(ExecutorOptions("slurm"), "auto", tmp_path).gpus == 0
    monkeypatch.chdir(tmp_path)
    assert of(ExecutorOptions("slurm"), "cpu", Path()).folder == tmp_path.with_name(f"{tmp_path.name}.slurm")
    assert of(ExecutorOptions("slurm"), "cpu", Path("..")).folder.name == f"{tmp_path.parent.name}.slurm"
    assert of(ExecutorOptions(threads=3), "cpu", tmp_path).threads == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study", "quickstart", "--seeds", "0,a"], "--seeds: found '0,a', expected different whole numbers"),
        (["study", "quickstart", "--seeds", "0,0"], "--seeds: found '0,0', expected different whole numbers"),
        (["study", "quickstart", "--figures", "gif"], "figures: found 'gif', expected pdf, svg, png"),
        (["study", "quickstart", "--seeds", ""], "--seeds: found '', expected different whole numbers"),
        (["study", "quickstart", "--seeds=-1"], "--seeds: found '-1', expected different whole numbers"),
    ],
)
def test_seeds_that_are_none_are_refused(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*arguments, "--plan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_a_study_is_planned_with_the_seeds_of_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.run(["study", "quickstart", "--seeds", "3, 5", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.count("-s3 ") == said.count("-s5 ") == 4
    assert "-s0 " not in said


def test_a_curve_is_multiples_of_eps_or_none():
    from robustlens.cli.arguments import curve
    from robustlens.config import EvaluationPlan, checked

    plans = {
        text: checked(EvaluationPlan, {"curve": curve(text)}, "evaluate") for text in ("none", "1/2, 1,2")
    }
    assert plans["none"].curve == ()
    assert plans["1/2, 1,2"].curve == (0.5, 1.0, 2.0)
    for wrong in ("-1", "x", ""):
        with pytest.raises(ConfigError, match=r"evaluate\.curve"):
            checked(EvaluationPlan, {"curve": curve(wrong)}, "evaluate")


def test_options_of_measures_are_typed_and_belong_to_a_measure_that_is_asked_for():
    from robustlens.cli.arguments import measure_options

    items = ["landscape.steps=9", "landscape.alphas=[0.5, 1]", "my.own:measure.k=2"]
    assert measure_options(items, ["landscape", "my.own:measure"]) == {
        "landscape": {"steps": 9, "alphas": [0.5, 1]},
        "my.own:measure": {"k": 2},
    }
    for wrong in ("landscape.steps", "landscape=9", "margins.steps=9", ".steps=9"):
        with pytest.raises(ConfigError, match="--measure-option: found"):
            measure_options([wrong], ["landscape"])


def test_an_option_that_a_measure_does_not_have_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    explain = [
        "explain",
        "mine:make",
        "--data",
        "fashion-mnist-10k",
        "--eps",
        "0.1",
        "--examples",
        "20",
        "--quiet",
    ]
    assert cli.run([*explain, "--measures", "margins", "--measure-option", "margins.nonsense=9"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert (
        cli.run(
            [*explain, "--measures", "smoothness", "--measure-option", "smoothness.steps=2", "--out", "out"]
        )
        == 0
    )
    from robustlens.results import Run

    assert Run(tmp_path / "out").explanation().provenance.plan["options"] == {"smoothness": {"steps": 2}}


@pytest.mark.parametrize(
    ("options", "examples"),
    [([], (None, None)), (["--limit", "7"], (7, 7)), (["--train-limit", "5"], (None, 5)),
     (["--limit", "7", "--train-limit", "5"], (7, 5))],
)  # fmt: skip
def test_training_images_of_an_evaluation_may_be_fewer(options, examples, monkeypatch):
    plans = []
    monkeypatch.setattr(sharding, "evaluate", lambda request, chosen, listen: plans.append(request.plan))
    command = [
        "evaluate",
        "no_such:model",
        "--data",
        "fashion-mnist-10k",
        "--eps",
        "0.1",
        "--quiet",
        *options,
    ]
    assert cli.run(command) == 0
    assert [(plan.test_examples, plan.train_examples) for plan in plans] == [examples]


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ({"optimizer": "adamw"}, ["--epochs", "3"], "optimizer.epochs: found optimizer 'adamw'"),
        ({"data": "cifar10"}, ["--set", "data.train_limit=9"], "data.train_limit: found data 'cifar10'"),
        ({"threat": "8/255"}, ["--norm", "L2"], "threat.norm: found threat '8/255'"),
        ({"awp": 0.005}, ["--set", "awp.steps=2"], "awp.steps: found awp 0.005"),
        ({"awp": False}, ["--set", "awp.steps=2"], "awp.steps: found awp False"),
        ({"rwp": []}, ["--set", "rwp.gamma=2"], "rwp.gamma: found rwp []"),
        ({"model": {"options": 4}}, ["--set", "model.options.width=4"],
         "model.options.width: found model.options 4"),
        ({}, ["--set", "sam=0.1", "--set", "sam.rho=0.2"], "sam.rho: found sam 0.1"),
    ],
)  # fmt: skip
def test_an_option_does_not_replace_a_value_that_it_cannot_change(
    recipe, options, said, tmp_path, monkeypatch, capsys
):
    """The recipe alone is refused; with the option it would train with the defaults of the field."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.run(["train", "--recipe", "recipe.yaml", *options, "--quiet"]) == 2
    assert capsys.readouterr().err == f"error: recipe.{said}, expected a mapping of its fields\n"


def test_an_option_sets_a_field_of_what_is_off_or_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = RecipeOptions(set_=["awp.steps=2", "model.options.width=4", "objective=trades"])
    recipe = {"awp": None, "optimizer": {"epochs": 3}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert recipe_values(options, Path("recipe.yaml"), trust_code=False) == {
        "awp": {"steps": 2},
        "optimizer": {"epochs": 3},
        "model": {"options": {"width": 4}},
        "objective": "trades",
    }
