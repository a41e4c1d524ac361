"""Reliability flags: twelve models broken on purpose, one for each flag, and sound ones, which raise none.

    python bench/flags.py robustlens-out/quickstart/runs/* [--images 500] [--attacks fast]
    python bench/flags.py robustlens-out/quickstart/runs/* --images 200 --shares

The folders are runs whose models are sound. The first standard one (or else the first) is broken in twelve
ways: its weights stay, only the way in which it is used changes. All go through `rl.evaluate` at the eps of
their folder's evaluation (or else of their recipe). Prints a Markdown table; exit 1 unless every broken model
raises its flag and no sound model raises any.

With --shares, values that the thresholds of the checks that attack have to lie above: how many survivors of
"fast" the long attack and Square break in sound models, at that eps and at some L2 and L1 radii.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens import data, noise
from robustlens.data import Split


class Broken(nn.Module):
    """A model that is used in a way that breaks its evaluation."""

    def __init__(self, model: nn.Module, rule: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        """Logits, by the rule."""
        return self.rule(self.model, x)


def noise_on_the_input(model: nn.Module, x: Tensor) -> Tensor:
    return model(x + 0.05 * torch.randn_like(x))


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).softmax(1)


def squashed_logits(model: nn.Module, x: Tensor) -> Tensor:
    """To 1 for the predicted class and 0 for the others."""
    logits = model(x)
    return torch.sigmoid(1e3 * (logits - logits.topk(2).values.mean(1, keepdim=True)))


def pixels_stored_in_8_bits(model: nn.Module, x: Tensor) -> Tensor:
    """Changes no clean image."""
    return model((255 * x).round() / 255)


def centred_by_the_batch(model: nn.Module, x: Tensor) -> Tensor:
    """By the mean brightness of the batch instead of that of the training images."""
    return model(x - x.mean() + 0.3)


def adapting_normalisation(model: nn.Module, x: Tensor) -> Tensor:
    """The mean in the first layer follows the images that come by."""
    mean = model.get_buffer("normalize.mean")
    mean.lerp_(x.detach().mean((0, 2, 3)).view_as(mean), 0.001)
    return model(x)


def purified_input(model: nn.Module, x: Tensor) -> Tensor:
    """Each image moves to where the model is surer before it is classified."""
    moved = x.detach()
    with torch.enable_grad():
        for _ in range(3):
            leaf = moved.clone().requires_grad_()
            surest = model(leaf).log_softmax(1).amax(1).sum()
            (gradient,) = torch.autograd.grad(surest, leaf)
            moved = moved + 0.01 * gradient.sign()
    return model(x + (moved - x).detach())


def ripple_on_the_pixels(model: nn.Module, x: Tensor) -> Tensor:
    """Too low to change a prediction, so steep that it rules the gradient."""
    return model(x + 0.003 * torch.sin(2e4 * x))


def reversed_gradient(model: nn.Module, x: Tensor) -> Tensor:
    """The reversal layer of a domain-adversarial training was left in."""
    return model(2 * x.detach() - x)


def gradient_of_few_pixels(model: nn.Module, x: Tensor) -> Tensor:
    """One pixel in fifty lets the gradient through, others at every step."""
    passing = noise.uniform(noise.keys(x, 0), x) < 0.02
    return model(torch.where(passing, x, x.detach()))


def root_of_the_brightness(model: nn.Module, x: Tensor) -> Tensor:
    """A temperature that is NaN for dark images."""
    return model(x) / (x.flatten(1).mean(1, keepdim=True) - 0.2).sqrt()


def temperature_of_1e_4(model: nn.Module, x: Tensor) -> Tensor:
    return model(x) / 1e-4


BROKEN: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "randomised": noise_on_the_input,
    "softmax": probabilities,
    "vanishing-gradient": squashed_logits,
    "quantised": pixels_stored_in_8_bits,
    "batch-dependent": centred_by_the_batch,
    "state-changes": adapting_normalisation,
    "test-time-optimisation": purified_input,
    "masked-gradient": ripple_on_the_pixels,
    "huge-eps": reversed_gradient,
    "more-steps": gradient_of_few_pixels,
    "not-finite": root_of_the_brightness,
    "saturated": temperature_of_1e_4,
}
"""Rules that break a model, by the flag that has to be raised."""


def test_images(run: rl.Run, images: int) -> Split:
    test = data.of_spec(run.recipe.data).test
    return test.take(min(images, len(test)), 0)


def threat_of(run: rl.Run) -> rl.ThreatModel:
    evaluation = run.evaluation()
    eps = evaluation.threat.eps if evaluation else run.recipe.threat.eps
    return rl.ThreatModel(run.recipe.threat.norm, eps)


def raised(model: nn.Module, run: rl.Run, images: int, attacks: str) -> tuple[rl.Evaluation, float]:
    """The evaluation of `model` on test images of the run's data, and the seconds that it took."""
    part = test_images(run, images)
    began = time.perf_counter()
    evaluation = rl.evaluate(model, part.x(), part.labels, threat_of(run), attacks)
    return evaluation, time.perf_counter() - began


def row(name: str, expected: str, evaluation: rl.Evaluation, seconds: float) -> str:
    flags = ", ".join(flag.name for flag in evaluation.flags) or "none"
    shares = [f"{100 * evaluation.interval(mask).value:.1f}" for mask in ("clean", "robust")]
    return f"| {name} | {expected} | {flags} | {shares[0]} | {shares[1]} | {seconds:.1f} |"


def shares(run: rl.Run, images: int, threat: rl.ThreatModel) -> str:
    """One row: images that attacks break of those that survive others, in a sound model."""
    part = test_images(run, images)
    x, y, model = part.x(), part.labels, rl.models.load(run.folder)

    def survivors(rows: Tensor, *attacks: rl.attacks.Attack) -> Tensor:
        for attack in attacks:
            x_adv = attack(model, x[rows], y[rows])
            with torch.no_grad():
                rows = rows[~rl.losses.is_wrong(model(x_adv), y[rows])]
        return rows

    fast = survivors(torch.arange(len(x)), *rl.attacks.chosen("fast", threat).values())
    longer = rl.attacks.APGD(threat, steps=100, loss="margin", stop_at_success=True, seed=1)
    broken = [
        len(fast) - len(survivors(fast, attack)) for attack in (longer, rl.attacks.get("square-1000", threat))
    ]
    cells = [f"{count} ({100 * count / max(len(fast), 1):.1f} %)" for count in broken]
    return f"| {run.folder.name} | {threat.norm} {threat.eps:.3g} | {len(fast)} | {' | '.join(cells)} |"


def print_shares(runs: list[rl.Run], images: int) -> None:
    print(f"{images} test images\n\n| model | threat | survivors | APGD-100 breaks | Square-1000 breaks |")
    print("|---|---|---|---|---|")
    for run in runs:
        others = (rl.ThreatModel(norm, eps) for norm, eps in (("L2", 0.5), ("L2", 1.0), ("L1", 12.0)))
        for threat in (threat_of(run), *others):
            print(shares(run, images, threat), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--attacks", default="fast")
    parser.add_argument("--shares", action="store_true")
    args = parser.parse_args()
    runs = [rl.Run(folder) for folder in args.runs]
    if args.shares:
        print_shares(runs, args.images)
        return
    base = next((run for run in runs if run.recipe.objective == "standard"), runs[0])
    print(f"{args.images} test images, attacks {args.attacks!r}; broken on purpose: {base.folder.name}\n")
    print("| model | expected | flags raised | clean % | robust % | s |\n|---|---|---|---|---|---|")
    missed = alarms = 0
    for flag, rule in BROKEN.items():
        model = Broken(rl.models.load(base.folder), rule)
        evaluation, seconds = raised(model, base, args.images, args.attacks)
        missed += flag not in [each.name for each in evaluation.flags]
        print(row(rule.__name__.replace("_", " "), flag, evaluation, seconds), flush=True)
    for run in runs:
        evaluation, seconds = raised(rl.models.load(run.folder), run, args.images, args.attacks)
        alarms += bool(evaluation.flags)
        print(row(run.folder.name, "none", evaluation, seconds), flush=True)
    print(
        f"\n{len(BROKEN) - missed} of {len(BROKEN)} broken models flagged; {alarms} of {len(runs)} sound ones"
    )
    sys.exit(bool(missed or alarms))


if __name__ == "__main__":
    main()
