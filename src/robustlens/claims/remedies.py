"""Lines of a study file that would measure what a claim lacks."""

from robustlens.results import StudyRecord


def measured(study: StudyRecord, measure: str) -> str:
    """Adds a measure to those of the study; empty where the study plans it already.

    >>> print(measured(StudyRecord(explanation={"measures": ["margins"]}), "spectrum"))
    explanation:
      measures: [margins, spectrum]
    """
    planned = [str(name) for name in study.explanation.get("measures", ())]
    if measure in planned:
        return ""
    return f"explanation:\n  measures: [{', '.join([*planned, measure])}]"


def along_training(study: StudyRecord) -> str:
    """Keeps epochs of every run and measures them; empty where the study plans it already."""
    if study.evaluation.get("checkpoint") == study.explanation.get("checkpoint") == "every":
        return ""
    return "\n".join(
        (
            "defaults: {keep_every: 1}  # or as many as leave four epochs of a run or more",
            "evaluation: {checkpoint: every}",
            "explanation: {checkpoint: every}",
        )
    )


def strengths(study: StudyRecord) -> str:
    """Trains at several strengths, standard training among them."""
    eps = study.threat.get("eps")
    listed = f"{eps / 2:g}, {eps:g}" if isinstance(eps, float) and eps > 0 else "4/255, 8/255"
    return (
        "methods:\n  - {label: Standard, objective: standard}\n"
        f"  - {{label: AT, objective: at, eps: [{listed}]}}"
    )


def awp_pair() -> str:
    """Trains with and without AWP."""
    return "methods:\n  - {label: AT, objective: at}\n  - {label: AT+AWP, objective: at, awp: {}}"


def methods() -> str:
    """Trains four methods to correlate over."""
    return (
        f"{awp_pair()}\n  - {{label: TRADES, objective: trades}}\n"
        "  - {label: TRADES+AWP, objective: trades, awp: {}}"
    )
