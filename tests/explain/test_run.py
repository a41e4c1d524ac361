"""Explanations of runs and of networks: what is kept, what is measured anew, and all checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import Field

import robustlens as rl
from robustlens.config import BEST, LAST, Checkpoint, ExplanationPlan, Recipe
from robustlens.data import Splits, from_tensors
from robustlens.errors import ConfigError, LockedError, ModelError, StateError
from robustlens.explain import MEASURES, Measurement, Subject, explain, explain_model, explain_run
from robustlens.progress import Event
from robustlens.results import ExplanationResult, Run
from robustlens.results.locks import locked

THREAT = {"norm": "Linf", "eps": 0.03}
RECIPE = Recipe.model_validate(
    {
        "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}},
        "objective": "standard",
        "data": {"name": "arrays", "augment": "none"},
        "keep_every": 1,
    }
)
DESCRIPTION = {"name": "small-cnn", "options": {"width": 4, "hidden": 8}, "num_classes": 3, "in_channels": 1}


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8).eval()


def mean_of(seed: int) -> float:
    """Value of the measure "mean" for that network."""
    return float(network(seed).get_parameter("conv1.weight").detach().mean())


def made_splits(seed: int = 0) -> Splits:
    generator = torch.Generator().manual_seed(seed)
    train, test = (torch.rand(n, 1, 8, 8, generator=generator) for n in (96, 32))
    labels = [torch.arange(len(x)) % 3 for x in (train, test)]
    return from_tensors(
        (train * 255).to(torch.uint8), labels[0], (test * 255).to(torch.uint8), labels[1], name="arrays"
    )


@pytest.fixture(scope="module")
def splits() -> Splits:
    return made_splits()


@pytest.fixture
def run(tmp_path: Path, splits: Splits) -> Run:
    """The folder of a run that was trained for three epochs, without the training."""
    run = Run(tmp_path / "run")
    run.bind(RECIPE)
    checkpoints = [BEST, LAST, *(Checkpoint("epoch", epoch) for epoch in (1, 2, 3))]
    for seed, checkpoint in enumerate(checkpoints):
        run.write_weights(checkpoint, rl.models.to_bytes(network(seed), DESCRIPTION, RECIPE.hash()))
    run.update(status="trained", data=splits.fingerprint, model=DESCRIPTION, epochs_done=3, best_epoch=1)
    return run


class Calls(list[object]):
    """Which measures were called, with which option; "mean" stops as Ctrl-C does while `stop` is set."""

    stop = False

    def counted(self, subject: Subject, *, of: Annotated[int, Field(ge=0)] = 0) -> Measurement:
        self.append(("count", of))
        arrays = {"index": subject.index("test")}
        return Measurement({"of": of}, "1", "what", "source", {"of": of}, arrays=arrays)

    def mean(self, subject: Subject) -> Measurement:
        self.append("mean")
        if self.stop:
            raise KeyboardInterrupt
        mean = float(subject.model.get_parameter("conv1.weight").detach().mean())
        return Measurement({"mean": mean}, "1", "what", "source")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setitem(MEASURES, "count", calls.counted)
    monkeypatch.setitem(MEASURES, "mean", calls.mean)
    return calls


def plan(*measures: str, **more: object) -> ExplanationPlan:
    return ExplanationPlan.model_validate({"measures": measures, "examples": 20, "threat": THREAT, **more})


def read(run: Run, beside: Checkpoint | None = None) -> ExplanationResult:
    result = run.explanation(beside)
    assert result is not None
    return result


# -- runs ----------------------------------------------------------------------------------------------


def test_the_result_is_typed_and_says_what_it_was_computed_from(run: Run, splits: Splits) -> None:
    wanted = plan("margins", "smoothness", options={"smoothness": {"steps": 1}})
    result = explain_run(run, wanted, splits=splits)
    assert result == read(run)
    assert result.is_complete
    assert result.provenance == run.expected(wanted)
    assert (result.threat.norm, result.threat.eps) == ("Linf", 0.03)
    smoothness = result.measures["smoothness"]
    assert smoothness.conditions == {"split": "test", "examples": 20, "eps": 0.03, "steps": 1}
    assert smoothness.seconds > 0
    assert smoothness.number("layers", "logits", "attack") is not None
    assert smoothness.arrays["margin_change"].shape == (20,)
    assert run.is_current("explanation", wanted)


def test_what_was_measured_before_a_stop_is_kept(run: Run, splits: Splits, calls: Calls) -> None:
    wanted = plan("count", "mean")
    calls.stop = True
    with pytest.raises(KeyboardInterrupt):
        explain_run(run, wanted, splits=splits)
    assert list(read(run).measures) == ["count"]
    assert not run.is_current("explanation", wanted)  # its plan has a measure that is not there
    calls.stop = False
    result = explain_run(run, wanted, splits=splits)
    assert calls == [("count", 0), "mean", "mean"]
    assert list(result.measures) == ["count", "mean"]
    assert read(run) == result
    assert len(result.measures["count"].arrays["index"]) == 20
    assert run.is_current("explanation", wanted)
    assert explain_run(run, wanted, splits=splits) == result
    assert len(calls) == 3


def test_a_new_measure_or_option_costs_that_measure_alone(run: Run, splits: Splits, calls: Calls) -> None:
    explain_run(run, plan("mean"), splits=splits)
    explain_run(run, plan("count", "mean"), splits=splits)
    result = explain_run(run, plan("count", "mean", options={"count": {"of": 7}}), splits=splits)
    assert calls == ["mean", ("count", 0), ("count", 7)]
    assert list(result.measures) == ["count", "mean"]
    assert result.measures["count"].value == {"of": 7}
    result = explain_run(run, plan("count", "mean"), splits=splits)
    assert calls[3:] == [("count", 0)]
    assert result.measures["count"].value == {"of": 0}


def test_arrays_of_kept_measures_outlive_their_file(run: Run, splits: Splits, calls: Calls) -> None:
    """They lie in the file that is replaced after every further measure."""
    first = explain_run(run, plan("count"), splits=splits).measures["count"].arrays["index"]
    result = explain_run(run, plan("count", "mean", "activations"), splits=splits)
    np.testing.assert_array_equal(result.measures["count"].arrays["index"], first)
    assert calls == [("count", 0), "mean"]


def test_a_measure_that_a_plan_drops_is_dropped(run: Run, splits: Splits, calls: Calls) -> None:
    explain_run(run, plan("count", "mean"), splits=splits)
    result = explain_run(run, plan("mean"), splits=splits)
    assert list(result.measures) == ["mean"]
    assert list(run.files("explanation").arrays()) == []
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["examples", "seed", "threat", "weights"])
def test_other_images_threats_or_weights_are_measured_anew(
    change: str, run: Run, splits: Splits, calls: Calls
) -> None:
    explain_run(run, plan("mean"), splits=splits)
    changes: dict[str, object] = {"examples": 7, "seed": 7, "threat": {"norm": "Linf", "eps": 0.04}}
    if change == "weights":
        run.write_weights(BEST, rl.models.to_bytes(network(9), DESCRIPTION, RECIPE.hash()))
        explain_run(run, plan("mean"), splits=splits)
        assert read(run).measures["mean"].value["mean"] == pytest.approx(mean_of(9))
    else:
        explain_run(run, plan("mean", **{change: changes[change]}), splits=splits)
    assert calls == ["mean", "mean"]


def test_a_result_of_another_version_is_current(run: Run, splits: Splits, calls: Calls) -> None:
    result = explain_run(run, plan("mean"), splits=splits)
    run.write("explanation", replace(result, provenance=replace(result.provenance, version="0.0.1")))
    explain_run(run, plan("mean"), splits=splits)
    explain_run(run, plan("mean", "count"), splits=splits)
    assert calls == ["mean", ("count", 0)]


def test_other_images_than_those_of_the_run_are_refused(run: Run, splits: Splits, calls: Calls) -> None:
    explain_run(run, plan("mean"), splits=splits)
    for wanted in (plan("mean"), plan("count")):  # one that is there already, and one that is not
        with pytest.raises(StateError, match=r"run\.json: .*images") as error:
            explain_run(run, wanted, splits=made_splits(seed=1))
        assert error.value.exit_code == 7
    assert calls == ["mean"]


def test_a_current_explanation_is_one_of_the_images_that_are_there_now(
    run: Run, splits: Splits, calls: Calls
) -> None:
    result = explain_run(run, plan("mean"), splits=splits)
    assert explain_run(run, plan("mean"), splits=splits) == result
    other = replace(splits, test=replace(splits.test, labels=splits.test.labels.flip(0)))
    with pytest.raises(StateError, match="belongs to other images"):
        explain_run(run, plan("mean"), splits=other)
    with pytest.raises(ConfigError, match="arrays"):  # which is no data set that could be loaded
        explain_run(run, plan("mean"))
    assert calls == ["mean"]


def test_a_damaged_explanation_is_refused(run: Run, splits: Splits, calls: Calls) -> None:
    explain_run(run, plan("count"), splits=splits)
    path = run.folder / "explanation.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"explanation\.safetensors: damaged"):
        explain_run(run, plan("count", "mean"), splits=splits)


def test_both_checkpoints_are_explained_side_by_side(run: Run, splits: Splits, calls: Calls) -> None:
    result = explain_run(run, plan("mean", checkpoint="both"), splits=splits)
    assert result == read(run)
    for beside, checkpoint, seed in ((None, BEST, 0), (LAST, LAST, 1)):
        found = read(run, beside)
        assert found.provenance.checkpoint == checkpoint
        assert found.provenance.weights == run.weights_seal(checkpoint)
        assert found.measures["mean"].value["mean"] == pytest.approx(mean_of(seed))
    explain_run(run, plan("mean", checkpoint="both"), splits=splits)
    assert len(calls) == 2


def test_every_kept_epoch_is_explained_once(run: Run, splits: Splits, calls: Calls) -> None:
    for _ in range(2):
        result = explain_run(run, plan("mean", checkpoint="every"), splits=splits)
        assert result.provenance.checkpoint == BEST
    assert calls == ["mean"] * 4  # the best, two kept epochs, and the last, which was kept too
    first, second = (Checkpoint("epoch", epoch) for epoch in (1, 2))
    assert run.other_checkpoints("explanation") == {1: first, 2: second, 3: LAST}
    for beside, seed in ((None, 0), (first, 2), (second, 3), (LAST, 1)):
        assert read(run, beside).measures["mean"].value["mean"] == pytest.approx(mean_of(seed))


def test_the_primary_checkpoint_comes_last_so_that_its_result_stands_for_all(
    run: Run, splits: Splits, calls: Calls
) -> None:
    wanted = plan("mean", checkpoint="every")

    def stop(event: Event) -> None:
        calls.stop = len(calls) == 3

    with pytest.raises(KeyboardInterrupt):
        explain_run(run, wanted, splits=splits, progress=stop)
    assert run.explanation() is None
    assert len(run.other_checkpoints("explanation")) == 3
    assert not run.is_current("explanation", wanted)


def test_events_count_what_is_on_disk_and_name_other_checkpoints(
    run: Run, splits: Splits, calls: Calls
) -> None:
    wanted, events = plan("count", "mean", "margins", checkpoint="both"), list[Event]()
    calls.stop = True
    with pytest.raises(KeyboardInterrupt):
        explain_run(run, wanted, splits=splits, progress=events.append)
    calls.stop = False
    explain_run(run, wanted, splits=splits, without=["margins"], progress=events.append)
    explain_run(run, wanted, splits=splits, progress=events.append)
    assert [f"{event.phase} {event.done}/{event.total}" for event in events] == [
        *("last explain 0/3", "last explain 1/3"),
        *("last explain 1/2", "last explain 2/2", "explain 0/2", "explain 1/2", "explain 2/2"),
        *("last explain 2/3", "last explain 3/3", "explain 2/3", "explain 3/3"),
    ]


def test_an_epoch_that_was_not_kept_is_refused_with_those_that_are_there(run: Run, splits: Splits) -> None:
    with pytest.raises(StateError, match="found no checkpoint epoch-0007, only best, last, epoch-0001"):
        explain_run(run, plan("margins", checkpoint="epoch-7"), splits=splits)
    assert run.explanation() is None
    with pytest.raises(ConfigError, match="found 'first', expected best, last, both, every or epoch-NNNN"):
        plan("margins", checkpoint="first")


def test_results_of_another_plan_do_not_stay_beside_the_new_one(
    run: Run, splits: Splits, calls: Calls
) -> None:
    explain_run(run, plan("mean", checkpoint="both"), splits=splits)
    explain_run(run, plan("mean"), splits=splits)  # the same but for the checkpoint: the last one's holds
    assert run.other_checkpoints("explanation") == {3: LAST}
    explain_run(run, plan("count"), splits=splits)
    assert run.other_checkpoints("explanation") == {}
    assert not (run.folder / "explanation-last.safetensors").exists()


def test_a_run_that_another_process_works_on_is_not_explained(run: Run, splits: Splits, calls: Calls) -> None:
    with locked(run.folder), pytest.raises(LockedError):
        explain_run(run, plan("mean"), splits=splits)
    assert calls == []


# -- any network ---------------------------------------------------------------------------------------


def test_a_network_without_a_run_is_measured(splits: Splits, calls: Calls) -> None:
    measures = explain(network(0), splits, plan("mean", "count", options={"count": {"of": 2}}))
    assert list(measures) == ["mean", "count"]
    assert measures["count"].value == {"of": 2}
    assert len(measures["count"].arrays["index"]) == 20
    assert all(measurement.seconds > 0 for measurement in measures.values())


def test_wrong_options_and_networks_are_refused_before_anything_is_measured(
    splits: Splits, calls: Calls
) -> None:
    with pytest.raises(ConfigError, match=r"options\.count\.of: found -1"):
        explain(network(0), splits, plan("mean", "count", options={"count": {"of": -1}}))
    with pytest.raises(ModelError, match="returned 2 logits"):
        explain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), splits, plan("mean"))
    assert calls == []


def test_an_explanation_of_another_network_does_not_become_that_of_a_run(run: Run, splits: Splits) -> None:
    before = sorted(run.folder.iterdir())
    with pytest.raises(StateError, match=r"recipe.json: belongs to a run, .*; choose another --out"):
        explain_model(network(0), splits, plan("mean"), run.folder)
    assert sorted(run.folder.iterdir()) == before


def test_a_network_is_explained_into_a_folder_which_then_belongs_to_it(
    tmp_path: Path, splits: Splits, calls: Calls
) -> None:
    result = explain_model(network(0), splits, plan("mean"), tmp_path)
    assert result == read(Run(tmp_path))
    assert result.provenance.recipe is None
    explain_model(network(0), splits, plan("mean", "count"), tmp_path)
    assert calls == ["mean", ("count", 0)]
    with pytest.raises(
        StateError, match=r"explanation\.json: belongs to another model; choose another --out"
    ):
        explain_model(network(1), splits, plan("mean"), tmp_path)
    with pytest.raises(StateError, match=r"explanation\.json: belongs to another data"):
        explain_model(network(0), made_splits(seed=1), plan("mean"), tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", r"measure 'own_measures:fails': failed \(ZeroDivisionError"),
        ("nothing", "measure 'own_measures:nothing': gives a NoneType, expected a Measurement"),
    ],
)
def test_a_measure_from_outside_that_gives_none_is_one_line(tmp_path, monkeypatch, name, said):
    code = "def fails(subject):\n    1 / 0\ndef nothing(subject):\n    pass\n"
    (tmp_path / "own_measures.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    plan = ExplanationPlan(measures=(f"own_measures:{name}",))
    with pytest.raises(ConfigError, match=said):
        explain(network(0), from_tensors(x, y, x, y, validation=0), plan)
