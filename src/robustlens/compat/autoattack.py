"""The class of the AutoAttack reference implementation (Croce and Hein 2020), on our attacks."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlens import models
from robustlens.attacks import ATTACKS, SUITES, Attack, chosen
from robustlens.compat.autoattack_lines import Survivors, lines_of
from robustlens.compat.forward import network_of
from robustlens.errors import ConfigError
from robustlens.evaluation import Evaluation, evaluate
from robustlens.registry import near_name, one_line
from robustlens.threat import ThreatModel

NAMES = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
"""Attacks that the reference implementation has."""
VERSIONS = ("standard", "plus", "rand", "custom")


@dataclass
class AttackBudget:
    """Budget of an attack; what is None is as the version of AutoAttack has it.

    Attributes:
        n_restarts: random restarts. n_iter: gradient steps. n_queries: of Square.
        n_target_classes: of a targeted attack. eot_iter: passes whose gradients are averaged.
    """

    n_restarts: int | None = None
    n_iter: int | None = None
    n_queries: int | None = None
    n_target_classes: int | None = None
    eot_iter: int | None = None


_OPTIONS = {
    "n_restarts": "restarts",
    "n_iter": "steps",
    "n_queries": "queries",
    "n_target_classes": "targets",
    "eot_iter": "eot",
}
_BUDGETS = {
    "apgd-ce": ("apgd", ("n_restarts", "n_iter", "eot_iter")),
    "apgd-dlr": ("apgd", ("n_restarts", "n_iter", "eot_iter")),
    "fab": ("fab", ("n_restarts", "n_iter")),
    "fab-t": ("fab", ("n_iter", "n_target_classes")),  # of one restart, as there
    "square": ("square", ("n_restarts", "n_queries")),
    "apgd-t": ("apgd_targeted", ("n_restarts", "n_iter", "n_target_classes", "eot_iter")),
}
"""Where the budget of each attack is set, and what of it the attack takes."""


class AutoAttack:
    """AutoAttack as its users call it; what breaks a model is what `rl.evaluate(..., attacks=version)` finds.

    Args:
        model: a network, or a function from images in [0, 1] to logits (n, classes). A network is attacked
            in eval mode; what a function calls is left as it is.
        norm: "Linf", "L2" or "L1".
        eps: radius.
        seed: base of the random numbers; None for 0, where the reference implementation takes the clock.
        verbose: print a line after each attack.
        attacks_to_run: names of attacks, in order, with version "custom".
        version: "standard", "plus", "rand", or "custom" for `attacks_to_run`.
        is_tf_model: TensorFlow models are not taken.
        device: of the images; None for that of the network.
        log_path: a file to which the lines are added, whether they are printed or not.

    `attacks_to_run`, `seed`, `verbose`, `log_path` and the budgets `apgd`, `apgd_targeted`, `fab` and
    `square` (`adversary.apgd.n_restarts = 2`) may be set before a run.

    Differs from the reference implementation: a success counts where the model is wrong in float32 and in
    float64; the verdict on an image does not depend on its batch.

    Raises:
        ConfigError: an unknown version, attack, norm or device; a model that cannot be called; a `log_path`
            that cannot be written to.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: Path | str | None = None,
    ) -> None:
        if is_tf_model:
            raise ConfigError("AutoAttack.is_tf_model: found True, expected a PyTorch model")
        self.model = network_of(model, device, "AutoAttack.model")
        self.threat = ThreatModel(norm, eps)
        self.seed, self.verbose, self.device, self.log_path = seed, verbose, device, log_path
        self.apgd, self.apgd_targeted = AttackBudget(), AttackBudget()
        self.fab, self.square = AttackBudget(), AttackBudget()
        if version != "custom" and attacks_to_run:
            raise ConfigError(
                f"AutoAttack.attacks_to_run: found names beside version {version!r}, expected 'custom'"
            )
        self.attacks_to_run = list(attacks_to_run)
        self.set_version(version)

    @property
    def norm(self) -> str:
        """Norm of the threat."""
        return self.threat.norm

    @property
    def epsilon(self) -> float:
        """Radius of the threat."""
        return self.threat.eps

    def set_version(self, version: str = "standard") -> None:
        """Take the attacks and budgets of a version; "custom" keeps the attacks that are set."""
        if version not in VERSIONS:
            raise ConfigError(
                f"AutoAttack.version: found {version!r}, expected one of {', '.join(VERSIONS)}"
                f"{near_name(version, VERSIONS)}"
            )
        self.version = version
        if version != "custom":
            self.attacks_to_run = list(SUITES[version].members)

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Path | str | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images by all attacks, each on the images that none before it broke.

        Args:
            x_orig: images (n, ...) in [0, 1].
            y_orig: labels (n,).
            bs: images at a time: speed, not verdicts.
            return_labels: whether the predicted classes are returned as well.
            state_path: a folder of the progress, from which the same call goes on after a stop.

        Returns:
            x_adv (n, ...), where nothing breaks an image the clean one; with `return_labels` also (n,) the
            model's classes on x_adv.

        Raises:
            As `robustlens.evaluate`.
        """
        evaluation = self._evaluated(self._attacks(), x_orig, y_orig, bs, state_path)
        return self._answer(evaluation, x_orig, bs, return_labels)

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """As `run_standard_evaluation` for each attack alone on all images, by its name."""
        answers = {}
        for name, attack in self._attacks().items():
            evaluation = self._evaluated({name: attack}, x_orig, y_orig, bs, None)
            answers[name] = self._answer(evaluation, x_orig, bs, return_labels)
        return answers

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of the images that the model gets right."""
        return float((self._classes(x_orig, bs) == y_orig.to(x_orig.device)).float().mean())

    def _attacks(self) -> dict[str, Attack]:
        """The attacks to run, each with its budget.

        Raises:
            ConfigError: none, an unknown one, or one twice.
        """
        names = list(self.attacks_to_run)
        for name in names:
            if name not in NAMES:
                expected = f"expected names of {', '.join(NAMES)}{near_name(name, NAMES)}"
                raise ConfigError(f"AutoAttack.attacks_to_run: found {name!r}, {expected}")
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"AutoAttack.attacks_to_run: found {names}, expected attacks, each once")
        published = {} if self.version == "custom" else SUITES[self.version].options(self.threat, 1)
        return {
            name: ATTACKS[name](
                self.threat, seed=self.seed or 0, **{**published.get(name, {}), **self._budget(name)}
            )
            for name in names
        }

    def _budget(self, name: str) -> dict[str, int]:
        """Options of an attack that the caller has set."""
        place, taken = _BUDGETS[name]
        budget = asdict(getattr(self, place))
        return {_OPTIONS[key]: budget[key] for key in taken if budget[key] is not None}

    def _evaluated(
        self, attacks: dict[str, Attack], x: Tensor, y: Tensor, bs: int, state: Path | str | None
    ) -> Evaluation:
        self._check_log()
        own_names = chosen(list(attacks.values()), self.threat, restarts=1, seed=self.seed or 0)
        survivors = Survivors(dict(zip(own_names, attacks, strict=True)), len(y), self._log)
        evaluation = evaluate(
            self.model,
            x,
            y,
            self.threat,
            list(attacks.values()),
            batch_size=bs,
            seed=self.seed or 0,
            state=state,
            save_adversarial=True,
            progress=survivors,
        )
        for line in list(lines_of(evaluation, list(attacks)))[survivors.lines :]:
            self._log(line)
        return evaluation

    def _answer(
        self, evaluation: Evaluation, x: Tensor, bs: int, return_labels: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert evaluation.x_adv is not None
        x_adv = evaluation.x_adv.to(x.device)
        return (x_adv, self._classes(x_adv, bs)) if return_labels else x_adv

    def _classes(self, x: Tensor, bs: int) -> Tensor:
        """Classes that the model predicts, on the device of the images."""
        place = models.device_of(self.model)
        with models.inference(self.model):
            predicted = [self.model(part.to(place)).argmax(1).to(x.device) for part in x.split(bs)]
        return torch.cat(predicted) if predicted else torch.zeros(0, dtype=torch.int64, device=x.device)

    def _check_log(self) -> None:
        """Raise `ConfigError` where `log_path` cannot be written to, before an hour is spent."""
        if self.log_path is None:
            return
        try:
            Path(self.log_path).open("a", encoding="utf-8").close()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"AutoAttack.log_path: found {str(self.log_path)!r}, expected a file that can be written "
                f"({one_line(error)})"
            ) from error

    def _log(self, line: str) -> None:
        if self.verbose:
            print(line, flush=True)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
