"""The measures by name, and the explanation of a run: all of them on the same images."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from robustlens import models
from robustlens.config import ExplanationPlan
from robustlens.data import Splits
from robustlens.errors import ConfigError
from robustlens.evaluation import is_current, provenance
from robustlens.explain.activations import measure_activations
from robustlens.explain.bound.measure import measure_bound
from robustlens.explain.curvature import measure_curvature
from robustlens.explain.flatness import measure_flatness
from robustlens.explain.jacobian import measure_jacobian
from robustlens.explain.landscape import measure_landscape
from robustlens.explain.margins import measure_margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.smoothness import measure_smoothness
from robustlens.progress import Event, Listener, silent
from robustlens.results.folders import FORMAT, Run, locked
from robustlens.spectra import measure_spectrum
from robustlens.threat import ThreatModel
from robustlens.training.trainer import load_data

MEASURES: dict[str, Measure] = {
    "spectrum": measure_spectrum,
    "jacobian": measure_jacobian,
    "activations": measure_activations,
    "margins": measure_margins,
    "smoothness": measure_smoothness,
    "landscape": measure_landscape,
    "flatness": measure_flatness,
    "curvature": measure_curvature,
    "bound": measure_bound,
}
"""Every measure. To add one: write `(subject, **options) -> Measurement` and a line here."""

Measured = tuple[Measurement, float]
"""A measurement, and the seconds it took."""


def get(name: str, **options: Any) -> Callable[[Subject], Measurement]:
    """The measure `name` with its options.

    Raises:
        ConfigError: unknown measure, or an option that it does not have.
    """
    if name not in MEASURES:
        raise ConfigError(f"measures: found {name!r}, expected one of {', '.join(MEASURES)}")
    known = list(inspect.signature(MEASURES[name]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        expected = f"expected some of {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"explanation.options.{name}: unknown option {unknown[0]!r}; {expected}")
    return partial(MEASURES[name], **options)


def explain(
    model: nn.Module,
    splits: Splits,
    threat: ThreatModel,
    plan: ExplanationPlan | None = None,
    *,
    progress: Listener = silent,
) -> dict[str, Measured]:
    """Apply every measure of the plan; returns each measurement with the seconds it took.

    Raises:
        ConfigError: unknown measure, or an option that the measure does not have.
        ModelError: the model does not return logits (n, classes).
        NumericsError: a logit is NaN or infinite.
    """
    plan = plan or ExplanationPlan()
    return dict(_measured(model, splits, threat, plan, plan.measures, progress))


def explain_run(
    run: Run,
    plan: ExplanationPlan,
    threat: ThreatModel,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    progress: Listener = silent,
) -> dict[str, Any]:
    """Explain a run's checkpoint and save the result.

    Writes `explanation.json` and `explanation.safetensors` after every measure; returns the former. A measure
    that is there already, of the same weights, images and options, is kept: a run that was stopped goes on,
    and a measure added to a plan costs that measure alone. With the checkpoint "both" or
    "every", the others' are written beside it (`explanation-last`, `explanation-epoch-0010`), and those of
    another plan removed. `trust_code` as in `evaluate.evaluate_run`.

    Raises:
        LockedError: another process trains, evaluates or explains this run.
    """
    splits = splits or load_data(run.recipe)
    with locked(run.folder):
        for ending, one in reversed(plan.of_checkpoints(run.kept()).items()):
            content = _explain_into(run, f"explanation{ending}", one, threat, splits, trust_code, progress)
        run.drop_outdated("explanation")
    return content


def _explain_into(
    run: Run,
    file: str,
    plan: ExplanationPlan,
    threat: ThreatModel,
    splits: Splits,
    trust_code: bool,
    progress: Listener,
) -> dict[str, Any]:
    """What is left of an explanation, into `file`; returns all of it."""
    known = {**provenance(run, plan, splits), "threat": asdict(threat)}
    content, arrays = _kept(run, file, plan, known)
    left = [name for name in plan.measures if name not in content]
    if not left and is_current(saved := run.read_json(file), known):
        return saved
    model = models.load(run.folder, checkpoint=plan.checkpoint, trust_code=trust_code)
    for name, found in _measured(model, splits, threat, plan, left, progress):
        content |= as_json({name: found})["measures"]
        arrays |= arrays_of({name: found})
        ordered = {measure: content[measure] for measure in plan.measures if measure in content}
        run.write_result(file, {"format": FORMAT, **known, "measures": ordered}, arrays)
    if not left:  # a plan with fewer measures than before
        run.write_result(file, {"format": FORMAT, **known, "measures": content}, arrays)
    return run.read_json(file) or {}


def _kept(
    run: Run, file: str, plan: ExplanationPlan, known: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is saved already of the measures of this plan, and need not be measured again."""
    saved = run.read_json(file)
    if not is_current(saved, {key: value for key, value in known.items() if key != "plan"}):
        return {}, {}
    before = ExplanationPlan.model_validate(saved["plan"])
    if (before.examples, before.seed) != (plan.examples, plan.seed):
        return {}, {}
    same = [
        name
        for name in plan.measures
        if name in saved["measures"] and before.options.get(name) == plan.options.get(name)
    ]
    arrays = {key: run.array(file, key) for name in same for key in run.array_names(file, f"{name}/")}
    return {name: saved["measures"][name] for name in same}, arrays


def _measured(
    model: nn.Module,
    splits: Splits,
    threat: ThreatModel,
    plan: ExplanationPlan,
    measures: Sequence[str],
    progress: Listener,
) -> Iterator[tuple[str, Measured]]:
    """These measures of the plan, one after the other; raises as `explain` does."""
    train, test = (
        split.take(min(plan.examples, len(split)), plan.seed) for split in (splits.train, splits.test)
    )
    seen = len(splits.train)
    subject = Subject(model, train, test, threat, plan.seed, plan.batch_size, progress, seen)
    highest = max(int(part.labels.max()) for part in (train, test) if len(part))
    models.check_logits(model, subject.images("test", 2)[0], at_least=max(2, highest + 1))
    chosen = {name: get(name, **plan.options.get(name, {})) for name in measures}
    for number, (name, measure) in enumerate(chosen.items()):
        progress(Event("explain", number, len(chosen), name))
        began = perf_counter()
        yield name, (measure(subject), perf_counter() - began)
    progress(Event("explain", len(chosen), len(chosen)))


def as_json(found: Mapping[str, Measured]) -> dict[str, Any]:
    """The numbers of an explanation, as `explanation.json` keeps them."""
    return {
        "measures": {
            name: {"value": m.value, "unit": m.unit, "what": m.what, "source": m.source, "seconds": seconds}
            for name, (m, seconds) in found.items()
        }
    }


def arrays_of(found: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """The arrays of an explanation, as `explanation.safetensors` keeps them: "<measure>/<array>"."""
    return {f"{name}/{key}": array for name, (m, _) in found.items() for key, array in m.arrays.items()}
