"""Folders of format 1: the same numbers as the version that wrote them, and training goes on."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import robustlens as rl
from helpers.golden import unpack
from robustlens import claims, report
from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.config import BEST, LAST, Checkpoint, EvaluationPlan, ExplanationPlan, checked
from robustlens.evaluation import evaluate_run
from robustlens.report.page import rendering
from robustlens.results import DESCRIBED, Run, StudyFolder
from robustlens.results.upgrade import upgraded
from robustlens.results.values import plain


@pytest.fixture(scope="module")
def format_1(tmp_path_factory):
    return unpack("format-1", tmp_path_factory.mktemp("golden"))


def test_every_document_opens(format_1):
    study = StudyFolder(format_1 / "study")
    assert len(study.runs()) == 7
    for run in study.runs():
        assert run.record.status == "done"
        assert [epoch.epoch for epoch in run.metrics()] == [1, 2, 3, 4]
        assert list(run.other_checkpoints("evaluation")) == [1, 2, 3, 4]
        for beside in (None, *run.other_checkpoints("evaluation").values()):
            evaluation, explanation = run.evaluation(beside), run.explanation(beside)
            assert evaluation is not None
            assert explanation is not None
            assert set(evaluation.splits) == {"test", "train"}
            assert len(evaluation.splits["test"].arrays["robust"]) == 64
            assert len(explanation.measures) == 9
            assert explanation.measures["landscape"].conditions["steps"] == 2


def test_entries_name_their_perturbation(format_1):
    entries = {run.entry.id: run.entry for run in StudyFolder(format_1 / "study").runs() if run.entry}
    assert entries["at-awp-0.1-s0"].perturbation == "awp"
    assert entries["at-0.1-s0"].perturbation is None
    assert entries["at-awp-0.1-s0"].unperturbed == entries["at-0.1-s0"].unperturbed


def test_flags_have_their_parts(format_1):
    evaluation = StudyFolder(format_1 / "study").runs()[2].evaluation()
    assert evaluation is not None
    flag = evaluation.splits["test"].flags[0]
    saved = json.loads((format_1 / "study/runs/at-0.1-s0/evaluation.json").read_text())
    if flag.name == saved["splits"]["test"]["flags"][0]["name"]:
        assert flag.message == saved["splits"]["test"]["flags"][0]["message"]
    assert flag.meaning not in flag.observed


def test_results_of_format_1_are_current(format_1):
    study = StudyFolder(format_1 / "study")
    for run in study.runs():
        asked = checked(EvaluationPlan, dict(study.record.evaluation), "plan")
        assert asked.curve
        assert run.is_current("evaluation", asked.model_copy(update={"curve_search": "plain"}))
        assert not run.is_current("evaluation", asked), "its distances are those of the plain search"
        values = {**study.record.explanation, "threat": study.record.threat}
        assert run.is_current("explanation", checked(ExplanationPlan, values, "plan"))


def test_claims_are_the_same_to_the_last_digit(format_1):
    saved = json.loads((format_1 / "study" / "claims.json").read_text())["claims"]
    # Errors are now a rate over all images, activations are held by their raw variance, operators are named.
    changed = "errors-indecisive", "activation-variation-falls", "singular-spread-falls"
    saved = [claim for claim in saved if claim["id"] not in changed]
    kept = {claim["id"] for claim in saved}
    # Claims that came later are left out, as are methods without AWP by themselves and later second looks.
    found = [plain(claim) for claim in claims.check(format_1 / "study") if claim.id in kept]
    found = [claim for claim in found if "without AWP" not in claim["setting"]]
    ladder = [claim for claim in found if claims.CLAIMS[claim["id"]].design is STRENGTH_SWEEP]
    found = [claim for claim in found if claim not in ladder or claim["setting"] == "at the best checkpoint"]
    for claim in found:
        # Strengths were compared at the primary checkpoint alone, which went without saying.
        claim["setting"] = "" if claim in ladder else claim["setting"].removeprefix("among all methods ")
        claim["values"] = [{k: v for k, v in value.items() if v is not None} for value in claim["values"]]
        # The study has two seeds: its verdicts are descriptions, in other words, and have no p-value.
        assert claim.pop("scope") == (None if claim["verdict"] == "untested" else "described")
        assert claim.pop("adjusted_p") is None
        assert claim["effect"].pop("p") is None
        claim["effect"]["name"] = claim["effect"]["name"].replace("minus without AWP", "minus without")
        assert claim.pop("remedy") == "" or claim["verdict"] == "untested"
        looks = claim["note"].replace("second look: ", "").split("; ")
        later = ("rise at |alpha|", "rise on training images", "rank correlation with measured", "within 0.",
                 "logit margins within", "95 % quantile")  # fmt: skip
        claim["note"] = "; ".join(look for look in looks if not look.startswith(later))
    for claim in saved:
        claim["verdict"] = DESCRIBED[claim["verdict"]] if claim["values"] else "untested"
    assert found == saved


def test_saved_claims_open_with_their_scope(format_1):
    saved = json.loads((format_1 / "study" / "claims.json").read_text())["claims"]
    opened = StudyFolder(format_1 / "study").claims
    for claim, old in zip(opened, saved, strict=True):
        assert claim.scope == ("described" if old["values"] else None)
        assert claim.verdict == (DESCRIBED[old["verdict"]] if old["values"] else "untested")


@pytest.mark.slow
def test_tables_and_figures_are_the_same_to_the_last_digit(format_1, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "drawings", lambda *_: {})
    report.write(format_1 / "study", tmp_path)
    saved = sorted((format_1 / "study" / "report" / "figures").glob("*.csv"))
    assert len(saved) > 20
    for path in saved:
        with path.open() as old, (tmp_path / "figures" / path.name).open() as new:
            before, after = list(csv.DictReader(old)), list(csv.DictReader(new))
        if path.stem.endswith("-spread"):  # whose two panels have changed places
            before, after = (sorted(rows, key=lambda row: row["panel"]) for rows in (before, after))
        if path.stem == "instance-margins":
            before = _of_all_images(before)
        assert [_without_ends(row) for row in after] == [_without_ends(row) for row in before], path.name
        # Two seeds have no interval over seeds: what was their range is the hull of their own, or nothing.
        assert all(_is_no_narrower(new_row, row) for new_row, row in zip(after, before, strict=True))


def _of_all_images(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Shares were of the images with a finite distance: 127 and 125 of the 128 of AT 0.1, on test and training."""
    finite = {"Test images": 127, "Training images": 125}
    for row in rows:
        if (row["view"], row["label"]) == ("Distance to the boundary", "AT 0.1"):
            row["y"] = str(round(float(row["y"]) * finite[row["panel"]]) / 128)
    return rows


def _without_ends(row: dict[str, str]) -> dict[str, str]:
    """Without how a point is drawn, too: layers became dots."""
    return {key: value for key, value in row.items() if key not in ("low", "high", "mark")}


def _is_no_narrower(row: dict[str, str], than: dict[str, str]) -> bool:
    if not row.get("low") or not than.get("low"):
        return not row.get("low") or "low" not in than
    low, high = float(row["low"]) - float(than["low"]), float(row["high"]) - float(than["high"])
    return low <= 1e-12 and high >= -1e-12


@pytest.mark.slow
def test_a_stopped_training_goes_on(format_1):
    run = Run(format_1 / "training")
    assert run.record.epochs_done == 2
    again = rl.train(run.recipe, run.folder)
    assert again.record.epochs_done == 4
    whole = load_file(format_1 / "whole" / "last.safetensors")
    for name, tensor in load_file(run.folder / "last.safetensors").items():
        torch.testing.assert_close(
            tensor, whole[name], rtol=1e-3, atol=1e-4
        )  # exact where the machine is the same
    assert all(
        check.sealed for check in rl.results.verify(run.folder) if check.path.name == "last.safetensors"
    )


def test_a_stopped_evaluation_goes_on_with_the_same_masks(format_1):
    run = Run(format_1 / "evaluating")
    plan = EvaluationPlan(test_examples=64, train_examples=64, save_adversarial=True, curve_search="plain")
    result, whole = evaluate_run(run, plan), Run(format_1 / "whole").evaluation()
    assert whole is not None
    for split in ("test", "train"):
        for name in ("clean", "robust", "fgsm", "pgd-20"):
            np.testing.assert_array_equal(result.splits[split].arrays[name], whole.splits[split].arrays[name])


def test_weights_of_format_1_load(format_1):
    run = StudyFolder(format_1 / "study").runs()[0]
    for checkpoint in (BEST, LAST, Checkpoint("epoch", 2)):
        model = rl.models.load(run.folder, checkpoint=str(checkpoint))
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_upgrading_changes_no_present_document():
    content = {"status": "done", "epochs_done": 3}
    assert upgraded("run", content, 2) == content


def test_a_run_of_format_1_loses_what_was_null_but_its_error():
    old = {"status": "done", "best_epoch": None, "epochs_done": 0, "error": None}
    assert upgraded("run", old, 1) == {"status": "done", "epochs_done": 0, "error": None}
    assert upgraded("epoch", {"epoch": 3, "awp": True}, 1) == {"epoch": 3, "perturbed": True}
    assert upgraded("epoch", {"epoch": 3}, 1) == {"epoch": 3, "perturbed": False}
    assert upgraded("recipe", {"seed": 1}, 1) == {"seed": 1}, "of a kind that has not changed"


def test_an_evaluation_of_format_1_by_hand():
    whole = {"name": "n", "message": "seen; so; do", "raised_if": "if", "means": "so", "todo": "do"}
    flags = [whole, {"name": "alone"}, "a text", {"message": "of no name"}]
    old = {
        "model": "print",
        "splits": {"test": {"n": 2, "flags": flags, "notes": ["x"]}, "train": {}, "odd": 3},
    }
    new = upgraded("evaluation", old, 1)
    empty = {"raised_if": "", "meaning": "", "remedy": ""}
    assert new["splits"]["test"].pop("flags") == [
        {"name": "n", "observed": "seen", "raised_if": "if", "meaning": "so", "remedy": "do"},
        {"name": "alone", "observed": "alone", **empty},
        {"name": "flag", "observed": "a text"},
        {"name": "flag", "observed": "of no name", **empty},
    ]
    assert new["splits"] == {
        "test": {"n": 2, "notes": ["x"], "seconds": {}},
        "train": {"flags": [], "notes": [], "seconds": {}},
        "odd": 3,
    }
    assert {key: new[key] for key in ("weights", "recipe_hash", "data", "plan")} == {
        "weights": "print", "recipe_hash": None, "data": "", "plan": {},
    }  # fmt: skip
    known = {"weights": "seal", "recipe_hash": "r", "data": "d", "plan": {"seed": 1}, "model": {"name": "m"}}
    assert upgraded("evaluation", known, 1) == known


def test_an_explanation_of_format_1_by_hand():
    measure = {"value": {"eps": 0.1, "steps": 2, "rise": 0.5}, "unit": "nats"}
    threat = {"norm": "L2", "eps": 0.5, "bounds": [0, 1]}
    old = {"weights": "w", "plan": {"seed": 1}, "threat": threat, "measures": {"a": measure, "b": 3, "c": {}}}
    new = upgraded("explanation", old, 1)
    assert (new["plan"], new["threat"]) == ({"seed": 1, "threat": {"norm": "L2", "eps": 0.5}}, threat)
    conditions = {"eps": 0.1, "steps": 2}
    assert new["measures"] == {
        "a": {"what": "", "source": "", **measure, "conditions": conditions},
        "b": 3,
        "c": {},
    }
    bare = upgraded("explanation", {"weights": "w"}, 1)
    assert (bare["threat"], bare["plan"]) == ({"norm": "", "eps": 0.0}, {})


def test_a_study_of_format_1_by_hand():
    runs = [{"id": "a", "awp": True, "awp_from_attack": 1, "without_awp": "hash"}, {"id": "b"}, "odd"]
    assert upgraded("study", {"runs": runs}, 1)["runs"] == [
        {"id": "a", "perturbation": "awp", "from_attack": True, "unperturbed": "hash"},
        {"id": "b", "perturbation": None, "from_attack": False, "unperturbed": None},
        "odd",
    ]
    assert upgraded("study", {"runs": 3}, 1) == {"runs": 3}


@pytest.mark.parametrize(
    ("old", "verdict"),
    [
        ({"verdict": "inconclusive"}, "untested"),
        ({"verdict": "supported", "seeds": 0, "values": []}, "untested"),
        ({"verdict": "supported", "seeds": 2, "values": [1]}, "as claimed"),
        ({"verdict": "supported", "seeds": 3, "values": [1]}, "supported"),
        ({"verdict": "inconclusive", "seeds": 0, "values": [1]}, "unclear"),
        ({"verdict": "of another time", "seeds": 1}, "of another time"),
        ({"verdict": "supported", "values": [1]}, "supported"),
    ],
)
def test_a_claim_of_format_1_by_hand(old, verdict):
    claims = upgraded("claims", {"claims": [old, "odd"]}, 1)["claims"]
    assert claims == [{**old, "verdict": verdict}, "odd"]


def test_a_folder_of_the_present_format_opens_and_is_sealed(tmp_path):
    """`format-2.tar.xz`: AT with and without AWP, every epoch measured, as version 0.1.0 wrote them."""
    folder = unpack("format-2", tmp_path) / "study"
    study = StudyFolder(folder)
    assert [run.entry.perturbation for run in study.runs() if run.entry] == [None, "awp"]
    for run in study.runs():
        assert list(run.other_checkpoints("explanation")) == [1, 2, 3, 4]
        evaluation = run.evaluation()
        assert evaluation is not None
        assert len(evaluation.splits["test"].arrays["robust"]) == 64
    assert len(study.claims) > 20
    checks = rl.results.verify(folder)
    assert len(checks) > 40
    assert all(check.sealed and check.problem is None for check in checks)
