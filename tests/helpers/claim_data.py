"""Study folders in which every quantity that a claim looks at is set directly, one knob for each.

Values are exact by construction: a knob of 0.3 gives a share, a mean or a std of 0.3 up to the rounding of
float32 and of whole images, whatever the noise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from robustlens import claims
from robustlens.claims.evidence import StudyData
from robustlens.results.folders import Run, StudyFolder, write_json
from robustlens.stats.bootstrap import Bootstrap

N = 400
LAYERS = tuple(f"layer{i}" for i in range(8))
ALPHA = (-1.0, -0.5, 0.0, 0.5, 1.0)

KNOBS: dict[str, float] = {
    "accuracy": 0.8,
    "error_gap": 0.0,
    "loss_gap": 0.1,
    "robust_gap": 0.1,
    "confidence": 0.7,
    "near": 0.1,  # share of right images near the boundary
    "indecisive": 0.2,  # share of errors
    "shift": 0.1,  # of training margins against test margins
    "change": 0.5,
    "feature": 0.5,  # mean relative change of what a layer reads
    "cooled": 0.0,  # added to all that is measured at matched temperature
    "variation": 0.4,  # std/mean of activation norms
    "norm": 10.0,  # mean activation norm
    "spectrum": 0.5,  # std of singular values
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
    """One run: what `study.json` says of it, and its knobs.

    `noise` seeds what the knobs leave open; runs with equal noise and knobs are equal. `drop` names arrays to
    leave out; `arrays` replaces arrays; `status` other than "done" leaves the measurements out altogether.
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
    along: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Knobs at the epochs that were measured along training; the highest is the last."""

    @property
    def name(self) -> str:
        """Method label, as the study shows it."""
        plain = {"standard": "Standard", "at": "AT"}.get(self.objective, self.objective.upper())
        return self.method or (f"{plain}+AWP" if self.awp else plain)

    @property
    def entry(self) -> dict[str, Any]:
        """The run's entry in `study.json`."""
        identity = f"{self.name}-{self.eps:g}-s{self.seed}".lower()
        return {
            "id": identity,
            "folder": f"runs/{identity}",
            "method": self.name,
            "objective": self.objective,
            "awp": self.awp,
            "eps": self.eps,
            "seed": self.seed,
            "label": self.name if self.objective == "standard" else f"{self.name} {self.eps:g}",
            **({} if self.setting is None else {"setting": self.setting}),
        }


def write(folder: Path, nets: Iterable[Net]) -> Path:
    """Write a study folder with these runs; returns it."""
    nets = list(nets)
    with mock.patch("os.fsync"):  # nothing here has to outlive a power cut
        for net in nets:
            _write_run(Run(folder / net.entry["folder"]), net)
        entries = [net.entry for net in nets]
        write_json(folder / "study.json", {"format": 1, "name": "test", "runs": entries})
    return folder


def ladder(values: Mapping[float, Mapping[str, float]], seeds: int = 1, **more: Any) -> list[Net]:
    """Standard training (eps 0) and AT at each eps, with these knobs."""
    return [
        Net(eps, "at" if eps else "standard", seed=seed, knobs=knobs, **more)
        for eps, knobs in values.items()
        for seed in range(seeds)
    ]


def _write_run(run: Run, net: Net) -> None:
    error = {"type": "NumericsError", "message": "the loss became NaN", "exit_code": 4}
    last = max(net.along, default=0)
    run.update_status(status=net.status, error=error if net.status == "failed" else None, epochs_done=last)
    if net.status != "done":
        return
    _write_results(run, net, net.knobs, "")
    for epoch, knobs in net.along.items():
        _write_results(run, net, knobs, "-last" if epoch == last else f"-epoch-{epoch:04d}")


def _write_results(run: Run, net: Net, knobs: Mapping[str, float], ending: str) -> None:
    unknown = set(knobs) - set(KNOBS)
    assert not unknown, unknown
    knobs = {**KNOBS, **knobs}
    rng = np.random.default_rng(net.noise)
    for file, arrays in (("evaluation", _evaluation(knobs, rng)), ("explanation", _explanation(knobs, rng))):
        kept = {key: net.arrays.get(key, array) for key, array in arrays.items() if key not in net.drop}
        if net.index is not None:
            kept = {
                key: np.asarray(net.index) if key.rsplit("/", 1)[-1].endswith("index") else array
                for key, array in kept.items()
            }
        run.write_arrays(f"{file}{ending}", kept)
    how = {"threat": {"norm": "Linf", "eps": 0.1}, "attacks": ["pgd-20"], "eps": 0.1, **net.conditions}
    run.write_json(f"evaluation{ending}", {"format": 1, "plan": {"seed": 0}, **how})
    spread = {
        "max": 2.0,
        "std": knobs["spectrum"],
        "std_over_mean": knobs["spectrum"] / knobs["spectrum_mean"],
        "count": 9,
    }
    # Layers have scales of their own, which a relative change does not see.
    spectra = {name: {**spread, "std": spread["std"] * (i + 1)} for i, name in enumerate(LAYERS)}
    measures = {
        "smoothness": {"value": {"eps": how["eps"], "steps": 10}},
        "landscape": {"value": {"eps": how["eps"], "steps": 10}},
        "spectrum": {"value": {"layers": spectra}},
        "flatness": {"value": {"eps": how["eps"], "steps": 10, "xi_average": 0.5, "draws": 2}},
        "curvature": {
            "value": {
                "eps": how["eps"],
                "steps": 10,
                "split": "test",
                **{
                    f"relative_{name}": knobs[knob]
                    for name, knob in (("top_eigenvalue", "top"), ("trace", "trace"))
                },
            }
        },
    }
    measures = {name: measure for name, measure in measures.items() if name not in net.drop}
    run.write_json(f"explanation{ending}", {"format": 1, "plan": {"examples": N}, "measures": measures})


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
        "test/clean": _share(knobs["accuracy"], rng),
        "train/clean": _share(knobs["accuracy"] + knobs["error_gap"], rng),
        "test/loss": (0.5 + knobs["loss_gap"] + 0.2 * _normal(rng)).astype(np.float32),
        "train/loss": (0.5 + 0.2 * _normal(rng)).astype(np.float32),
        "test/robust": _share(0.4, rng),
        "train/robust": _share(0.4 + knobs["robust_gap"], rng),
    }


def _explanation(knobs: Mapping[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    half = N // 2
    right = np.where(_share(knobs["near"], rng, half), 0.1, 0.8)
    wrong = np.where(_share(knobs["indecisive"], rng, half), -0.1, -0.8)
    # Training and test margins differ by the shift alone, so their Wasserstein distance is the shift.
    margin = np.concatenate([right, wrong])
    alpha = np.array(ALPHA)[:, None, None]

    def landscape(rise: float) -> np.ndarray:
        noise = np.stack([_normal(rng), _normal(rng)])
        return (1.0 + np.abs(alpha) / 0.5 * (rise + 0.3 * noise)).astype(np.float32)

    arrays = {
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
    for scale, name in enumerate(LAYERS, start=1):
        norms = scale * knobs["norm"] * (1 + knobs["variation"] * _normal(rng))
        arrays[f"activations/{name}"] = norms.astype(np.float32)
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
    arrays["smoothness/matched_probability_change"] = (0.3 + 0.2 * _normal(rng)).astype(np.float32)
    return arrays


# -- what each claim takes to hold ---------------------------------------------------------------------

STRENGTHS = (0.0, 0.1, 0.2)
LADDERS = {
    # claim: knob, its values at eps 0, 0.1 and 0.2 where the claim holds, and the effect these make
    "accuracy-falls": ("accuracy", (0.9, 0.85, 0.7), -0.2),
    "less-confident": ("confidence", (0.9, 0.8, 0.6), -0.3),
    # Half of the images are right, and 20 % of the errors are near the boundary as well.
    "margins-concentrate": ("near", (0.1, 0.2, 0.5), 0.2),
    "smoother-under-attack": ("change", (1.5, 0.5, 0.2), -1.3),
    "feature-change-falls": ("feature", (0.6, 0.5, 0.3), -50.0),
    "errors-indecisive": ("indecisive", (0.1, 0.2, 0.5), 0.4),
    "train-test-margins-closer": ("shift", (0.5, 0.3, 0.1), -0.4),
    # Of all images 45 % are right by 0.8, 5 % by 0.1, 10 % are wrong by 0.1; cut to 0..1 a shift of 0.5 takes
    # these up by 0.2, 0.5 and 0.4; one of 0.1 by 0.1, 0.1 and 0.
    "ramp-gap-shrinks": ("shift", (0.5, 0.3, 0.1), 0.05 - 0.155),
    "loss-gap-shrinks": ("loss_gap", (0.4, 0.3, 0.1), -0.3),
    "error-gap-grows": ("error_gap", (0.0, 0.05, 0.15), 0.15),
    "activation-variation-falls": ("variation", (0.6, 0.5, 0.3), -50.0),
    "singular-spread-falls": ("spectrum", (0.5, 0.4, 0.3), -40.0),
}
PAIRS = {
    # claim: knob, without and with AWP where the claim holds
    "awp-smaller-robust-gap": ("robust_gap", (0.3, 0.1), -0.2),
    "awp-flatter": ("rise", (1.0, 0.4), -0.6),
}
ASSOCIATIONS = {
    # claim: the knob that goes with the robust gap
    "flatter-smaller-gap": "rise",
    "flatter-at-matched-temperature-smaller-gap": "matched",
    "average-case-flatter-smaller-gap": "average",
    "worst-case-flatter-smaller-gap": "worst",
    "smaller-eigenvalue-smaller-gap": "top",
    "smaller-trace-smaller-gap": "trace",
}
ALONG = {
    # claim: the knob that goes with the robust gap, epoch by epoch
    "gap-follows-landscape": "rise",
    "gap-follows-landscape-at-matched-temperature": "matched",
}
ASSOCIATION = "flatter-smaller-gap"
EVERY = [*LADDERS, *PAIRS, *ASSOCIATIONS, *ALONG]


def check_one(folder: Path, name: str, nets: list[Net]) -> claims.Claim:
    """One claim on a study of these runs, without paying for the others."""
    write(folder, nets)
    return claims.CLAIMS[name].check(StudyData.of(StudyFolder(folder), Bootstrap(500)))


def story(name: str, how: str, seeds: int = 1) -> list[Net]:
    """Runs on which the claim holds, is reversed, or has nothing but noise ("same") or nothing ("equal")."""
    if name in ALONG:
        gaps = {"holds": range(6), "reversed": range(5, -1, -1), "same": (3, 0, 5, 4, 1, 2), "equal": [0] * 6}
        along = {
            5 * (i + 1): {ALONG[name]: 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.05 * gap}
            for i, gap in enumerate(gaps[how])
        }
        return [Net(0.1, seed=seed, along=along) for seed in range(seeds)]
    if name in ASSOCIATIONS:
        nets = [Net(eps, method=method, objective=objective) for eps, method, objective in (
            (0.1, "AT", "at"), (0.2, "AT", "at"), (0.1, "TRADES", "trades"), (0.1, "MART", "mart"),
            (0.1, "FGSM", "fgsm"), (0.2, "TRADES", "trades"),
        )]  # fmt: skip
        gaps = {"holds": range(6), "reversed": range(5, -1, -1), "same": (3, 0, 5, 4, 1, 2), "equal": [0] * 6}
        return [
            replace(
                net, seed=seed, knobs={ASSOCIATIONS[name]: 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.05 * gap}
            )
            for seed in range(seeds)
            for i, (net, gap) in enumerate(zip(nets, gaps[how], strict=True))
        ]
    knob, values, _ = (LADDERS | PAIRS)[name]
    values = {"holds": values, "reversed": values[::-1]}.get(how, values[:1] * len(values))
    step = 1 if how == "same" else 0
    if name in PAIRS:
        return [
            Net(0.1, awp=awp, seed=seed, knobs={knob: value}, noise=step * (100 * seed + i))
            for seed in range(seeds)
            for i, (awp, value) in enumerate(zip((False, True), values, strict=True))
        ]
    return [
        replace(net, noise=step * (100 * net.seed + round(1000 * net.eps)))
        for net in ladder({eps: {knob: value} for eps, value in zip(STRENGTHS, values, strict=True)}, seeds)
    ]
