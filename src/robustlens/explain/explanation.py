"""The measures by name, and the explanation of a run: all of them on the same images."""

import inspect
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from robustlens import models
from robustlens.data import Splits
from robustlens.errors import ConfigError
from robustlens.evaluate import is_current, provenance
from robustlens.explain.activations import measure_activations
from robustlens.explain.jacobian import measure_jacobian
from robustlens.explain.landscape import measure_landscape
from robustlens.explain.margins import measure_margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.smoothness import measure_smoothness
from robustlens.explain.spectrum import measure_spectrum
from robustlens.progress import Event, Listener, silent
from robustlens.recipe import ExplanationPlan
from robustlens.runs import FORMAT, Run
from robustlens.threat import ThreatModel
from robustlens.train import load_data

MEASURES: dict[str, Measure] = {
    "spectrum": measure_spectrum,
    "jacobian": measure_jacobian,
    "activations": measure_activations,
    "margins": measure_margins,
    "smoothness": measure_smoothness,
    "landscape": measure_landscape,
}
"""Every measure. To add one: write `(subject, **options) -> Measurement` and a line here."""


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
) -> dict[str, tuple[Measurement, float]]:
    """Apply every measure of the plan; returns each measurement with the seconds it took.

    Raises:
        ConfigError: unknown measure, or an option that the measure does not have.
        ModelError: the model does not return logits (n, classes).
        NumericsError: a logit is NaN or infinite.
    """
    plan = plan or ExplanationPlan()
    train, test = (
        split.take(min(plan.examples, len(split)), plan.seed) for split in (splits.train, splits.test)
    )
    subject = Subject(model, train, test, threat, plan.seed, plan.batch_size, progress)
    highest = max(int(part.labels.max()) for part in (train, test) if len(part))
    models.check_logits(model, subject.images("test", 2)[0], at_least=max(2, highest + 1))
    chosen = {name: get(name, **plan.options.get(name, {})) for name in plan.measures}
    found = {}
    for number, (name, measure) in enumerate(chosen.items()):
        progress(Event("explain", number, len(chosen), name))
        began = perf_counter()
        found[name] = (measure(subject), perf_counter() - began)
    progress(Event("explain", len(chosen), len(chosen)))
    return found


def explain_run(
    run: Run,
    plan: ExplanationPlan,
    threat: ThreatModel,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    progress: Listener = silent,
) -> dict[str, Any]:
    """Explain a run's checkpoint and save the result; one that is current already is returned as it is.

    Writes `explanation.json` and `explanation.safetensors`; returns the former. `trust_code` as in
    `evaluate.evaluate_run`.
    """
    splits = splits or load_data(run.recipe)
    known = {**provenance(run, plan, splits), "threat": asdict(threat)}
    saved = run.explanation
    if is_current(saved, known):
        return saved
    model = models.load(run.folder, checkpoint=plan.checkpoint, trust_code=trust_code)
    found = explain(model, splits, threat, plan, progress=progress)
    content = {"format": FORMAT, **known, **as_json(found)}
    run.write_result("explanation", content, arrays_of(found))
    return content


def as_json(found: dict[str, tuple[Measurement, float]]) -> dict[str, Any]:
    """The numbers of an explanation, as `explanation.json` keeps them."""
    return {
        "measures": {
            name: {"value": m.value, "unit": m.unit, "what": m.what, "source": m.source, "seconds": seconds}
            for name, (m, seconds) in found.items()
        }
    }


def arrays_of(found: dict[str, tuple[Measurement, float]]) -> dict[str, np.ndarray]:
    """The arrays of an explanation, as `explanation.safetensors` keeps them: "<measure>/<array>"."""
    return {f"{name}/{key}": array for name, (m, _) in found.items() for key, array in m.arrays.items()}
