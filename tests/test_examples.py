"""The examples and the README's code run as they stand."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustlens import study

pytestmark = pytest.mark.lasts(60)

ROOT = Path(__file__).resolve().parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*is deprecated, use"
)  # Lightning's
@pytest.mark.parametrize(
    ("name", "sizes", "above"),
    [
        ("awp_in_your_loop", {"images": 3000}, 0.3),
        ("awp_with_amp", {"images": 3000}, 0.3),
        ("awp_with_amp", {"images": 640, "epochs": 3, "dtype": torch.float16}, 0.15),
        ("awp_with_fabric", {"images": 3000}, 0.3),
        ("awp_with_lightning", {"images": 2000}, 0.3),
        ("awp_with_accelerate", {"images": 2000}, 0.3),
        ("awp_with_transformers", {}, 0.15),
        ("robust_text", {"count": 1000, "epochs": 3}, 0.2),
        ("robust_table", {"images": 2000, "epochs": 4}, 0.3),
        ("robust_signals", {"images": 2000, "epochs": 3}, 0.3),
    ],
)
def test_networks_that_examples_train_are_robust_above_chance(name, sizes, above, capsys):
    """By a wide margin: chance is 0.1, and a half for text, where 0.2 is more than a broken attack leaves."""
    assert load(name).main(**sizes) > above
    assert "robust" in capsys.readouterr().out


DDP = """
import sys
sys.path[:0] = ["examples", "tests"]
import awp_with_ddp
from helpers.ranks import in_ranks
assert in_ranks(2, lambda rank: awp_with_ddp.main(images=640, epochs=1)) == [0, 0]
"""


def test_awp_with_ddp():
    """In two processes, which look themselves whether their weights are the same."""
    command = [sys.executable, "-c", DDP]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("clean ")


def test_evaluate_and_explain(capsys):
    found = load("evaluate_and_explain").main(examples=60)
    assert 0 <= found["robust"] <= 0.5
    assert "landscape" not in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_example_studies_are_plans_that_can_start(path):
    planned = study.plan(study.read(path))
    assert len(planned) >= 2
    assert len({run.id for run in planned}) == len(planned)


def test_the_cifar10_example_trains_its_first_steps_on_the_real_files(real_cifar10, tmp_path, monkeypatch):
    import robustlens as rl
    from robustlens.config import Recipe, checked

    monkeypatch.setenv("ROBUSTLENS_DATA", str(real_cifar10.parent))
    (awp,) = [run for run in study.plan(study.read(ROOT / "examples" / "cifar10.yaml")) if "awp" in run.id]
    values = awp.recipe.model_dump()
    values["data"] |= {"train_limit": 400, "test_limit": 50}
    values["optimizer"] |= {"epochs": 1}
    values["attack"] |= {"steps": 2}
    values["awp"] |= {"warmup_epochs": 0}
    values["monitor"] |= {"examples": 20, "steps": 1}
    run = rl.train(checked(Recipe, values, "recipe"), tmp_path / "run")
    assert run.metrics()[0].perturbed
    assert rl.models.load(str(run.folder))(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_the_gpu_example_takes_its_first_50_steps_on_a_cpu_too(real_cifar10, tmp_path, monkeypatch):
    """With an eighth of the channels, batches of two, a shorter attack, and not compiled (no compiler here)."""
    import robustlens as rl
    from robustlens.config import Recipe, checked

    monkeypatch.setenv("ROBUSTLENS_DATA", str(real_cifar10.parent))
    plan = study.plan(study.read(ROOT / "examples" / "gpu_awp2020.yaml"))
    (awp,) = [run for run in plan if run.recipe.awp]
    assert awp.recipe.optimizer.milestones[0] * awp.recipe.optimizer.epochs == 20
    values = awp.recipe.model_dump()
    values["data"] |= {"train_limit": 102, "test_limit": 20}
    values["model"] |= {"options": {"width": 8}}
    values["optimizer"] |= {"epochs": 1, "batch_size": 2, "lr": 1e-3}
    values["attack"] |= {"steps": 2}
    values["monitor"] |= {"examples": 2, "steps": 1}
    seen = []
    recipe = checked(Recipe, {**values, "compile": False}, "recipe")
    run = rl.train(recipe, tmp_path / "run", progress=lambda event: seen.append(event))
    assert max(event.total for event in seen if event.phase == "train") == 50
    assert run.metrics()[0].perturbed


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        *(f"docs/{page}.md" for page in ("overview", "explain", "start", "how-to", "coming-from", "faq")),
    ],
)
def test_the_python_of_the_documents_runs(name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})


def test_the_documented_recipe_and_study_are_what_the_code_takes():
    import yaml

    from robustlens.config import Recipe, checked

    recipe, example = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "recipe.md").read_text(), flags=re.S)
    assert checked(Recipe, yaml.safe_load(recipe), "docs/recipe.md") == Recipe(), (
        "a documented default is wrong"
    )
    assert len(study.plan(checked(study.StudySpec, yaml.safe_load(example), "docs/recipe.md"))) == 6


def test_the_overview_counts_the_claims_that_there_are():
    from robustlens.claims import CLAIMS

    assert f"| claims | {len(CLAIMS)} statements" in (ROOT / "docs" / "overview.md").read_text()


@pytest.mark.parametrize("name", ["awp_from_attack", "awp_along_training"])
def test_the_smaller_awp_studies_share_their_runs_with_the_large_one(name):
    hashes = {
        study_name: {
            run.id: run.recipe.hash()
            for run in study.plan(study.read(ROOT / "examples" / f"{study_name}.yaml"))
        }
        for study_name in ("awp2020", name)
    }
    shared = hashes["awp2020"].items() & hashes[name].items()
    assert len(shared) >= 6
    assert all("from-the-attack" in run for run, _ in hashes[name].items() - shared)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry(tmp_path):
    command = [
        sys.executable,
        "bench/gpu.py",
        "--dry-run",
        "--models",
        "resnet8",
        "--out",
        str(tmp_path / "gpu.json"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["dry_run"]
    assert list(found["networks"]) == ["resnet8, AT", "resnet8, AT+AWP"]
    for ways in found["networks"].values():
        assert list(ways) == ["published", "lean", "ours"]
        assert all(value > 0 for way in ways.values() for value in way.values())
