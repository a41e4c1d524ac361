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


def last_checkpoint(study: StudyRecord) -> str:
    """Measures the last epoch too, and any that are kept; empty where the study plans it already."""
    if {study.evaluation.get("checkpoint"), study.explanation.get("checkpoint")} <= {"both", "every"}:
        return ""
    return "evaluation: {checkpoint: every}\nexplanation: {checkpoint: every}"


def curve(study: StudyRecord) -> str:
    """Searches the nearest misclassified image of each; empty where the study plans it already."""
    return "" if study.evaluation.get("curve") else "evaluation: {curve: [0.25, 0.5, 0.75, 1, 1.5, 2]}"


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


def awp_by_images() -> str:
    """Trains without AWP, with AWP by all images, and by those of small and of large loss."""
    choices = "\n".join(
        f"  - {{label: AT+AWP by {images.replace('-', ' ')}, objective: at, "
        f"awp: {{images: {images}, loss_threshold: 1.7}}}}"
        for images in ("small-loss", "large-loss")
    )
    return f"{awp_pair()}\n{choices}"


def awp_ladder(option: str) -> str:
    """Trains with AWP at three values of gamma or of steps, and without."""
    values = {"gamma": "0.0025, 0.005, 0.01", "steps": "1, 2, 4"}[option].split(", ")
    rungs = "\n".join(
        f"  - {{label: AT+AWP {option} {value}, objective: at, awp: {{{option}: {value}}}}}"
        for value in values
    )
    return f"methods:\n  - {{label: AT, objective: at}}\n{rungs}"


def random_control() -> str:
    """Trains with AWP and with random perturbation of the same size."""
    return f"{awp_pair()}\n  - {{label: AT+RWP, objective: at, rwp: {{}}}}"


def seeds() -> str:
    """Trains every method five times."""
    return "seeds: [0, 1, 2, 3, 4]"


def capacity_pair() -> str:
    """Trains with and without bounds on the singular values of the weights."""
    return (
        "methods:\n  - {label: AT, objective: at}\n"
        "  - {label: AT bounded, objective: at, capacity: {low: 0.8, high: 1.25}}"
    )


def methods() -> str:
    """Trains six methods to correlate over, four of them without AWP."""
    return (
        f"{awp_pair()}\n  - {{label: TRADES, objective: trades}}\n"
        "  - {label: TRADES+AWP, objective: trades, awp: {}}\n"
        "  - {label: MART, objective: mart}\n  - {label: FGSM, objective: fgsm}"
    )
