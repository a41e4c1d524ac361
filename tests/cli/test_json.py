"""Every command gives its result as JSON: on standard output, and nothing beside it."""

import json

import pytest

from robustlens import cli

TRAIN = [
    "train", "--data", "fashion-mnist-10k", "--eps", "0.1", "--epochs", "1", "--out", "run",
    "--set", "data.train_limit=100", "--set", "data.test_limit=20", "--set", "attack.steps=1",
    "--set", "optimizer.batch_size=32", "--set", "monitor={examples: 8, steps: 1}",
]  # fmt: skip


@pytest.mark.slow
def test_each_command_on_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def said(*arguments):
        assert cli.run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert said(*TRAIN)["last_epoch"]["epoch"] == 1
    evaluated = said("evaluate", "run", "--attacks", "fgsm", "--limit", "10")
    assert evaluated["splits"]["test"]["n"] == 10
    assert set(said("explain", "run", "--measures", "margins", "--examples", "10")["measures"]) == {"margins"}
    assert said("report", "run", "--figures", "none")["format"] == 1
    assert said("verify", "run")["damaged"] == 0
    assert "README.md" in said("push", "run", "--folder", "shared")["files"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["methods"], "attacks"),
        (["doctor"], "findings"),
        (["study", "quickstart", "--plan"], "runs"),
        (["schema", "recipe"], "properties"),
    ],
)
def test_commands_without_a_run(arguments, key, capsys):
    printed = [*arguments, "--json"] if arguments[0] != "schema" else arguments
    assert cli.run(printed) == 0
    assert json.loads(capsys.readouterr().out)[key]
