"""Explanations: all measures of a plan on the same images, of any network or of a run's checkpoints."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

from torch import nn

from robustlens import data, machine, models
from robustlens.config import Checkpoint, ExplanationPlan
from robustlens.data import Splits
from robustlens.explain.measure import Measurement, Subject
from robustlens.explain.registry import MEASURES, get
from robustlens.explain.saved import at_plan, saved_measures, write_measures
from robustlens.machine import float32_products, kept_memory, repeatable
from robustlens.progress import Event, Listener, of_part, silent
from robustlens.results import ExplanationResult, Provenance, Run
from robustlens.results.locks import locked
from robustlens.threat import ThreatModel


def explain(
    model: nn.Module, splits: Splits, plan: ExplanationPlan | None = None, *, progress: Listener = silent
) -> dict[str, Measurement]:
    """Apply every measure of the plan.

    Raises:
        ConfigError: unknown measure, or an option that the measure does not have.
        ModelError: the model does not return logits (n, classes).
        NumericsError: a logit is NaN or infinite.
    """
    plan = plan or ExplanationPlan()
    return dict(measured(model, splits, plan, plan.measures, progress))


def explain_run(
    run: Run,
    plan: ExplanationPlan,
    *,
    splits: Splits | None = None,
    without: Collection[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    progress: Listener = silent,
) -> ExplanationResult:
    """Explain the checkpoints of a run that the plan asks for, and save the results.

    Files are written after every measure. A measure that is there already, of the same weights, images,
    threat and options, is kept: a run that was stopped goes on, and a measure added to a plan costs that
    measure alone. What `measure_part_of_run` has left in the folder is taken in. Other checkpoints than the
    primary one have their results beside its, and those of another plan are removed.

    Args:
        run: a trained run.
        plan: what is measured, and of which checkpoints.
        splits: the run's images, if they are loaded already.
        without: measures of the plan, not all of them, that are left to a later call; until then the
            explanation is not complete.
        trust_code: allow a network that its recipe names as "package.module:factory" to be imported.
        device: "auto" (CUDA where there is a device), "cpu", "cuda" or "cuda:1".
        progress: hears which measure is next, and how far it is. The phases of other checkpoints begin with
            their name.

    Returns:
        The explanation of the primary checkpoint.

    Raises:
        ResourceError: there is no such device.
        LockedError: another process trains, evaluates or explains this run.
        StateError: the images are not those that the run was trained on; a file of the run is damaged.
    """
    on = machine.device(device)

    def network(checkpoint: str) -> nn.Module:
        return models.load(run.folder, checkpoint=checkpoint, trust_code=trust_code).to(on)

    with locked(run.folder):
        splits = data.of_run(run, splits, trust_code=trust_code)
        for other, one in run.missing("explanation", plan):
            _explain_into(
                run,
                other,
                run.expected(one),
                one,
                partial(network, one.checkpoint),
                splits,
                progress,
                without,
            )
        run.remove_stale("explanation")
    result = run.explanation()
    assert result is not None
    return result


def explain_model(
    model: nn.Module, splits: Splits, plan: ExplanationPlan, folder: Path, *, progress: Listener = silent
) -> ExplanationResult:
    """Explain any network, and save the result in `folder` as `explain_run` does in a run's.

    Raises:
        LockedError: another process writes to the folder.
        StateError: the folder is that of a run, or holds the explanation of another network or other images.
    """
    run = Run(folder)
    run.files("explanation").check_no_run()  # before the lock leaves a file
    with locked(folder):
        expected = expected_of_model(run, model, splits, plan)
        return _explain_into(run, None, expected, plan, lambda: model, splits, progress)


def _explain_into(
    run: Run,
    other: Checkpoint | None,
    expected: Provenance,
    plan: ExplanationPlan,
    network: Callable[[], nn.Module],
    splits: Splits,
    progress: Listener,
    without: Collection[str] = (),
) -> ExplanationResult:
    """Measure what one explanation still lacks, and write it after every measure."""
    measures = saved_measures(run, expected, other)
    missing = [name for name in plan.measures if name not in (*measures, *without)]
    if not missing:  # of another plan, which had more measures, or all measured in parts
        return write_measures(run, expected, measures, other)
    listen, there = of_part(progress, other), len(measures)
    for name, measurement in measured(network(), splits, plan, missing, listen, there):
        measures[name] = measurement
        result = write_measures(run, expected, measures, other)
    return result


def expected_of_model(run: Run, model: nn.Module, splits: Splits, plan: ExplanationPlan) -> Provenance:
    """Provenance that the explanation of a network in a folder will have.

    Raises:
        StateError: the folder is that of a run, or holds the explanation of another network or other images.
    """
    run.files("explanation").check_no_run()
    expected = Provenance.of_model(models.fingerprint(model), splits.fingerprint, plan)
    saved = run.explanation()
    if saved is not None:
        run.files("explanation").check_source(saved.provenance, at_plan(expected, saved))
    return expected


def measured(
    model: nn.Module,
    splits: Splits,
    plan: ExplanationPlan,
    measures: Sequence[str],
    progress: Listener,
    there: int = 0,
) -> Iterator[tuple[str, Measurement]]:
    """These measures of the plan, by name, one after the other; raises as `explain` does.

    Events count `there` measures, those on disk, as done: a run that goes on gets further than it was.
    """
    chosen = {name: get(name, **plan.options.get(name, {})) for name in measures}
    train, test = (
        split.take(min(plan.examples, len(split)), plan.seed) for split in (splits.train, splits.test)
    )
    threat, seen = ThreatModel.of(plan.threat), len(splits.train)
    subject = Subject(model, train, test, threat, plan.seed, plan.batch_size, progress, seen, splits.classes)
    highest = max(int(part.labels.max()) for part in (train, test) if len(part))
    models.check_logits(model, subject.images("test", 2)[0], at_least=max(2, highest + 1))
    total = there + len(chosen)
    for number, (name, measure) in enumerate(chosen.items(), start=there):
        progress(Event("explain", number, total, name))
        began = perf_counter()
        with float32_products(), repeatable(models.device_of(model)), kept_memory():
            measurement = measure(subject) if name in MEASURES else MEASURES.call(name, measure, subject)
        yield name, replace(measurement, seconds=perf_counter() - began)
    progress(Event("explain", total, total))
