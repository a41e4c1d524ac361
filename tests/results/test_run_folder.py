"""Run and study folders: typed documents in, typed documents out; nothing is changed by reading."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustlens.config import BEST, LAST, Checkpoint, EvaluationPlan, ExplanationPlan, Recipe, checked
from robustlens.errors import LockedError, StateError
from robustlens.results import (
    ClaimResult,
    ClaimValue,
    CurvePoint,
    EpochRecord,
    ErrorRecord,
    EvaluationResult,
    ExplanationResult,
    Flag,
    Measurement,
    MonitorRecord,
    Provenance,
    Run,
    RunEntry,
    RunRecord,
    SplitResult,
    StudyFolder,
    StudyRecord,
    ThreatRecord,
    array_files,
    files,
)
from robustlens.results.values import decode
from robustlens.stats.intervals import Interval

RATE = Interval(0.5, 0.4, 0.6)


def evaluation(
    plan: EvaluationPlan | None = None,
    weights: str = "w",
    checkpoint: Checkpoint = BEST,
    recipe: str = "hash",
) -> EvaluationResult:
    plan = plan or EvaluationPlan()
    arrays = {"clean": np.array([True, False]), "loss": np.array([0.5, np.inf])}
    split = SplitResult(
        n=2,
        clean=RATE,
        robust=Interval(0.0, 0.0, 0.6),
        loss=Interval(float("nan")),
        by_attack={"fgsm": RATE, "square": Interval(0.0)},
        attacked={"fgsm": 1, "square": 1},
        broken={"fgsm": 0, "square": 1},
        seconds={"fgsm": 0.1},
        curve=(CurvePoint(0.0, 0.5, 0.4, 0.6),),
        flags=(Flag("softmax", "seen", "if", "so", "do"),),
        notes=("9 targets",),
        arrays=arrays,
    )
    provenance = Provenance(recipe, weights, "data", checkpoint, plan.model_dump(mode="json"), "0")
    return EvaluationResult(
        provenance=provenance,
        threat=ThreatRecord("Linf", 0.1),
        attacks=("fgsm", "square"),
        suites={"standard": ("square",)},
        splits={"test": split},
        gaps={"robust": Interval(0.1, None, None)},
        seconds=2.0,
    )


def test_who_lost_the_folder_leaves_the_result_of_the_one_that_took_over(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write("evaluation", evaluation())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(path):
        raise LockedError(f"{path}: another process took over")

    monkeypatch.setattr(files, "check_lease", refuse)
    for change in (lambda: run.write("evaluation", evaluation()), run.files("evaluation").remove):
        with pytest.raises(LockedError):
            change()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_evaluation_comes_back_as_it_was_written(tmp_path):
    run, written = Run(tmp_path), evaluation()
    run.write("evaluation", written)
    read = run.evaluation()
    assert read is not None
    assert np.isnan(read.splits["test"].loss.value)
    assert read.splits["test"].by_attack == written.splits["test"].by_attack
    assert read.splits["test"].flags == written.splits["test"].flags
    assert (read.provenance, read.attacks, read.gaps) == (written.provenance, written.attacks, written.gaps)
    assert read.columns == {"fgsm": "fgsm", "standard": "square"}
    assert (read.after("standard"), read.after("pgd-20"), read.after("fgsm", "train")) == (
        Interval(0.0),
        None,
        None,
    )
    np.testing.assert_array_equal(read.splits["test"].arrays["loss"], [0.5, np.inf])


def test_an_explanation_comes_back_as_it_was_written(tmp_path):
    run = Run(tmp_path)
    measurement = Measurement(
        {"layers": {"a": {"std": 1.5, "count": 3}}, "none": None},
        "nats",
        "One.",
        "Us",
        {"eps": 0.1},
        2.0,
        {"a": np.arange(3)},
    )
    provenance = Provenance("hash", "w", "data", LAST, ExplanationPlan().model_dump(mode="json"), "0")
    run.write(
        "explanation", ExplanationResult(provenance, ThreatRecord("L2", 1.0), {"spectrum": measurement}), LAST
    )
    assert run.explanation() is None
    read = run.explanation(LAST)
    assert read is not None
    one = read.measures["spectrum"]
    assert (one.number("layers", "a", "std"), one.number("layers", "b", "std"), one.number("layers")) == (
        1.5,
        None,
        None,
    )
    assert (one.conditions, one.seconds, one.arrays["a"].tolist()) == ({"eps": 0.1}, 2.0, [0, 1, 2])


def test_results_are_compared_by_their_numbers_not_by_their_arrays():
    one = Measurement({"a": 1}, "", "", "", arrays={"a": np.arange(3)})
    assert one == replace(one, arrays={"a": np.arange(4)}) != replace(one, value={"a": 2})
    split = evaluation().splits["test"]
    split = replace(split, loss=RATE)
    assert split == replace(split, arrays={}) != replace(split, n=3)


def test_epochs_and_records_come_back(tmp_path):
    run = Run(tmp_path)
    assert (run.record.status, run.metrics(), run.exists) == ("new", [], False)
    after = MonitorRecord(10, 0.5, 0.25, 1.0, 0.75, "at w")
    for epoch in (1, 2, 3):
        run.append_metrics(EpochRecord(epoch, 0.1, 2.0, float("nan"), "at w", False, after, None, epoch == 2))
    run.update(status="failed", epochs_done=2, error=ErrorRecord("NumericsError", "the loss became NaN", 4))
    assert [record.best for record in run.metrics()] == [False, True, False]
    assert run.metrics()[0].train == after
    assert np.isnan(run.metrics()[0].loss)
    run.truncate_metrics(2)
    assert [record.epoch for record in run.metrics()] == [1, 2]
    assert run.record.error == ErrorRecord("NumericsError", "the loss became NaN", 4)


def test_a_half_written_last_epoch_is_passed_over_and_any_other_damage_is_not(tmp_path):
    run, path = Run(tmp_path), tmp_path / "metrics.jsonl"
    run.append_metrics(EpochRecord(1))
    run.append_metrics(EpochRecord(2))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"epo')
    assert [record.epoch for record in run.metrics()] == [1, 2]
    first, second, _ = whole.split(b"\n")
    for damaged in (
        first[:-5] + b"\n" + second + b"\n",
        second + b"\n",
        first.replace(b"1", b"7", 1) + b"\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"metrics\.jsonl"):
            run.metrics()
    path.write_bytes(
        whole[:-1]
    )  # the break of the last line is gone, although run.json says that it was saved
    run.update(epochs_done=2)
    with pytest.raises(StateError, match=r"metrics\.jsonl"):
        run.metrics()


def test_a_folder_belongs_to_one_recipe(tmp_path):
    run = Run(tmp_path / "run")
    run.check(Recipe())
    assert not run.folder.exists(), "checking must not create anything"
    run.bind(Recipe())
    run.bind(Recipe())
    with pytest.raises(StateError, match="seed: 0 -> 1"):
        run.bind(checked(Recipe, {"seed": 1}, "recipe"))
    assert run.recipe == Recipe()


@pytest.mark.parametrize("options", [{"batch_norm": 0}, {"batch_norm": False, "head": {}}])
def test_a_folder_is_left_as_it_is_by_a_recipe_with_nearly_the_same_options(tmp_path, options):
    """Values that Python calls equal make other recipes, and other networks."""
    run = Run(tmp_path)
    bound, other = (
        Recipe.model_validate({"model": {"options": each}}) for each in ({"batch_norm": False}, options)
    )
    run.bind(bound)
    run.update(status="training", epochs_done=3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StateError, match=r"belongs to another recipe \(model\.options\."):
        run.bind(other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run.bind(bound)
    assert run.record.epochs_done == 3


def test_a_recipe_of_another_version_is_one_line(tmp_path):
    files.write_json(tmp_path / "recipe.json", {"learning_rate": 1})
    with pytest.raises(StateError, match="learning_rate: unknown key") as caught:
        _ = Run(tmp_path).recipe
    assert caught.value.exit_code == 7


def test_wrong_types_are_one_line_with_file_and_field(tmp_path):
    files.write_json(tmp_path / "run.json", {"status": "done", "epochs_done": "many"})
    with pytest.raises(StateError, match=r"run\.json: epochs_done: found 'many'") as caught:
        _ = Run(tmp_path).record
    assert "\n" not in str(caught.value)


def test_of_several_wrong_fields_the_first_is_named_and_a_long_one_cut(tmp_path):
    files.write_json(tmp_path / "run.json", {"status": "x" * 200, "epochs_done": "many"})
    with pytest.raises(StateError) as caught:
        _ = Run(tmp_path).record
    assert "run.json: status: found '" + "x" * 79 + "'" not in str(caught.value)
    assert f"run.json: status: found {'x' * 80!r}, input should be" in str(caught.value)
    assert "epochs_done" not in str(caught.value)


def test_the_record_of_an_error_is_its_first_line_cut_to_500_characters():
    error = StateError("a" * 600 + "\nmore")
    assert ErrorRecord.of(error) == ErrorRecord("StateError", "a" * 500, 7)
    assert ErrorRecord.of(KeyError()) == ErrorRecord("KeyError", "", 1)


def test_what_a_document_does_not_say_has_its_default():
    measure = {"value": {"a": 1, "b": True, "c": "3"}, "unit": "", "what": "", "source": ""}
    one = decode(Measurement, measure, "explanation.json")
    assert (one.seconds, one.conditions, one.arrays) == (0.0, {}, {})
    assert (one.number("a"), one.number("b"), one.number("c"), one.at("c")) == (1.0, None, None, "3")
    assert np.isnan(decode(Measurement, {**measure, "seconds": None}, "explanation.json").seconds)
    assert decode(ThreatRecord, {"norm": "L2", "eps": 0.5}, "a").bounds == (0.0, 1.0)
    assert decode(ErrorRecord, {"type": "KeyError", "message": ""}, "a").exit_code == 1
    record = decode(RunRecord, {}, "run.json")
    assert (record.status, record.epochs_done, record.best_epoch, record.train_seconds) == ("new", 0, 0, 0.0)
    epoch = decode(EpochRecord, {"epoch": 1}, "metrics.jsonl")
    assert (epoch.perturbed, epoch.best, epoch.loss_measured, epoch.train) == (False, False, "", None)
    assert np.isnan([epoch.lr, epoch.seconds, epoch.loss, epoch.cpu_seconds]).all()


def test_a_result_is_there_only_with_its_arrays(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write("evaluation", evaluation())

    def killed(path, document, kind):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write("evaluation", evaluation())
    assert run.evaluation() is None


def test_a_reader_writes_nothing(tmp_path):
    run = Run(tmp_path / "run", read_only=True)
    run.bind(Recipe())
    run.append_metrics(EpochRecord(1))
    run.write_bytes("state.safetensors", b"x")
    run.write("evaluation", evaluation())
    assert not run.folder.exists()


def test_a_writer_removes_and_cuts_what_a_reader_leaves(tmp_path):
    run, reader = Run(tmp_path), Run(tmp_path, read_only=True)
    run.write_bytes("state.safetensors", b"x", previous="state.previous.safetensors")
    run.append_metrics(EpochRecord(1))
    run.append_metrics(EpochRecord(2))
    run.write("evaluation", evaluation(EvaluationPlan(restarts=2), checkpoint=LAST), LAST)
    run.write("evaluation", evaluation())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    reader.remove("state.safetensors")
    reader.truncate_metrics(1)
    reader.remove_stale("evaluation")
    reader.write_weights(BEST, b"y")
    reader.update(epochs_done=7)
    assert reader.write_arrays("a", {"x": np.zeros(1)}) == ""
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run.remove("state.safetensors")
    run.remove("state.safetensors")  # where there is none
    run.truncate_metrics(1)
    run.remove_stale("evaluation")
    run.write_weights(BEST, b"y")
    left = {path.name for path in before} - {path.name for path in tmp_path.iterdir()}
    assert left == {"state.safetensors", "evaluation-last.json", "evaluation-last.safetensors"}
    assert [record.epoch for record in run.metrics()] == [1]
    assert (tmp_path / "best.safetensors").read_bytes() == b"y"


@pytest.fixture
def trained(tmp_path) -> Run:
    """A run with two kept epochs, of which the second is the last, and the weights of best and last."""
    run = Run(tmp_path / "run")
    run.bind(Recipe())
    for checkpoint in (BEST, LAST, Checkpoint("epoch", 1), Checkpoint("epoch", 2)):
        array_files.write_arrays(
            run.folder / f"{checkpoint}.safetensors", {"w": np.full(3, len(str(checkpoint)))}
        )
    run.update(status="trained", epochs_done=2, data="images")
    return run


def test_checkpoints_are_named_by_those_that_are_there(trained):
    assert trained.kept_checkpoints() == [Checkpoint("epoch", 1)]
    with pytest.raises(StateError, match="found no checkpoint epoch-0007, only best, last, epoch-0001"):
        trained.weights_path(Checkpoint("epoch", 7))


def test_a_result_is_current_where_nothing_that_it_came_from_has_changed(trained):
    plan = EvaluationPlan(checkpoint="every")
    for beside, checkpoint in ((None, BEST), (LAST, LAST), (Checkpoint("epoch", 1), Checkpoint("epoch", 1))):
        assert not trained.is_current("evaluation", plan)
        one = evaluation(plan.at(checkpoint))
        expected = trained.expected(plan.at(checkpoint))
        trained.write(
            "evaluation", EvaluationResult(expected, one.threat, one.attacks, one.splits, one.gaps), beside
        )
    assert trained.is_current("evaluation", plan)
    assert list(trained.other_checkpoints("evaluation").items()) == [(1, Checkpoint("epoch", 1)), (2, LAST)]
    assert not trained.is_current("evaluation", EvaluationPlan(checkpoint="every", restarts=2))
    array_files.write_arrays(trained.folder / "last.safetensors", {"w": np.zeros(3)})
    assert not trained.is_current("evaluation", plan), "other weights"
    assert trained.is_current("evaluation", EvaluationPlan(checkpoint="best")), "the best is as it was"


def test_an_explanation_that_was_stopped_is_not_current(trained):
    plan = ExplanationPlan(measures=("margins", "spectrum"))
    one = Measurement({}, "", "", "")
    for names, whole in ((("margins",), False), (("margins", "spectrum"), True)):
        measures = dict.fromkeys(names, one)
        result = ExplanationResult(trained.expected(plan), ThreatRecord("Linf", 0.1), measures)
        trained.write("explanation", result)
        assert trained.is_current("explanation", plan) == whole


def test_a_result_of_another_version_is_current_and_one_of_other_images_is_not(trained):
    plan = EvaluationPlan()
    expected = trained.expected(plan)
    assert expected.matches(
        Provenance(
            *[getattr(expected, name) for name in ("recipe", "weights", "data", "checkpoint", "plan")], "9.9"
        )
    )
    trained.update(data="others")
    assert expected.difference(trained.expected(plan)) == "data"


def test_stale_results_beside_the_primary_one_are_removed(trained):
    for beside, restarts in ((None, 2), (LAST, 1), (Checkpoint("epoch", 1), 2)):
        plan, own = EvaluationPlan(restarts=restarts), trained.recipe.hash()
        trained.write("evaluation", evaluation(plan, checkpoint=beside or BEST, recipe=own), beside)
    trained.remove_stale("evaluation")
    assert list(trained.other_checkpoints("evaluation").values()) == [Checkpoint("epoch", 1)]
    assert not (trained.folder / "evaluation-last.safetensors").exists()


def test_a_study_folder_lists_its_runs(tmp_path):
    study = StudyFolder(tmp_path)
    with pytest.raises(StateError, match=r"study\.json"):
        study.runs()
    study.write_record(StudyRecord("s", runs=(RunEntry("a", "runs/a", "A", perturbation="awp"),)))
    (run,) = study.runs()
    assert run.folder == tmp_path / "runs" / "a"
    assert run.entry is not None
    assert (run.entry.label, run.entry.perturbation) == ("A", "awp")
    assert (run.record.status, run.evaluation(), study.claims) == ("new", None, ())
    claim = ClaimResult("c", "p", "s", "q", values=(ClaimValue("A", 0.1, 0, float("nan")),))
    study.write_claims((claim,))
    assert study.claims[0].id == "c"
    assert np.isnan(study.claims[0].values[0].value)


def test_reading_creates_nothing(tmp_path):
    run = Run(tmp_path / "nowhere")
    assert run.evaluation() is None
    assert run.kept_checkpoints() == []
    assert not Path(run.folder).exists()


def test_the_folder_of_the_data_is_remembered_unless_another_is_named(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    run = Run(tmp_path / "run")
    run.bind(Recipe())
    assert run.data_spec.data_dir is None
    run.update(data_dir=str(tmp_path / "files"))
    assert run.data_spec.data_dir == str(tmp_path / "files")
    monkeypatch.setenv("ROBUSTLENS_DATA", "elsewhere")
    assert run.data_spec.data_dir is None, "the environment counts, where the data room looks for it"
    monkeypatch.delenv("ROBUSTLENS_DATA")
    run.update(data_dir=str(tmp_path / "moved away"))
    assert run.data_spec.data_dir is None


def test_the_last_checkpoint_goes_over_the_epoch_that_it_is(trained):
    for beside in (LAST, Checkpoint("epoch", 2), Checkpoint("epoch", 1)):
        own = trained.recipe.hash()
        trained.write("evaluation", evaluation(checkpoint=beside, recipe=own), beside)
    assert list(trained.other_checkpoints("evaluation").items()) == [(1, Checkpoint("epoch", 1)), (2, LAST)]


def test_the_scope_of_a_claim_is_that_of_its_verdict():
    with pytest.raises(ValueError, match="verdict 'supported' is decided, found 'described'"):
        ClaimResult("c", "p", "s", "q", "supported", seeds=3, scope="described")
    with pytest.raises(ValueError, match="verdict 'untested' is of no scope, found 'decided'"):
        ClaimResult("c", "p", "s", "q", "untested", scope="decided")
    for verdict in ("supported", "not supported"):
        assert ClaimResult("c", "p", "s", "q", verdict, seeds=4).scope == "decided"
        with pytest.raises(ValueError, match=f"'{verdict}' takes 3 seeds, found 2"):
            ClaimResult("c", "p", "s", "q", verdict, seeds=2)
    decided, described, untested = (
        ClaimResult("c", "p", "s", "q", verdict, seeds=3)
        for verdict in ("supported", "as claimed", "untested")
    )
    assert [one.scope for one in (decided, described, untested)] == ["decided", "described", None]
    assert [one.wording for one in (decided, described, untested)] == [
        "supported", "described: as claimed", "untested",
    ]  # fmt: skip


def test_more_epochs_than_the_record_are_what_a_kill_left_until_training_is_over(tmp_path):
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics(EpochRecord(epoch))
    for status, done, whole in (("training", 2, True), ("training", 3, True), ("trained", 3, True),
                                ("trained", 2, False), ("done", 2, False), ("training", 4, False)):  # fmt: skip
        run.update(status=status, epochs_done=done)
        if whole:
            assert [record.epoch for record in run.metrics()] == [1, 2, 3]
        else:
            with pytest.raises(StateError, match=f"found 3 whole lines, expected {done} as in run.json"):
                run.metrics()


def test_a_run_that_was_killed_between_its_two_first_files_is_bound_all_the_same(tmp_path):
    recipe, run = Recipe(), Run(tmp_path)
    run.bind(recipe)
    expected = run.record
    (tmp_path / "run.json").unlink()
    run.bind(recipe)
    assert run.record == expected
    assert run.record.recipe_hash == recipe.hash()
