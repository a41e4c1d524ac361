"""Estimate the runs of a study as evidence: arrays by image, with every gap in them named.

Nothing here raises for one bad run. What cannot be read becomes `Missing` or `Unusable`, whose message ends
in the claim's `why`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robustlens.claims.verdict import Missing, Unusable
from robustlens.errors import StateError
from robustlens.results.folders import Run, StudyFolder
from robustlens.stats.bootstrap import Array, Bootstrap, Examples, Quantity

LEAST_EXAMPLES = 50
"""Below this many images, or errors, resampling says too little about another draw of images."""


@dataclass(frozen=True)
class RunData:
    """One run, as the quantities of claims read it."""

    run: Run
    bootstrap: Bootstrap
    ending: str = ""
    """Of the names of its results, where these are of another checkpoint than the chosen one: "-last"."""
    peers: tuple[Run, ...] = field(default=(), repr=False)
    """All runs of the study, for what has to be chosen alike for all (the landscape's alpha)."""

    @property
    def label(self) -> str:
        """Method and strength, as the study shows them."""
        return str(self.run.entry.get("label", self.run.folder.name))

    @property
    def eps(self) -> float:
        """Training strength; standard training has none, whatever its recipe says."""
        return 0.0 if self.objective == "standard" else float(self.run.entry["eps"])

    @property
    def seed(self) -> int:
        """Training seed."""
        return int(self.run.entry["seed"])

    @property
    def objective(self) -> str:
        """Registered name of the training objective."""
        return str(self.run.entry["objective"])

    @property
    def awp(self) -> bool:
        """Whether weights were perturbed in training."""
        return bool(self.run.entry["awp"])

    @property
    def name(self) -> str:
        """For messages."""
        checkpoint = self.ending.replace("-", " ", 1).strip()
        return f"{self.label} (seed {self.seed}{checkpoint and f', {checkpoint}'})"

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that was evaluated here, or None where none was (or its file is damaged)."""
        try:
            return str(self.json("evaluation").get("checkpoint", "best"))
        except Missing:
            return None

    def at(self, ending: str) -> "RunData":
        """The same run at another checkpoint, by what its results' names end in."""
        return replace(self, ending=ending)

    def along(self) -> dict[int, "RunData"]:
        """This run at every epoch that was evaluated along its training, in order; `Missing` if at none."""
        try:
            found = self.run.along("evaluation")
        except StateError as error:
            raise Missing(str(error)) from None
        if not found:
            raise Missing(f"{self.name} {self._state()} and has no evaluation along its training")
        return {epoch: self.at(ending) for epoch, ending in found.items()}

    def array(self, file: str, key: str) -> np.ndarray:
        """One array of this run; raises `Missing` where it is not there."""
        file += self.ending
        if not (self.run.folder / f"{file}.safetensors").exists():
            raise Missing(f"{self.name} {self._state()} and has no {file}")
        try:
            return self.run.array(file, key)
        except KeyError:
            raise Missing(f"{self.name} has no {key} in its {file}") from None
        except StateError as error:
            raise Missing(str(error)) from None

    def json(self, file: str) -> dict[str, Any]:
        """`<file>.json` of this run; raises `Missing` where it is not there."""
        file += self.ending
        try:
            found = self.run.read_json(file)
        except StateError as error:
            raise Missing(str(error)) from None
        if found is None:
            raise Missing(f"{self.name} {self._state()} and has no {file}")
        return found

    def measure(self, name: str) -> dict[str, Any]:
        """`value` of one measure of `explanation.json`."""
        measure = self.json("explanation").get("measures", {}).get(name)
        if measure is None:
            raise Missing(f"{self.name} has no measure {name} in its explanation")
        return dict(measure["value"])

    def examples(self, file: str, index: str, *keys: str) -> tuple[Examples, list[Array]]:
        """Arrays over the same images (the last axis), in the order of the image index.

        Runs measured on the same images get the same `Examples`, and so are resampled in pairs. Where no
        index is saved, rows are taken for the same images if the plan of the measurement is the same.

        Raises:
            Missing: an array is not there.
            Unusable: a value is not finite, or there are fewer than 50 images.
        """
        arrays = [self.array(file, key).astype(np.float64) for key in keys]
        n = arrays[0].shape[-1]
        for key, array in zip(keys, arrays, strict=True):
            if array.shape[-1] != n:
                raise Unusable(f"{self.name}: {key} has {array.shape[-1]} images, {keys[0]} has {n}")
            if not np.isfinite(array).all():
                raise Unusable(f"{self.name}: {key} holds values that are not finite")
        if n < LEAST_EXAMPLES:
            raise Unusable(f"{self.name} was measured on {n} images; at least {LEAST_EXAMPLES} are needed")
        split = "train" if "train" in index else "test"
        try:
            position = self.array(file, index)
        except Missing:
            plan = json.dumps(self.json(file).get("plan"), sort_keys=True)
            return Examples(_key(split, n, plan.encode()), n), arrays
        if position.shape != (n,):
            raise Unusable(f"{self.name}: {index} has shape {position.shape}, {keys[0]} has {n} images")
        order = np.argsort(position, kind="stable")
        key = _key(split, n, position[order].astype(np.int64).tobytes())
        return Examples(key, n), [array[..., order] for array in arrays]

    def layers(self, prefix: str) -> list[str]:
        """Names of the layers that `explanation.safetensors` holds under `prefix`, in its order."""
        try:
            names = self.run.array_names(f"explanation{self.ending}", f"{prefix}/")
        except StateError as error:
            raise Missing(str(error)) from None
        found = [name.removeprefix(f"{prefix}/") for name in names if not name.endswith("/index")]
        if not found:
            raise Missing(f"{self.name} {self._state()} and has no {prefix}")
        return found

    def _state(self) -> str:
        """What `run.json` says, for a message that ends in "and has no ..."."""
        try:
            status = self.run.status
        except StateError:
            return "has a damaged run.json"
        if status.get("status") == "failed":
            error = status.get("error") or {}
            return f"failed ({error.get('message') or error.get('type') or 'no reason saved'})"
        return f"is {status.get('status', 'new')}"


def _key(split: str, n: int, content: bytes) -> str:
    return f"{split} {n} {hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Estimate:
    """A quantity of one run, and its value."""

    source: RunData
    quantity: Quantity
    value: Array

    def entry(self) -> dict[str, Any]:
        """For `values` of the claim; a number per layer is summed up by its median."""
        value = float(np.median(self.value))
        found = {"label": self.source.label, "eps": self.source.eps, "seed": self.source.seed, "value": value}
        return found | ({"checkpoint": self.source.ending[1:]} if self.source.ending else {})


@dataclass(frozen=True)
class StudyData:
    """The runs of a study, or those of one of its settings, and the resamples that every claim shares."""

    sources: Sequence[RunData]
    bootstrap: Bootstrap
    setting: str = ""
    """Where this is, as a phrase: "in" some methods, "at" a checkpoint; empty for a study as a whole."""

    @classmethod
    def of(cls, folder: StudyFolder, bootstrap: Bootstrap | None = None) -> "StudyData":
        """Everything that a study holds."""
        bootstrap = bootstrap or Bootstrap()
        runs = tuple(folder.runs())
        return cls([RunData(run, bootstrap, peers=runs) for run in runs], bootstrap)

    def settings(self) -> list["StudyData"]:
        """The settings in which strengths can be compared, each by itself: nothing else differs inside one.

        A study that climbs its ladder once (or not at all) is one setting, and keeps all its runs.
        """
        rungs: dict[Any, list[RunData]] = {}
        for source in self._rungs():
            rungs.setdefault(source.run.entry.get("setting"), []).append(source)
        ladders = [found for found in rungs.values() if len({source.eps for source in found}) > 1]
        if len(ladders) < 2:
            return [self]
        return [StudyData(found, self.bootstrap, f"in {_methods(found)}") for found in ladders]

    def checkpoints(self) -> list["StudyData"]:
        """The study at its chosen checkpoints, and apart at the last ones where these were evaluated."""
        last = [source.at("-last") for source in self.sources]
        if all(source.checkpoint is None for source in last):
            return [self]
        return [
            replace(self, setting=f"at the {self.sources[0].checkpoint or 'best'} checkpoint"),
            replace(self, sources=last, setting="at the last checkpoint"),
        ]

    def ladder(self) -> list[RunData]:
        """Standard training and plain adversarial training, one run for each strength and seed, ascending.

        Where a study trains one strength and seed in two ways, the method with more runs is taken.
        """
        steps = self._rungs()
        # Nothing but the strength may differ: the most common setting counts (studies of before have none).
        settings = [source.run.entry.get("setting") for source in steps]
        usual = max(settings, key=settings.count, default=None)
        steps = [source for source, setting in zip(steps, settings, strict=True) if setting == usual]
        methods = [str(source.run.entry.get("method", "")) for source in steps]
        ranked = sorted(range(len(steps)), key=lambda row: -methods.count(methods[row]))
        chosen: dict[tuple[float, int], RunData] = {}
        for row in ranked:
            chosen.setdefault((steps[row].eps, steps[row].seed), steps[row])
        return [chosen[key] for key in sorted(chosen)]

    def _rungs(self) -> list[RunData]:
        """Every run of standard or plain adversarial training."""
        return [
            source
            for source in self.sources
            if not source.awp
            and (source.objective == "standard" or (source.objective == "at" and source.eps > 0))
        ]

    def pairs(self) -> list[tuple[RunData, RunData | None]]:
        """Every adversarially trained run with AWP, after its twin without (None where there is none).

        The paper's AWP: runs that take it from the attack's gradient are left out.
        """
        plain = {}
        for source in reversed(self.sources):
            if not source.awp:
                plain[_twin_key(source)] = source
        with_awp = (s for s in self.adversarial() if s.awp and not s.run.entry.get("awp_from_attack"))
        return [(source, plain.get(_twin_key(source))) for source in with_awp]

    def adversarial(self) -> list[RunData]:
        """Every adversarially trained run."""
        return [source for source in self.sources if source.objective != "standard" and source.eps > 0]


def _methods(sources: Iterable[RunData]) -> str:
    """Names of the methods of these runs, in the order of the study."""
    return ", ".join(dict.fromkeys(str(source.run.entry.get("method", "")) for source in sources))


def _twin_key(source: RunData) -> tuple[Any, ...]:
    """What a run with AWP shares with its twin: the whole recipe but AWP, where the study says so."""
    without_awp = source.run.entry.get("without_awp")
    return (without_awp,) if without_awp else (source.objective, source.eps, source.seed)


Estimator = Callable[[RunData], Quantity]


def read(measure: Estimator, sources: Iterable[RunData]) -> tuple[list[Estimate], list[str]]:
    """The quantity of each run that has it, and what is missing of the others.

    Raises:
        Unusable: a value is not finite, or the runs were measured under different conditions.
    """
    readings, missing = [], []
    for source in sources:
        try:
            quantity = measure(source)
        except Missing as reason:
            missing.append(str(reason))
            continue
        value = quantity.value()
        if not np.isfinite(value).all():
            raise Unusable(f"{source.name}: the value is not finite")
        readings.append(Estimate(source, quantity, value))
    _alike(readings, "under different conditions", lambda reading: reading.quantity.conditions)
    _alike(readings, "on different layers", lambda reading: ", ".join(reading.quantity.layers))
    return readings, missing


def _alike(readings: Sequence[Estimate], how: str, of: Callable[[Estimate], str]) -> None:
    for reading in readings[1:]:
        if of(reading) != of(readings[0]):
            one, other = readings[0], reading
            raise Unusable(
                f"{one.source.name} and {other.source.name} were measured {how} "
                f"({of(one) or 'none'}; {of(other) or 'none'})"
            )


def listed(reasons: Sequence[str]) -> str:
    """The first two reasons, and how many more there are."""
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return "; ".join(reasons[:2]) + more
