"""The explanation of a run: what is kept, what is measured anew, and both checkpoints."""

import pytest
import torch

import robustlens as rl
from robustlens.config import EvaluationPlan, ExplanationPlan, Recipe
from robustlens.data import from_tensors
from robustlens.errors import ConfigError, LockedError, StateError
from robustlens.evaluation import evaluate_run
from robustlens.explain import MEASURES, explain_run
from robustlens.explain.measure import Measurement
from robustlens.results.folders import locked

THREAT = rl.ThreatModel("Linf", 0.03)


@pytest.fixture(scope="module")
def splits():
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(n, 1, 8, 8, generator=generator) for n in (96, 32)]
    return from_tensors(
        *(part for x in draws for part in ((x * 255).to(torch.uint8), torch.arange(len(x)) % 3))
    )


RECIPE = Recipe.model_validate(
    {
        "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}},
        "objective": "standard",
        "optimizer": {"lr": 0.05, "epochs": 2, "batch_size": 32, "schedule": "constant"},
        "data": {"name": "arrays", "augment": "none"},
    }
)


@pytest.fixture
def run(tmp_path, splits):
    return rl.train(RECIPE, tmp_path / "run", splits=splits)


class Calls(list):
    """Which measures were called, with which option; "mean" stops as Ctrl-C does while `stop` is set."""

    stop = False

    def count(self, subject, *, of=0):
        self.append(("count", of))
        return Measurement({"of": of}, "1", "what", "source", {"index": subject.test.index.numpy()})

    def mean(self, subject):
        self.append("mean")
        if self.stop:
            raise KeyboardInterrupt
        return Measurement({"mean": float(subject.model.conv1.weight.detach().mean())}, "1", "what", "source")


@pytest.fixture
def calls(monkeypatch):
    made = Calls()
    monkeypatch.setitem(MEASURES, "count", made.count)
    monkeypatch.setitem(MEASURES, "mean", made.mean)
    return made


def plan(*measures, **more):
    return ExplanationPlan(measures=measures, examples=20, **more)


def explained(run, splits, plan):
    return explain_run(run, plan, THREAT, splits=splits)


def test_what_was_measured_before_a_stop_is_kept(run, splits, calls):
    calls.stop = True
    with pytest.raises(KeyboardInterrupt):
        explained(run, splits, plan("count", "mean"))
    assert list(run.explanation["measures"]) == ["count"]
    calls.stop = False
    found = explained(run, splits, plan("count", "mean"))
    assert calls == [("count", 0), "mean", "mean"]
    assert list(found["measures"]) == ["count", "mean"]
    assert run.explanation == found
    assert len(run.array("explanation", "count/index")) == 20
    assert explained(run, splits, plan("count", "mean")) == found
    assert len(calls) == 3


def test_a_new_measure_or_option_costs_that_measure_alone(run, splits, calls):
    explained(run, splits, plan("mean"))
    explained(run, splits, plan("count", "mean"))
    found = explained(run, splits, plan("count", "mean", options={"count": {"of": 7}}))
    assert calls == ["mean", ("count", 0), ("count", 7)]
    assert list(found["measures"]) == ["count", "mean"]
    assert found["measures"]["count"]["value"] == {"of": 7}


def test_a_measure_that_a_plan_drops_is_dropped(run, splits, calls):
    explained(run, splits, plan("count", "mean"))
    found = explained(run, splits, plan("mean"))
    assert list(found["measures"]) == ["mean"]
    assert run.array_names("explanation") == []
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["examples", "seed", "threat", "weights"])
def test_other_images_threats_or_weights_are_measured_anew(change, run, splits, calls):
    explained(run, splits, plan("mean"))
    threat, wanted = THREAT, plan("mean")
    if change == "threat":
        threat = rl.ThreatModel("Linf", 0.04)
    elif change == "weights":
        other = rl.models.load(run.folder, checkpoint="best")
        with torch.no_grad():
            other.conv1.weight.add_(1.0)
        run.write_bytes("best.safetensors", rl.models.to_bytes(other, run.status["model"]))
    else:
        wanted = wanted.model_copy(update={change: 7})
    explain_run(run, wanted, threat, splits=splits)
    assert calls == ["mean", "mean"]


def test_both_checkpoints_are_evaluated_and_explained_side_by_side(run, splits, calls):
    evaluation = EvaluationPlan(
        attacks=("fgsm",), curve=(), test_examples=20, train_examples=20, checkpoint="both"
    )
    best = evaluate_run(run, evaluation, splits=splits)
    found = explained(run, splits, plan("mean", checkpoint="both"))
    for file, of_best in (("evaluation", best), ("explanation", found)):
        assert run.read_json(file)["weights"] == of_best["weights"]
        assert of_best["checkpoint"] == "best"
        last = run.read_json(f"{file}-last")
        assert last["checkpoint"] == "last"
        assert last["weights"] != of_best["weights"] or run.metrics()[-1]["best"]
    network = rl.models.load(run.folder, checkpoint="last")
    assert run.read_json("explanation-last")["measures"]["mean"]["value"]["mean"] == pytest.approx(
        float(network.conv1.weight.detach().mean())
    )
    assert len(calls) == 2
    explained(run, splits, plan("mean", checkpoint="both"))
    assert len(calls) == 2


def test_every_kept_epoch_is_evaluated_and_explained_once(tmp_path, splits, calls):
    optimizer = RECIPE.optimizer.model_copy(update={"epochs": 3})
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "keep_every": 1})
    run = rl.train(recipe, tmp_path / "run", splits=splits)
    evaluation = EvaluationPlan(
        attacks=("fgsm",), curve=(), test_examples=20, train_examples=20, checkpoint="every"
    )
    for _ in range(2):
        assert evaluate_run(run, evaluation, splits=splits)["checkpoint"] == "best"
        explained(run, splits, plan("mean", checkpoint="every"))
    assert calls == ["mean"] * 4  # the best, two kept epochs, and the last, which was kept too
    assert run.kept() == ["epoch-0001", "epoch-0002"]
    for name in ("evaluation", "explanation"):
        assert run.along(name) == {1: "-epoch-0001", 2: "-epoch-0002", 3: "-last"}
    for ending, checkpoint in (("", "best"), ("-epoch-0002", "epoch-0002"), ("-last", "last")):
        network = rl.models.load(run.folder, checkpoint=checkpoint)
        mean = float(network.conv1.weight.detach().mean())
        found = run.read_json(f"explanation{ending}")["measures"]["mean"]["value"]["mean"]
        assert found == pytest.approx(mean)
    # One of them can be asked for by name.
    evaluate_run(run, evaluation.model_copy(update={"checkpoint": "epoch-0002"}), splits=splits)
    assert run.evaluation["weights"] == run.read_json("evaluation-epoch-0002")["weights"]


def test_an_epoch_that_was_not_kept_is_refused_with_those_that_are_there(run, splits):
    wanted = EvaluationPlan(attacks=("fgsm",), curve=(), checkpoint="epoch-7")
    with pytest.raises(StateError, match=r"found no checkpoint epoch-0007, only best, last;"):
        evaluate_run(run, wanted, splits=splits)
    assert run.evaluation is None
    with pytest.raises(ConfigError, match="found 'first', expected best, last, both, every or epoch-NNNN"):
        plan("mean", checkpoint="first")


def test_results_of_another_plan_do_not_stay_beside_the_new_one(run, splits, calls):
    def evaluated(attack, checkpoint):
        wanted = EvaluationPlan(
            attacks=(attack,), curve=(), test_examples=20, train_examples=20, checkpoint=checkpoint
        )
        return evaluate_run(run, wanted, splits=splits)

    evaluated("fgsm", "both")
    explained(run, splits, plan("mean", checkpoint="both"))
    evaluated("fgsm", "best")  # the same plan but for the checkpoint: the last one's result still holds
    assert run.along("evaluation") == {2: "-last"}
    evaluated("pgd-2", "best")
    assert run.along("evaluation") == {}
    assert not (run.folder / "evaluation-last.safetensors").exists()
    explained(run, splits, plan("count"))
    assert run.along("explanation") == {}


def test_a_run_that_another_process_works_on_is_not_explained(run, splits, calls):
    with locked(run.folder), pytest.raises(LockedError):
        explained(run, splits, plan("mean"))
    assert calls == []
