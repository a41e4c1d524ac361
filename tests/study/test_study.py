"""Studies: plans, skipping, failures, and a small one from data to claims."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from robustlens import study
from robustlens.config import StudySpec, checked
from robustlens.errors import ConfigError, LockedError, ModelError, StateError
from robustlens.executors import InProcess, Outcome
from robustlens.report.reading import read_study
from robustlens.report.text.headline import state
from robustlens.results import StudyFolder
from robustlens.results.locks import locked
from robustlens.study.planning import evaluation_plan, explanation_plan


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """A tiny data set on the disk."""
    from helpers.small_models import blobs

    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    (x, y), (x_test, y_test) = blobs(), blobs(60, seed=1)
    np.savez(path, x_train=x.numpy(), y_train=y.numpy(), x_test=x_test.numpy(), y_test=y_test.numpy())
    return path


def spec(npz, **changes):
    values = {
        "name": "tiny",
        "data": {"name": f"npz:{npz}", "augment": "none"},
        "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
        "threat": {"eps": 0.05},
        "defaults": {
            "attack": {"steps": 2},
            "optimizer": {"lr": 0.2, "epochs": 2, "batch_size": 32, "schedule": "one-cycle"},
            "monitor": {"examples": 30, "steps": 2},
        },
        "methods": [
            {"label": "Standard", "objective": "standard"},
            {"label": "AT", "objective": "at", "eps": [0.02, 0.05]},
            {"label": "AT+AWP", "objective": "at", "awp": {"gamma": 0.01}},
        ],
        "evaluation": {"attacks": ["fgsm", "pgd-3"], "curve": [0.5, 1]},
        "explanation": {
            "examples": 40,
            "options": {
                "landscape": {"examples": 20, "steps": 2, "alphas": [-0.5, 0.5]},
                "smoothness": {"steps": 2},
            },
        },
    }
    return checked(StudySpec, {**values, **changes}, "tiny")


def test_a_plan_names_every_run_once(npz):
    planned = study.plan(spec(npz, seeds=[0, 1]))
    assert [p.id for p in planned if p.recipe.seed == 0] == [
        "standard-0-s0",
        "at-0.02-s0",
        "at-0.05-s0",
        "at-awp-0.05-s0",
    ]
    assert [p.label for p in planned if p.recipe.seed == 0] == ["Standard", "AT 0.02", "AT 0.05", "AT+AWP"]
    assert planned[-1].recipe.awp.gamma == 0.01
    assert planned[0].recipe.threat.eps == 0
    assert len({p.recipe.hash() for p in planned}) == 8
    assert {p.recipe.optimizer.epochs for p in planned} == {2}


def test_defaults_name_the_objective_too(npz):
    (run,) = study.plan(spec(npz, defaults={"objective": "standard"}, methods=[{}]))
    assert (run.id, run.recipe.threat.eps) == ("standard-0-s0", 0)


def test_a_suite_is_a_name(npz):
    assert evaluation_plan(spec(npz, evaluation={"attacks": "fast"})).attacks == ("fgsm", "pgd-20", "cw-20")


def test_radii_in_255ths_keep_their_name(npz):
    planned = study.plan(spec(npz, methods=[{"label": "AT", "eps": ["4/255", "8/255"]}]))
    assert [(p.id, p.label) for p in planned] == [("at-4_255-s0", "AT 4/255"), ("at-8_255-s0", "AT 8/255")]


def test_evaluation_and_explanation_use_the_threat_of_the_study_unless_they_name_their_own(npz):
    assert evaluation_plan(spec(npz)).threat.eps == 0.05
    assert explanation_plan(spec(npz)).threat.eps == 0.05
    wider = spec(npz, evaluation={"threat": {"eps": 0.2}})
    assert (evaluation_plan(wider).threat.eps, explanation_plan(wider).threat.eps) == (0.2, 0.2)
    apart = spec(npz, explanation={"threat": {"norm": "L2", "eps": 1.0}})
    assert (evaluation_plan(apart).threat.eps, explanation_plan(apart).threat.norm) == (0.05, "L2")


@pytest.mark.parametrize(
    ("evaluation", "explanation", "evaluated", "explained"),
    [
        ({"eps": 0.25}, None, ("L2", 0.25), ("L2", 0.25)),
        ({"eps": 2}, None, ("L2", 2), ("L2", 2)),
        ({"norm": "l_2"}, None, ("L2", 1.5), ("L2", 1.5)),
        ({}, {}, ("L2", 1.5), ("L2", 1.5)),
        (None, {"eps": 2}, ("L2", 1.5), ("L2", 2)),
        (None, {"norm": "L2"}, ("L2", 1.5), ("L2", 1.5)),
        ({"norm": "Linf", "eps": 0.2}, {"eps": 0.3}, ("Linf", 0.2), ("Linf", 0.3)),
        ({"eps": 0.25}, {"norm": "L1", "eps": 3}, ("L2", 0.25), ("L1", 3)),
    ],
)
def test_what_a_threat_does_not_name_is_the_studys(npz, evaluation, explanation, evaluated, explained):
    own = {"evaluation": evaluation, "explanation": explanation}
    plans = {name: {"threat": threat} for name, threat in own.items() if threat is not None}
    planned = spec(npz, threat={"norm": "L2", "eps": 1.5}, **plans)
    found = [plan(planned).threat for plan in (evaluation_plan, explanation_plan)]
    assert [(threat.norm, threat.eps) for threat in found] == [evaluated, explained]
    again = StudySpec.model_validate(planned.model_dump(exclude_unset=True))
    assert (evaluation_plan(again), explanation_plan(again)) == (
        evaluation_plan(planned),
        explanation_plan(planned),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": []}, "methods"),
        ({"method": []}, "unknown key"),
        ({"methods": [{"objective": "att"}]}, "expected one of standard"),
        ({"methods": [{"label": "A", "objective": "at", "epoch": 3}]}, r"method 'A'\.epoch: unknown key"),
        ({"methods": [{"label": "A"}, {"label": "A"}]}, "different labels"),
        ({"methods": [{"label": "A", "eps": 8}]}, "did you mean 8/255"),
        ({"methods": [{"label": "A", "threat": {"eps": 0.1}}]}, "methods.threat: is no field here; use eps"),
        ({"defaults": {"seed": 5}}, "defaults.seed: is no field here; use the study's seeds"),
        ({"evaluation": {"attacks": ["fgsm", "nonsense"]}}, "attacks: found 'nonsense'"),
        ({"evaluation": {"threat": {"norm": "L2"}}}, r"evaluation\.threat\.eps: found none beside norm L2"),
        ({"explanation": {"threat": {"norm": "L2"}}}, r"explanation\.threat\.eps: found none beside norm L2"),
        ({"evaluation": {"threat": {"norm": "L3"}}}, "norm: found 'L3'"),
        ({"explanation": {"measures": ["nonsense"]}}, "measure.*: found 'nonsense'"),
        (
            {"explanation": {"options": {"landscape": {"drawz": 1}}}},
            "unknown option of 'landscape'; expected one of alphas.*did you mean 'draws'",
        ),
        ({"methods": [{"label": "A", "data": {"augment": "blur"}}]}, "blur"),
    ],
)
def test_wrong_studies_are_refused_before_anything_starts(npz, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        study.run(spec(npz, **changes), tmp_path / "out", executor=InProcess())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_radius_that_reaches_any_image_of_the_data_is_refused_before_the_first_epoch(npz, tmp_path):
    wide = spec(npz, evaluation={"threat": {"norm": "L2", "eps": 100}}, methods=[{"objective": "standard"}])
    result = study.run(wide, tmp_path / "out", executor=InProcess())
    assert "evaluation.threat.eps: found 100, which reaches any image" in str(result.failures[0].error)
    assert not list(tmp_path.glob("out/runs/*/*.safetensors"))


def test_an_unknown_network_is_refused_before_anything_starts(npz, tmp_path):
    with pytest.raises(ModelError, match="resnet21"):
        study.run(spec(npz, model={"name": "resnet21"}), tmp_path / "out", executor=InProcess())
    assert not (tmp_path / "out").exists()


def test_files_and_names(tmp_path):
    assert study.read("quickstart").name == "quickstart"
    with pytest.raises(ConfigError, match="one of quickstart"):
        study.read("quickstop")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        study.read(tmp_path / "bad.yaml")
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="not valid YAML"):
        study.read(tmp_path / "evil.yaml")
    (tmp_path / "good.yaml").write_text(yaml.safe_dump({"name": "x", "methods": [{"objective": "at"}]}))
    assert len(study.plan(study.read(tmp_path / "good.yaml"))) == 1


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    """A study of four runs and one that cannot work, carried out once."""
    folder = tmp_path_factory.mktemp("study")
    methods = [*spec(npz).methods, {"label": "Wild", "objective": "standard", "optimizer": {"lr": 1e17}}]
    broken = spec(npz, methods=methods)
    return broken, study.run(broken, folder, executor=InProcess())


def test_a_failed_run_does_not_stop_the_others(finished):
    _, result = finished
    assert [failure.name for failure in result.failures] == ["wild-0-s0"]
    assert result.failures[0].exit_code == 4
    states = {run.entry.id: run.record.status for run in result.folder.runs()}
    assert states.pop("wild-0-s0") == "failed"
    assert set(states.values()) == {"done"}


def test_a_worker_that_was_killed_is_recorded_by_the_study(npz, tmp_path):
    class Killed:
        def run(self, jobs, listen):
            names = dict.fromkeys(job.run for job in jobs)
            yield from (Outcome(name, f"{name}: ended by signal 9", 5) for name in names)

    result = study.run(spec(npz), tmp_path, executor=Killed())
    assert len(result.failures) == 4
    for run in result.folder.runs():
        assert run.record.status == "failed"
        assert "signal 9" in run.record.error.message


def test_a_second_run_skips_what_is_done(finished):
    broken, result = finished
    stamps = {p: p.stat().st_mtime_ns for p in result.folder.folder.glob("runs/at*/*.*")}
    again = study.run(broken, result.folder.folder, executor=InProcess())
    assert len(again.skipped) == 4
    assert [outcome.name for outcome in again.outcomes] == ["wild-0-s0"]
    assert stamps == {p: p.stat().st_mtime_ns for p in result.folder.folder.glob("runs/at*/*.*")}


def test_a_new_evaluation_plan_evaluates_anew_without_training(finished, tmp_path):
    broken, result = finished
    folder = Path(shutil.copytree(result.folder.folder, tmp_path / "out"))
    weights = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*state*")}
    assert weights
    wider = broken.model_copy(
        update={"evaluation": {**broken.evaluation, "attacks": ["fgsm"]}, "methods": broken.methods[2:]}
    )
    again = study.run(wider, folder, executor=InProcess())
    assert [outcome.name for outcome in again.outcomes] == ["at-awp-0.05-s0", "wild-0-s0"]
    assert {p: p.stat().st_mtime_ns for p in weights} == weights
    evaluations = [run.evaluation() for run in again.folder.runs()]
    assert all(found.provenance.plan["attacks"] == ["fgsm"] for found in evaluations if found)


def test_a_stage_that_fails_after_training_is_recorded_and_the_run_stays_trained(finished, tmp_path):
    tiny, result = finished
    folder = Path(shutil.copytree(result.folder.folder, tmp_path / "out"))
    weaker = {**tiny.evaluation, "attacks": ["fgsm"]}
    other = tiny.model_copy(update={"evaluation": weaker, "methods": tiny.methods[2:3]})

    class Failing:
        def run(self, jobs, listen):
            yield Outcome("at-awp-0.05-s0", "attack: out of memory", 5)

    study.run(tiny.model_copy(update={"methods": tiny.methods[2:3]}), folder, executor=Failing())
    (run,) = StudyFolder(folder).runs()
    assert (run.record.status, run.record.error) == ("done", None)
    study.run(other, folder, executor=Failing())
    (run,) = StudyFolder(folder).runs()
    assert (run.record.status, run.record.error.message) == ("trained", "attack: out of memory")
    assert read_study(folder).runs[0].evaluation is None
    assert state(read_study(folder).runs[0]) == "failed after training: attack: out of memory"


def test_every_run_is_evaluated_and_explained(finished):
    _, result = finished
    for run in result.folder.runs():
        if run.entry.id == "wild-0-s0":
            continue
        assert set(run.evaluation().splits) == {"train", "test"}
        measures = run.explanation().measures
        assert set(measures) == {
            "spectrum",
            "activations",
            "margins",
            "smoothness",
            "gallery",
            "landscape",
        }
        index = measures["margins"].arrays["test_index"].tolist()
        assert index == sorted(index)


def test_claims_are_checked_on_what_is_there(finished):
    _, result = finished
    verdicts = {claim.verdict for claim in StudyFolder(result.folder.folder).claims}
    assert verdicts <= {"as claimed", "opposite", "unclear", "untested"}
    assert len(result.folder.claims) >= 12


def test_a_changed_recipe_in_the_same_folder_is_refused(finished):
    broken, result = finished
    changed = broken.model_copy(update={"defaults": {**broken.defaults, "attack": {"steps": 3}}})
    with pytest.raises(StateError, match=r"attack\.steps: 2 -> 3"):
        study.run(changed, result.folder.folder, executor=InProcess())


def test_two_studies_cannot_share_a_folder_at_once(finished):
    broken, result = finished
    with locked(result.folder.folder), pytest.raises(LockedError):
        study.run(broken, result.folder.folder, executor=InProcess())
