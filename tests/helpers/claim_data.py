"""Study folders in which every quantity that a claim rests on is set directly, one knob for each.

Values are exact by construction: a knob of 0.3 gives a share, a mean or a std of 0.3 up to the rounding of
float32 and of whole images, whatever the noise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from robustlens.config import BEST, LAST, Checkpoint
from robustlens.results import (
    ErrorRecord,
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Provenance,
    Run,
    RunEntry,
    SplitResult,
    StudyFolder,
    StudyRecord,
    ThreatRecord,
)
from robustlens.stats.intervals import Interval

N = 400
LAYERS = tuple(f"layer{i}" for i in range(8))
ALPHA = (-1.0, -0.5, 0.0, 0.5, 1.0)
NAN = float("nan")
"""Knob of what is not measured."""

KNOBS: dict[str, float] = {
    "accuracy": 0.8,
    "error_gap": 0.0,
    "loss_gap": 0.1,
    "robust": 0.4,  # test accuracy under attack
    "robust_gap": 0.1,
    "train_rise": NAN,  # of the landscape on training images
    "flatter": NAN,  # log10 of sharpness at broken images, attacked minus clean
    "surer": NAN,  # the same of confidence
    "protected": NAN,  # log10 of sharpness at clean images, of those that break minus of those that stand
    "class_spread": 0.02,  # std of accuracy over four classes
    "ranked": 0.5,  # share of right images near the boundary whose distance is small, as many as these
    "lost": 0.0,  # share of images that are right elsewhere, and here indecisively wrong
    "scatter": 2.0,  # of features, between over within classes
    "volume": 1.0,  # geometric mean of singular values
    "gini": 0.6,
    "contrast": 0.2,
    "confidence": 0.7,
    "near": 0.1,  # share of right images near the boundary
    "indecisive": 0.2,  # share of errors
    "shift": 0.1,  # of training margins against test margins
    "change": 0.5,
    "flips": 0.4,  # share of images whose prediction an attack changes; a tenth as many under noise
    "direction": 4.0,  # amplification under attack over that under noise
    "feature": 0.5,  # mean relative change of what a layer reads
    "cooled": 0.0,  # added to all that is measured at matched temperature
    "variation": 0.4,  # std/mean of activation norms
    "norm": 10.0,  # mean activation norm
    "gain": 1.0,  # largest singular value of every kernel
    "spectrum": 0.5,  # std of singular values
    "kernel": 0.5,  # std of singular values of kernels
    "spectrum_mean": 1.0,
    "rise": 1.0,  # at |alpha| = 0.5; twice as much at 1
    "matched": 0.5,
    "average": 0.5,  # rise at random weights around w
    "worst": 0.5,
    "top": 0.5,  # eigenvalue of the relative Hessian
    "trace": 0.5,
}


@dataclass(frozen=True)
class Net:
    """One run: its entry in the study, and its knobs.

    `noise` seeds the draws that the knobs leave open; runs with equal noise and knobs are equal. `drop` names
    arrays or measures to leave out; `arrays` replaces arrays; a `status` other than "done" leaves all results
    out. `conditions` replaces those of the measures, and the attacks.
    """

    eps: float = 0.0
    objective: str = "at"
    awp: bool = False
    seed: int = 0
    method: str = ""
    knobs: Mapping[str, float] = field(default_factory=dict)
    noise: int = 0
    status: str = "done"
    drop: tuple[str, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: Sequence[int] | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    setting: str | None = None
    perturbation: str | None = None
    """Of the weights, where it is not AWP."""
    from_attack: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the perturbation."""
    unperturbed: str | None = None
    capacity: Mapping[str, float] = field(default_factory=dict)
    unbounded: str | None = None
    along: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Knobs at the epochs that were measured along training; the highest is the last."""

    @property
    def name(self) -> str:
        """Method label, as the study shows it."""
        plain = {"standard": "Standard", "at": "AT"}.get(self.objective, self.objective.upper())
        return self.method or (f"{plain}+AWP" if self.awp else plain)

    @property
    def entry(self) -> RunEntry:
        """The run's entry in the study."""
        identity = f"{self.name}-{self.eps:g}-s{self.seed}".lower()
        return RunEntry(
            id=identity,
            folder=f"runs/{identity}",
            label=self.name if self.objective == "standard" else f"{self.name} {self.eps:g}",
            method=self.name,
            objective=self.objective,
            perturbation="awp" if self.awp else self.perturbation,
            from_attack=self.from_attack,
            eps=self.eps,
            seed=self.seed,
            unperturbed=self.unperturbed,
            setting=self.setting,
            perturbation_options=self.options,
            capacity=self.capacity,
            unbounded=self.unbounded,
        )


def write(folder: Path, nets: Iterable[Net]) -> Path:
    """Write a study folder with these runs; returns it."""
    nets, study = list(nets), StudyFolder(folder)
    with mock.patch("os.fsync"):  # nothing here has to outlive a power cut
        study.write_record(StudyRecord("test", runs=tuple(net.entry for net in nets)))
        for run, net in zip(study.runs(), nets, strict=True):
            _write_run(run, net)
    return folder


def sweep(values: Mapping[float, Mapping[str, float]], seeds: int = 1, **more: Any) -> list[Net]:
    """Standard training (eps 0) and AT at each eps, with these knobs."""
    return [
        Net(eps, "at" if eps else "standard", seed=seed, knobs=knobs, **more)
        for eps, knobs in values.items()
        for seed in range(seeds)
    ]


def _write_run(run: Run, net: Net) -> None:
    error = ErrorRecord("NumericsError", "the loss became NaN", 4)
    last = max(net.along, default=0)
    run.update(status=net.status, error=error if net.status == "failed" else None, epochs_done=last)
    if net.status != "done":
        return
    _write_results(run, net, net.knobs, None)
    for epoch, knobs in net.along.items():
        _write_results(run, net, knobs, LAST if epoch == last else Checkpoint("epoch", epoch))


def _write_results(run: Run, net: Net, changed: Mapping[str, float], beside: Checkpoint | None) -> None:
    unknown = set(changed) - set(KNOBS)
    assert not unknown, unknown
    knobs = {**KNOBS, **changed}
    rng = np.random.default_rng(net.noise)
    made = _evaluation(knobs, rng), _explanation(knobs, rng)
    made[0]["test/distance"] = _distances(knobs, made[1]["margins/test_probability"])
    evaluated, explained = (_replaced(arrays, net) for arrays in made)
    threat = ThreatRecord("Linf", 0.1)
    conditions = {"eps": 0.1, "steps": 10, **net.conditions}
    attacks = tuple(conditions.pop("attacks", ("pgd-20",)))

    def provenance(plan: Mapping[str, Any]) -> Provenance:
        return Provenance(None, "", "", beside or BEST, plan)

    splits = {name: _split(arrays) for name, arrays in _by_part(evaluated).items()}
    run.write("evaluation", EvaluationResult(provenance({"seed": 0}), threat, attacks, splits, {}), beside)
    measures = {
        name: Measurement(_value(name, knobs), "", "", "", _conditions(name, conditions), arrays=arrays)
        for name, arrays in _by_part(explained, "spectrum", "curvature").items()
        if name not in net.drop
    }
    run.write("explanation", ExplanationResult(provenance({"examples": N}), threat, measures), beside)


def _replaced(arrays: Mapping[str, np.ndarray], net: Net) -> dict[str, np.ndarray]:
    """The arrays of a result, with those of the run in their place."""
    kept = {key: net.arrays.get(key, array) for key, array in arrays.items() if key not in net.drop}
    if net.index is None:
        return kept
    return {key: np.asarray(net.index) if key.endswith("index") else array for key, array in kept.items()}


def _by_part(arrays: Mapping[str, np.ndarray], *without: str) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of each split or measure, by the rest of their names; some measures are `without`."""
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in without}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = array
    return parts


def _split(arrays: Mapping[str, np.ndarray]) -> SplitResult:
    clean, robust, loss = (
        Interval(float(np.mean(arrays[key]))) if key in arrays else Interval(float("nan"))
        for key in ("clean", "robust", "loss")
    )
    return SplitResult(N, clean, robust, loss, arrays=arrays)


def _value(name: str, knobs: Mapping[str, float]) -> dict[str, Any]:
    """Numbers of a measure that claims read; those that they compute from arrays are left out."""
    if name == "curvature":
        return {"relative_top_eigenvalue": knobs["top"], "relative_trace": knobs["trace"]}
    if name != "spectrum":
        return {}
    # Layers have scales of their own, which a relative change does not see.
    return {
        "layers": {
            layer: _spread(2.0, knobs["spectrum"] * scale, knobs["spectrum_mean"] * scale)
            for scale, layer in enumerate(LAYERS, start=1)
        },
        "kernel": {
            "layers": {
                layer: _spread(knobs["gain"], knobs["kernel"] * scale, scale)
                for scale, layer in enumerate(LAYERS, start=1)
            },
            "folded": {},
        },
    }


def _spread(largest: float, std: float, mean: float) -> dict[str, float]:
    return {"max": largest, "std": std, "std_over_mean": std / mean, "count": 9}


def _conditions(name: str, common: Mapping[str, Any]) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "flatness": {"xi_average": 0.5, "draws": 2},
        "curvature": {"split": "test"},
        "sharpness": {"radii": [0.0, 0.1]},
        "spectrum": {"operator": "circular", "batch_norm": "apart"},
    }
    return {**own.get(name, {}), **common}


def _share(rate: float, rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Exactly `round(rate * n)` True."""
    return rng.permutation(n) < round(rate * n)


def _normal(rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Noise of mean exactly 0 and std exactly 1."""
    draw = rng.standard_normal(n)
    return (draw - draw.mean()) / draw.std()


def _evaluation(knobs: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "test/index": np.arange(N),
        "train/index": np.arange(N) + 1000,
        "test/labels": np.arange(N) % 4,
        "test/curve_eps": np.array([0.05, 0.1]),
        "test/clean": _by_class(knobs, rng),
        "train/clean": _share(knobs["accuracy"] + knobs["error_gap"], rng),
        "test/loss": (0.5 + knobs["loss_gap"] + 0.2 * _normal(rng)).astype(np.float32),
        "train/loss": (0.5 + 0.2 * _normal(rng)).astype(np.float32),
        "test/robust": _share(knobs["robust"], rng),
        "train/robust": _share(knobs["robust"] + knobs["robust_gap"], rng),
    }


def _by_class(knobs: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """Right answers: the accuracy, plus the spread in two of four classes, minus it in the others."""
    counts, each = np.full(4, round(knobs["accuracy"] * N) // 4), N // 4
    counts[: round(knobs["accuracy"] * N) % 4] += 1
    counts += round(knobs["class_spread"] * each) * np.array([1, 1, -1, -1])
    right = np.empty(N, bool)
    for label, count in enumerate(counts.clip(0, each)):
        right[label::4] = rng.permutation(each) < count
    return right


def _distances(knobs: Mapping[str, float], margin: np.ndarray) -> np.ndarray:
    """Distances of right images: small for this share of those near the boundary, and for as many in all."""
    distance = np.where(margin > 0, 0.08, 0.0)
    near, far = np.flatnonzero((margin > 0) & (margin < 0.2)), np.flatnonzero(margin >= 0.2)
    small = round(knobs["ranked"] * len(near))
    distance[near[:small]], distance[far[: len(near) - small]] = 0.01, 0.01
    return distance


def _explanation(knobs: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    half = N // 2
    right = np.where(_share(knobs["near"], rng, half), 0.1, 0.8)
    wrong = np.where(_share(knobs["indecisive"], rng, half), -0.1, -0.8)
    # Training and test margins differ by the shift alone, so their Wasserstein distance is the shift.
    margin = np.concatenate([right, wrong])
    margin[: round(knobs["lost"] * N)] = -0.05
    alpha = np.array(ALPHA)[:, None, None]

    def landscape(rise: float) -> np.ndarray:
        noise = np.stack([_normal(rng), _normal(rng)])
        return (1.0 + np.abs(alpha) / 0.5 * (rise + 0.3 * noise)).astype(np.float32)

    arrays: dict[str, np.ndarray] = {
        "margins/test_index": np.arange(N),
        "margins/train_index": np.arange(N) + 1000,
        "margins/test_probability": margin.astype(np.float32),
        "margins/train_probability": (margin + knobs["shift"]).astype(np.float32),
        "margins/test_confidence": (knobs["confidence"] + 0.05 * _normal(rng)).astype(np.float32),
        "margins/test_correct": margin > 0,
        "margins/test_logit": (4 * margin).astype(np.float32),
        "smoothness/index": np.arange(N),
        "smoothness/probability_change": (knobs["change"] + 0.2 * _normal(rng)).astype(np.float32),
        "landscape/alpha": np.array(ALPHA),
        "landscape/test_loss": landscape(knobs["rise"]),
        "landscape/test_matched": landscape(knobs["matched"]),
        "landscape/test_error": landscape(knobs["rise"] / 4) > 1.1,
        "flatness/test_index": np.arange(N),
    }
    reference = 1 + 0.1 * _normal(rng)
    around = np.stack([reference + knobs["average"] + 0.1 * _normal(rng) for _ in range(2)])
    arrays |= {
        "flatness/test_reference_loss": reference.astype(np.float32),
        "flatness/test_average_loss": around.astype(np.float32),
        "flatness/test_worst_loss": (reference + knobs["worst"]).astype(np.float32),
    }
    if not np.isnan(knobs["train_rise"]):
        arrays["landscape/train_index"] = np.arange(N) + 1000
        arrays["landscape/train_loss"] = landscape(knobs["train_rise"])
    if not np.isnan(knobs["flatter"] + knobs["surer"] + knobs["protected"]):
        arrays |= _sharpness(knobs, rng)
    for scale, name in enumerate(LAYERS, start=1):
        norms = (scale * knobs["norm"] * (1 + knobs["variation"] * _normal(rng))).astype(np.float32)
        activations = f"post-activation/{name}", f"pre-activation/{name}", f"{name}.input"
        for at, key in enumerate(activations, start=1):
            arrays[f"activations/{key}"], arrays[f"activations/train/{key}"] = at * norms, at * norms[::-1]
        for moved, share in (("attack", 1.0), ("noise", 0.1)):
            change = scale * share * (knobs["feature"] + 0.1 * _normal(rng))
            arrays[f"smoothness/{moved}/{name}"] = change.astype(np.float32)
    for split in ("train", "test"):
        arrays[f"margins/{split}_matched_loss"] = (
            1 + knobs["cooled"] * (split == "test") + 0.2 * _normal(rng)
        ).astype(np.float32)
        arrays[f"margins/{split}_matched_probability"] = arrays[f"margins/{split}_probability"] * 0.9
    arrays["margins/test_matched_confidence"] = (0.5 + knobs["cooled"] + 0.05 * _normal(rng)).astype(
        np.float32
    )
    for split in ("train", "test"):
        arrays[f"margins/{split}_logit"] = 4 * arrays[f"margins/{split}_probability"]
        arrays[f"margins/{split}_scatter_within"] = 1 + 0.1 * _normal(rng)
        arrays[f"margins/{split}_scatter_total"] = 1 + knobs["scatter"] + 0.1 * _normal(rng)
    arrays["gradients/test_index"] = np.arange(N)
    for name, value in (("gini", knobs["gini"]), ("hoyer", 0.5), ("contrast", knobs["contrast"])):
        arrays[f"gradients/test_{name}"] = value * (1 + 0.1 * _normal(rng))
    for scale, name in enumerate(LAYERS, start=1):
        arrays[f"spectrum/{name}"] = scale * knobs["volume"] * np.exp(np.linspace(-0.5, 0.5, 9))
        arrays[f"spectrum/kernel/{name}"] = arrays[f"spectrum/{name}"] / 3
    arrays["smoothness/matched_probability_change"] = (0.3 + 0.2 * _normal(rng)).astype(np.float32)
    for before, joined in (("", ""), ("train/", "train_")):
        arrays[f"activations/{before}logits"] = (4 + _normal(rng)).astype(np.float32)
        arrays[f"activations/{joined}label"] = np.arange(N) % 4
        arrays[f"activations/{joined}index"] = np.arange(N) + 1000 * bool(before)
    arrays["smoothness/label_flip"] = _share(knobs["flips"], rng)
    arrays["smoothness/noise_label_flip"] = _share(knobs["flips"] / 10, rng)
    arrays["smoothness/attack_input"] = np.ones(N)
    arrays["smoothness/noise_input"] = np.full(N, knobs["direction"] / 10)
    return arrays


def _sharpness(knobs: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A quarter of the images is wrong; of the others the attack breaks half."""
    quarter, broken = N // 4, np.arange(N) % 2 == 0
    wrong = np.arange(N) < quarter
    noise = np.zeros(N)
    for group in (wrong, ~wrong & broken, ~wrong & ~broken):
        noise[group] = _normal(rng, int(group.sum()))
    clean = 0.2 * noise + knobs["protected"] * broken
    sure = 0.6 + 0.02 * noise
    return {
        "sharpness/test_index": np.arange(N),
        "sharpness/radius": np.array([0.0, 0.1]),
        "sharpness/test_sharpness": 10.0 ** np.stack([clean, clean + knobs["flatter"]]),
        "sharpness/test_confidence": np.stack([sure, sure + knobs["surer"]]),
        "sharpness/test_wrong": np.stack([wrong, wrong | broken]),
    }
