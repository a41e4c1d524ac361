"""The model card: metadata that the Hub's library reads, and numbers that are those of the run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.study_files import write_study
from robustlens import sharing
from robustlens.results import Flag, Run
from robustlens.sharing.card import model_card

FILES = ("recipe.json", "run.json", "best.safetensors", "evaluation.json", "evaluation-last.json")


def card_of(folder: Path, **options: str) -> str:
    return model_card(Run(folder), FILES, load_as="hf-run:someone/robust-cnn", **options)


def test_the_library_reads_the_metadata(run_folder: Path) -> None:
    library = pytest.importorskip("huggingface_hub")
    data = library.ModelCard(card_of(run_folder, license_id="mit")).data
    assert data.license == "mit"
    assert data.library_name == "robustlens"
    assert {"robustlens", "at", "awp", "linf"} <= set(data.tags)
    clean, robust = data.eval_results
    test = json.loads((run_folder / "evaluation.json").read_text(encoding="utf-8"))["splits"]["test"]
    assert (clean.metric_type, clean.metric_value) == ("accuracy", test["clean"]["value"])
    assert (robust.metric_type, robust.metric_value) == ("accuracy", test["robust"]["value"])
    assert robust.metric_args["low_95"] == test["robust"]["low"]
    assert robust.metric_args["n"] == 40
    assert robust.metric_args["attacks"] == ["fgsm", "pgd-2"]
    assert robust.dataset_type == "fashion-mnist-10k"


def test_numbers_are_those_of_a_made_run(tmp_path: Path) -> None:
    runs = write_study(tmp_path / "study", n=100) / "runs"
    run = Run(runs / "at-awp-0.1-s0")
    evaluation = run.evaluation()
    assert evaluation is not None
    card = card_of(run.folder)
    for split in ("test", "train"):
        part = evaluation.splits[split]
        for interval in (part.clean, part.robust):
            assert interval.low is not None
            assert interval.high is not None
            cell = f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"
            assert cell.replace("%", " %", 1).replace("%)", ")").replace("% to", " to") in card
    assert "Threat: Linf, eps 0.1, on pixels in [0, 1]." in card
    assert "AT+AWP against Linf eps 0.1" in card
    assert "## What robustness did to it" in card


def test_flags_are_shown_with_what_they_mean(tmp_path: Path) -> None:
    runs = write_study(tmp_path / "study", n=100) / "runs"
    run = Run(runs / "at-0.1-s0")
    evaluation = run.evaluation()
    assert evaluation is not None
    flag = Flag("steps-matter", "90 of 100 | <b>", "", "the attack was too weak", "use more steps")
    parts = {"test": replace(evaluation.splits["test"], flags=(flag,))}
    run.write("evaluation", replace(evaluation, splits={**evaluation.splits, **parts}))
    card = card_of(run.folder)
    assert (
        "- **steps-matter** (test images): 90 of 100 \\| \\<b\\>; the attack was too weak; use more steps."
        in card
    )
    front = yaml.safe_load(card.split("---\n")[1])
    robust = front["model-index"][0]["results"][0]["metrics"][1]
    assert robust["name"].endswith("(flags are up)")
    assert robust["args"]["flags"] == ["steps-matter"]


def test_without_an_evaluation_the_card_says_so(unevaluated: Path) -> None:
    card = card_of(unevaluated)
    assert "**Not evaluated.** Nothing is known of its accuracy" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert not {"model-index", "metrics", "license"} & set(front)
    assert "named no licence" in card


def test_the_code_in_the_card_loads_the_folder(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing.write_folder(run_folder, tmp_path / "FOLDER")
    code = (
        (tmp_path / "FOLDER" / "README.md")
        .read_text(encoding="utf-8")
        .split("```python\n")[1]
        .split("```")[0]
    )
    monkeypatch.chdir(tmp_path)
    made: dict[str, object] = {}
    exec(code, made)
    assert "model" in made


def test_both_checkpoints_have_their_own_table(run_folder: Path, tmp_path: Path) -> None:
    card = card_of(run_folder)
    assert "### Checkpoint best" in card
    assert "### Checkpoint last" in card
    alone = Path(shutil.copytree(run_folder, tmp_path / "alone"))
    (alone / "evaluation-last.json").unlink()
    assert "### Checkpoint" not in card_of(alone)


def test_a_card_names_no_path_of_the_recipe(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Run(run_folder).recipe
    local = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": "npz:/home/me/x.npz"})})
    monkeypatch.setattr(Run, "recipe", local)
    card = card_of(run_folder)
    assert "/home/me" not in card
    assert "local files (npz)" in card
    assert "--data ..." in card
