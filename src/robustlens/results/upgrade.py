"""Documents of older formats as the present one has them: pure functions from JSON values to JSON values.

To change a format: raise `files.FORMAT`, write the function from the number before, and keep a golden folder
of the old one in the tests. An optional field that is added changes no format.
"""

from collections.abc import Callable, Mapping
from typing import Any

from robustlens.results.study import DECIDING_SEEDS, DESCRIBED

Content = dict[str, Any]

CONDITIONS = (
    "split",
    "eps",
    "steps",
    "draws",
    "examples",
    "xi_average",
    "xi_worst",
    "ascents",
    "tau",
    "operator",
    "batch_norm",
)
"""Settings that format 1 kept among the values of a measure."""


def upgraded(kind: str, content: Mapping[str, Any], format_: int) -> Content:
    """The content of a document of `kind` in the present format."""
    upgrade = _FROM_1.get(kind, dict) if format_ == 1 else dict
    return upgrade(dict(content))


def _run_1(content: Content) -> Content:
    return {key: value for key, value in content.items() if value is not None or key == "error"}


def _epoch_1(content: Content) -> Content:
    return {"perturbed": bool(content.pop("awp", False)), **content}


def _flag_1(flag: Any) -> Content:
    """A flag whose message held all three parts in one line."""
    if not isinstance(flag, Mapping):
        return {"name": "flag", "observed": str(flag)}
    raised_if, meaning, remedy = (str(flag.get(key) or "") for key in ("raised_if", "means", "todo"))
    message = str(flag.get("message") or flag.get("name") or "")
    return {
        "name": str(flag.get("name") or "flag"),
        "observed": message.removesuffix(f"; {meaning}; {remedy}"),
        "raised_if": raised_if,
        "meaning": meaning,
        "remedy": remedy,
    }


def _provenance_1(content: Content) -> Content:
    """A model without a recipe was known by its fingerprint, under "model"."""
    if "weights" not in content:
        content["weights"] = content.pop("model", "")
    return {"recipe_hash": None, "data": "", "plan": {}, **content}


def _evaluation_1(content: Content) -> Content:
    content = _provenance_1(content)
    splits = content.get("splits")
    if isinstance(splits, Mapping):
        content["splits"] = {name: _split_1(split) for name, split in splits.items()}
    return content


def _split_1(split: Any) -> Any:
    """Format 1 counted nothing: its splits have no `attacked` and no `broken`."""
    if not isinstance(split, Mapping):
        return split
    flags = [_flag_1(flag) for flag in split.get("flags") or ()]
    return {**split, "flags": flags, "notes": split.get("notes") or [], "seconds": split.get("seconds") or {}}


def _explanation_1(content: Content) -> Content:
    content = _provenance_1(content)
    threat, plan = content.get("threat"), content["plan"]
    if isinstance(threat, Mapping) and isinstance(plan, Mapping):
        content["plan"] = {**plan, "threat": {key: threat.get(key) for key in ("norm", "eps")}}
    else:
        content["threat"] = {"norm": "", "eps": 0.0}
    measures = content.get("measures")
    if isinstance(measures, Mapping):
        content["measures"] = {name: _measurement_1(one) for name, one in measures.items()}
    return content


def _measurement_1(measurement: Any) -> Any:
    if not isinstance(measurement, Mapping) or not isinstance(measurement.get("value"), Mapping):
        return measurement
    value = measurement["value"]
    texts = {"unit": "", "what": "", "source": ""}
    return {**texts, **measurement, "conditions": {key: value[key] for key in CONDITIONS if key in value}}


def _study_1(content: Content) -> Content:
    runs = content.get("runs")
    if isinstance(runs, list):
        content["runs"] = [_entry_1(dict(run)) if isinstance(run, Mapping) else run for run in runs]
    return content


def _entry_1(entry: Content) -> Content:
    """Entries named AWP alone; a run with another perturbation is known by its recipe."""
    awp = entry.pop("awp", False)
    from_attack, unperturbed = entry.pop("awp_from_attack", False), entry.pop("without_awp", None)
    return {
        **entry,
        "perturbation": "awp" if awp else None,
        "from_attack": bool(from_attack),
        "unperturbed": unperturbed,
    }


def _claims_1(content: Content) -> Content:
    claims = content.get("claims")
    if isinstance(claims, list):
        content["claims"] = [
            _claim_1(dict(claim)) if isinstance(claim, Mapping) else claim for claim in claims
        ]
    return content


def _claim_1(claim: Content) -> Content:
    """Verdicts had no scope: without runs a claim is untested, and of fewer than three seeds described."""
    seeds = claim.get("seeds")
    if not seeds and not claim.get("values"):
        claim["verdict"] = "untested"
    elif isinstance(seeds, int) and seeds < DECIDING_SEEDS:
        claim["verdict"] = DESCRIBED.get(str(claim.get("verdict")), claim.get("verdict"))
    return claim


_FROM_1: dict[str, Callable[[Content], Content]] = {
    "run": _run_1,
    "epoch": _epoch_1,
    "evaluation": _evaluation_1,
    "explanation": _explanation_1,
    "study": _study_1,
    "claims": _claims_1,
}
