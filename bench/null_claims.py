"""Verdicts where nothing has an effect: how often claims come out by chance.

    python bench/null_claims.py [--studies 300] [--images 200] [--seeds 3 1] [--noise 0 1 3 10]
        [--out bench/results/null-claims.json]

Each study is made up in memory: seven methods (four strengths, TRADES, AWP and TRADES with AWP), trained with
one seed or three, evaluated at the best and the last checkpoint and at four epochs. No quantity depends on
strength, objective, AWP or epoch. A run differs from another by its images' own noise and by the run-to-run
noise of training, whose standard deviation is `noise` times the standard error over images. All claims are
judged as `robustlens study` does. `one by one` counts claims whose own 95 % interval lies on the claimed
side, as if each were the only one of its study.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robustlens.claims import CLAIMS, judge
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.family import controlled
from robustlens.config import BEST, LAST, Checkpoint
from robustlens.results import (
    ClaimResult,
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Provenance,
    Run,
    RunEntry,
    RunRecord,
    SplitResult,
    Stage,
    ThreatRecord,
)
from robustlens.stats.bootstrap import Bootstrap
from robustlens.stats.intervals import Interval

METHODS = (
    ("Standard", "standard", 0.0, False),
    ("AT 0.05", "at", 0.05, False),
    ("AT 0.1", "at", 0.1, False),
    ("AT 0.2", "at", 0.2, False),
    ("TRADES 0.1", "trades", 0.1, False),
    ("AT+AWP 0.1", "at", 0.1, True),
    ("TRADES+AWP 0.1", "trades", 0.1, True),
)
LAYERS = tuple(f"layer{place}" for place in range(8))
ALPHA = np.array([-0.5, 0.0, 0.5])
KEPT = {epoch: Checkpoint("epoch", epoch) for epoch in (10, 20, 30)} | {40: LAST}
THREAT = ThreatRecord("Linf", 0.1)
SPREAD = 0.3
"""Standard deviation over images of everything that is no share."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Images:
    """What the images of a study have in common in all networks: how hard each is, (2, n) for both splits."""

    hardness: np.ndarray

    @property
    def n(self) -> int:
        """Images of a split."""
        return self.hardness.shape[1]


class MadeUpRun(Run):
    """A run whose results are drawn when they are asked for, and never written."""

    def __init__(self, entry: RunEntry, images: Images, noise: float, seed: int) -> None:
        super().__init__(Path(entry.folder), entry)
        self.images, self.noise, self.seed = images, noise, seed
        self._drawn: dict[Checkpoint | None, Draws] = {}

    @property
    def record(self) -> RunRecord:
        """Done."""
        return RunRecord(status="done")

    def other_checkpoints(self, stage: Stage) -> dict[int, Checkpoint]:
        """The last checkpoint and three before it, of adversarial training."""
        assert self.entry is not None
        return dict(KEPT) if self.entry.eps > 0 else {40: LAST}

    def evaluation(self, beside: Checkpoint | None = None) -> EvaluationResult | None:
        """An evaluation without any effect."""
        splits = {name: _split(arrays) for name, arrays in self._at(beside).evaluation.items()}
        provenance = Provenance(None, "", "", beside or BEST, {})
        return EvaluationResult(provenance, THREAT, ("pgd-20",), splits, {})

    def explanation(self, beside: Checkpoint | None = None) -> ExplanationResult | None:
        """An explanation without any effect."""
        return ExplanationResult(
            Provenance(None, "", "", beside or BEST, {}), THREAT, self._at(beside).explanation
        )

    def _at(self, beside: Checkpoint | None) -> "Draws":
        if beside not in self._drawn:
            place = 0 if beside is None else 1 + list(KEPT.values()).index(beside)
            rng = np.random.default_rng([self.seed, place])
            self._drawn[beside] = Draws(self.images, self.noise, rng)
        return self._drawn[beside]


@dataclass(frozen=True)
class Draws:
    """Results of one network."""

    images: Images
    noise: float
    rng: np.random.Generator

    @cached_property
    def evaluation(self) -> dict[str, Arrays]:
        """Arrays of both splits."""
        index = np.arange(self.images.n)
        return {
            split: {
                "index": index + 1000 * place,
                "clean": self._numbers(place) < 0.75,
                "robust": self._numbers(place) < 0.4,
                "loss": 1 + SPREAD * self._numbers(place),
            }
            for place, split in enumerate(("test", "train"))
        }

    @cached_property
    def explanation(self) -> dict[str, Measurement]:
        """Measures, with their arrays."""
        index = np.arange(self.images.n)
        margins: dict[str, np.ndarray] = {"test_index": index, "train_index": index + 1000}
        for place, split in enumerate(("test", "train")):
            for kind in ("", "matched_"):
                margin = 0.8 * self._numbers(place) - 0.3
                margins |= {
                    f"{split}_{kind}probability": margin,
                    f"{split}_{kind}confidence": 0.7 + SPREAD * self._numbers(place),
                    f"{split}_{kind}loss": 1 + SPREAD * self._numbers(place),
                }
        margins |= {
            "test_correct": margins["test_probability"] > 0,
            "test_logit": 4 * margins["test_probability"],
        }
        change = {"index": index} | {f"{kind}probability_change": self._change() for kind in ("", "matched_")}
        for moved in ("attack", "noise"):
            shared = self._run_noise(SPREAD)
            change |= {f"{moved}/{layer}": 1 + shared + self._change() for layer in LAYERS}
            change[f"{moved}_input"] = np.ones(self.images.n)
        change["label_flip"] = self._numbers() < 0.4
        spread = SPREAD * np.exp(self._run_noise(1.0))
        norms = {f"post-activation/{layer}": 10 * (1 + spread * self._numbers()) for layer in LAYERS}
        norms |= {"logits": 1 + self._numbers(), "label": index % 10, "index": index}
        rises = {f"test_{kind}": self._landscape() for kind in ("loss", "matched", "error")}
        flatness = {
            "test_index": index,
            "test_reference_loss": np.zeros(self.images.n),
            "test_average_loss": self._change()[None],
            "test_worst_loss": self._change(),
        }
        curvature = {"relative_top_eigenvalue": self._positive(), "relative_trace": self._positive()}
        shared = self._positive()
        spectra = {layer: self._spectrum(shared) for layer in LAYERS}
        return {
            "margins": _measurement({}, margins),
            "smoothness": _measurement({}, change),
            "activations": _measurement({}, norms),
            "landscape": _measurement({}, {"alpha": ALPHA, **rises}),
            "flatness": _measurement({}, flatness),
            "curvature": _measurement(curvature, {}, split="test"),
            "spectrum": _measurement({"layers": spectra}, {}, operator="circular"),
        }

    def _run_noise(self, spread: float) -> float:
        """What training again adds to a mean over images of standard deviation `spread`."""
        return self.noise * spread / self.images.n**0.5 * float(self.rng.standard_normal())

    def _numbers(self, split: int = 0) -> np.ndarray:
        """A number of mean 0.5 and standard deviation 0.5 for each image: shared, own, and the run's."""
        own = self.rng.standard_normal(self.images.n)
        both = (self.images.hardness[split] + own) / 2**0.5
        return 0.5 + 0.5 * both + self._run_noise(0.5)

    def _change(self) -> np.ndarray:
        return 0.5 + SPREAD * self._numbers()

    def _landscape(self) -> np.ndarray:
        rise = np.stack([np.abs(ALPHA)[:, None] / 0.5 * self._change() for _ in range(2)], axis=1)
        return np.asarray(1.0 + rise)

    def _positive(self) -> float:
        return float(np.exp(0.2 * self.rng.standard_normal()))

    def _spectrum(self, shared: float) -> dict[str, float]:
        """Singular values of a layer: a part is the network's, a part the layer's own."""
        std, relative = shared * self._positive(), shared * self._positive()
        return {"max": 2.0, "std": std, "std_over_mean": relative, "count": 9.0}


def _split(arrays: Arrays) -> SplitResult:
    clean, robust, loss = (Interval(float(np.mean(arrays[key]))) for key in ("clean", "robust", "loss"))
    return SplitResult(len(arrays["index"]), clean, robust, loss, arrays=arrays)


def _measurement(value: dict[str, Any], arrays: Arrays, **conditions: Any) -> Measurement:
    return Measurement(value, "", "", "", {"eps": 0.1, "steps": 10, **conditions}, arrays=arrays)


def made_up_study(seeds: int, noise: float, images: int, number: int, resamples: int = 1000) -> StudyData:
    """A study in which nothing has an effect.

    Args:
        seeds: of every method.
        noise: run-to-run noise, in standard errors over images.
        images: of each split.
        number: which study; seeds all that is drawn.
        resamples: of the bootstrap.
    """
    rng = np.random.default_rng([number, seeds])
    common = Images(rng.standard_normal((2, images)))
    study = StudyData([], Bootstrap(resamples, seed=number))
    for place, (label, objective, eps, awp) in enumerate(METHODS):
        for seed in range(seeds):
            entry = RunEntry(
                id=f"{label}-{seed}",
                folder=f"{label}-{seed}",
                label=label,
                method=label.split()[0],
                objective=objective,
                perturbation="awp" if awp else None,
                eps=eps,
                seed=seed,
            )
            own = int(rng.integers(2**31)) + place
            study.runs.append(RunData(MadeUpRun(entry, common, noise, own), study))
    return study


def alone(study: StudyData) -> tuple[ClaimResult, ...]:
    """The claims one by one, as if each were the only one."""
    return tuple(claim for hypothesis in CLAIMS.values() for claim in hypothesis.claims(study))


def judged(seeds: int, noise: float, images: int, number: int) -> tuple[ClaimResult, ...]:
    """The claims of a made-up study as `robustlens study` judges them."""
    return judge(made_up_study(seeds, noise, images, number))


def counted(seeds: int, noise: float, studies: int, images: int) -> dict[str, Any]:
    """One row of the table."""
    by_itself, together = [], []
    for number in range(studies):
        each = alone(made_up_study(seeds, noise, images, number))
        by_itself.append(sum(claim.verdict in ("supported", "as claimed") for claim in each))
        together.append([claim.verdict for claim in controlled(each)])
    claims = len(together[0])
    return {
        "seeds": seeds,
        "noise": noise,
        "studies": studies,
        "images": images,
        "claims": claims,
        "as_claimed_one_by_one": sum(by_itself) / (claims * studies),
        "studies_with_any_one_by_one": sum(count > 0 for count in by_itself) / studies,
        "supported": sum(verdicts.count("supported") for verdicts in together) / (claims * studies),
        "studies_with_any_supported": sum("supported" in verdicts for verdicts in together) / studies,
        "not_supported": sum(verdicts.count("not supported") for verdicts in together) / (claims * studies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0, 3.0, 10.0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seeds in arguments.seeds:
        for noise in arguments.noise:
            began = time.process_time()
            rows.append(counted(seeds, noise, arguments.studies, arguments.images))
            print(json.dumps(rows[-1]), f"{time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    content = json.dumps({"command": "python bench/null_claims.py", "rows": rows}, indent=1)
    if arguments.out:
        arguments.out.write_text(content + "\n", encoding="utf-8")
    print(content)


if __name__ == "__main__":
    main()
