"""Measurements that are on disk already: those of an explanation, and parts that it has not taken in yet.

A part is one measure, in a folder of its own inside the run's: several processes write parts of one
explanation at once, and each is whole or not there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from robustlens.config import Checkpoint, ThreatSpec
from robustlens.explain.measure import Measurement
from robustlens.results import ExplanationResult, Provenance, Run
from robustlens.results.planned import measured_alike
from robustlens.threat import ThreatModel


def saved_measures(run: Run, expected: Provenance, other: Checkpoint | None = None) -> dict[str, Measurement]:
    """Measurements on disk, of the same weights, images, threat and options as an explanation has to be of.

    Raises:
        StateError: a file is damaged, or of another run or checkpoint.
    """
    measures: dict[str, Measurement] = {}
    for saved in (run.explanation(other), *_parts(run, other)):
        if saved is not None:
            measures |= _reusable(saved, expected)
    return measures


def write_measures(
    run: Run, expected: Provenance, measures: Mapping[str, Measurement], other: Checkpoint | None = None
) -> ExplanationResult:
    """Write an explanation of these measures, in the order of its plan, and remove the parts."""
    ordered = {name: measures[name] for name in expected.plan["measures"] if name in measures}
    result = _result(expected, ordered)
    run.write("explanation", result, other)
    run.remove(run.state_folder(other, "explanation").name)
    return result


def write_part(
    run: Run, expected: Provenance, name: str, measurement: Measurement, other: Checkpoint | None = None
) -> None:
    """Write one measure as a part of an explanation."""
    folder = run.state_folder(other, "explanation") / name.replace(":", "-")
    Run(folder).write("explanation", _result(expected, {name: measurement}))


def at_plan(expected: Provenance, saved: ExplanationResult) -> Provenance:
    """The expected provenance, but for the plan, which is the saved one's."""
    return replace(expected, plan=saved.provenance.plan)


def _parts(run: Run, other: Checkpoint | None) -> Iterator[ExplanationResult | None]:
    for folder in sorted(run.state_folder(other, "explanation").glob("*")):
        yield Run(folder).explanation()


def _result(expected: Provenance, measures: Mapping[str, Measurement]) -> ExplanationResult:
    threat = ThreatSpec.model_validate(expected.plan["threat"])
    return ExplanationResult(expected, ThreatModel.of(threat).record(), measures)


def _reusable(saved: ExplanationResult, expected: Provenance) -> dict[str, Measurement]:
    """Measurements of a saved explanation that the expected one would repeat."""
    before, wanted = saved.provenance.plan, expected.plan
    if not saved.provenance.matches(at_plan(expected, saved)):
        return {}
    return {
        name: replace(measurement, arrays=dict(measurement.arrays))  # read before their file is replaced
        for name, measurement in saved.measures.items()
        if name in wanted["measures"] and measured_alike(before, wanted, name)
    }
