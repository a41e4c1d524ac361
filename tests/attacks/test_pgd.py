"""Attacks against models whose worst case is known in closed form."""

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.errors import ConfigError, ModelError


def binary_linear(dim=60, seed=0):
    """Two classes, f = (w.x + b, 0), and images of which many pixels are near or at the box."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(dim, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, dim, generator=generator))
        model.weight[1] = 0
        model.bias.copy_(torch.randn(2, generator=generator) * 0.1)
    x = (torch.rand(200, dim, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    y = model(x).argmax(1)
    return model, x, y


def worst_fall(norm, eps, w, x, y):
    """The largest possible fall of y's margin: maximise g.d over the ball cut with the box.

    Linf: every coordinate goes as far as ball and box let it. L2: d = clamp(t g) with the t in closed form
    from the optimality conditions, found by sorting the points at which coordinates meet the box. L1:
    greedy, the steepest coordinate first, each to the box.
    """
    signs = torch.where(y == 0, -1.0, 1.0).double()
    g = signs[:, None] * w[None]
    room = torch.where(g > 0, 1 - x, x)
    if norm == "Linf":
        return (g.abs() * room.clamp_max(eps)).sum(1)
    if norm == "L1":
        falls = []
        for gi, ri in zip(g.abs(), room, strict=True):
            order = gi.argsort(descending=True)
            used = ri[order].cumsum(0)
            spent = (eps - (used - ri[order])).clamp_min(0).minimum(ri[order])
            falls.append((gi[order] * spent).sum())
        return torch.stack(falls)
    falls = []
    for gi, ri in zip(g.abs(), room, strict=True):
        meets = (ri / gi).sort().values  # t at which each coordinate meets the box
        for t_low, t_high in zip(
            [torch.tensor(0.0), *meets], [*meets, torch.tensor(float("inf"))], strict=True
        ):
            held = ri / gi <= t_low
            free = gi[~held].square().sum()
            t = ((eps**2 - ri[held].square().sum()).clamp_min(0) / free).sqrt() if free > 0 else t_low
            if t <= t_high:
                falls.append((gi * (t * gi).minimum(ri)).sum())
                break
    return torch.stack(falls)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("norm", "eps", "steps"), [("Linf", 0.1, 20), ("Linf", 0.4, 20), ("L2", 0.5, 100), ("L2", 2.5, 100)]
)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_reaches_the_worst_case_of_a_linear_classifier_on_every_example(norm, eps, steps, loss, seed):
    model, x, y = binary_linear(seed=seed)
    w = (model.weight[0] - model.weight[1]).detach()
    x_adv = rl.attacks.PGD(rl.ThreatModel(norm, eps), steps=steps, step_size=eps / 4, loss=loss)(model, x, y)
    signs = torch.where(y == 0, 1.0, -1.0).double()
    fall = signs * ((x - x_adv) @ w)
    exact = worst_fall(norm, eps, w, x, y)
    assert (fall <= exact * (1 + 1e-6) + 1e-9).all(), (
        "beyond the exact worst case: infeasible or a wrong oracle"
    )
    assert (fall >= exact * (1 - 1e-4)).all()


def test_pgd_l1_comes_close_to_the_worst_case_of_a_linear_classifier():
    model, x, y = binary_linear()
    w = (model.weight[0] - model.weight[1]).detach()
    x_adv = rl.attacks.PGD(rl.ThreatModel("L1", 4.0), steps=100, step_size=0.3)(model, x, y)
    fall = torch.where(y == 0, 1.0, -1.0).double() * ((x - x_adv) @ w)
    exact = worst_fall("L1", 4.0, w, x, y)
    assert (fall <= exact * (1 + 1e-6)).all()
    # A step moves 5 % of the coordinates, so plain PGD is slow at the L1 ball's corners.
    assert (fall >= exact * 0.75).all()
    assert (fall / exact).mean() >= 0.95


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_verdicts_are_exact_just_inside_and_just_outside_the_margin(norm):
    model, x, y = binary_linear()
    w = (model.weight[0] - model.weight[1]).detach()
    logits = model(x)
    margin = (logits[:, 0] - logits[:, 1]).abs().detach()
    for i in range(15):
        low, high = 0.0, 1.0 if norm == "Linf" else 8.0
        if worst_fall(norm, high, w, x[i : i + 1], y[i : i + 1]) <= margin[i]:
            continue  # the box holds no image of the other class
        for _ in range(30):  # the exact distance by bisection on the exact worst case
            middle = (low + high) / 2
            beyond = worst_fall(norm, middle, w, x[i : i + 1], y[i : i + 1]) > margin[i]
            low, high = (low, middle) if beyond else (middle, high)
        for factor, robust in ((0.999, True), (1.001, False)):
            attack = rl.attacks.PGD(
                rl.ThreatModel(norm, factor * high), steps=100, step_size=factor * high / 3
            )
            x_adv = attack(model, x[i : i + 1], y[i : i + 1])
            assert bool((model(x_adv).argmax(1) == y[i : i + 1]).all()) == robust


def test_fgsm_is_one_signed_step():
    model, x, y = binary_linear()
    w = (model.weight[0] - model.weight[1]).detach()
    towards = torch.where(y == 0, -1.0, 1.0).double()[:, None] * w.sign()
    x_adv = rl.attacks.FGSM(rl.ThreatModel("Linf", 0.07))(model, x, y)
    torch.testing.assert_close(x_adv, (x + 0.07 * towards).clamp(0, 1))


def test_pgd_keeps_the_iterate_with_the_highest_loss():
    # A step of 2 eps on a one-pixel hill overshoots for ever between the two ends of the ball.
    class Hill(nn.Module):
        def forward(self, x):
            height = 1 - (x - 0.55).square().sum(1)
            return torch.stack([-height, height], 1)

    threat = rl.ThreatModel("Linf", 0.1)
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    best = rl.attacks.PGD(threat, steps=6, step_size=0.06, random_start=False, loss="margin")(Hill(), x, y)
    torch.testing.assert_close(best, torch.tensor([[0.56]]))  # 0.5, 0.56, 0.5, 0.56 ...
    last = rl.attacks.PGD(threat, steps=6, step_size=0.06, random_start=False, loss="margin", keep="last")
    torch.testing.assert_close(last(Hill(), x, y), torch.tensor([[0.5]]))


def test_an_iterate_that_fools_the_model_outranks_one_with_a_higher_loss():
    class Tricky(nn.Module):
        """Near x the runner-up wins by a little; far away p_y is smaller but y is still the argmax."""

        def forward(self, x):
            near = torch.tensor([1.0, 1.1, -9.0, -9.0])
            far = torch.tensor([0.1, 0.0, 0.0, 0.0])
            weight = ((x - 0.52) / 0.05).clamp(0, 1)
            return (1 - weight) * near + weight * far

    threat = rl.ThreatModel("Linf", 0.1)
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    model = Tricky()
    low = nn.functional.cross_entropy(model(torch.tensor([[0.5]])), y)
    high = nn.functional.cross_entropy(model(torch.tensor([[0.58]])), y)
    assert high > low  # so the far point has the higher loss although it is right
    x_adv = rl.attacks.PGD(threat, steps=10, step_size=0.03, random_start=False)(model, x, y)
    assert model(x_adv).argmax(1) != y


def test_no_image_comes_back_better_than_it_was():
    class Mistaken(nn.Module):
        """Wrong at x and nowhere else."""

        def forward(self, x):
            at_x = (x - 0.5).abs().amax(1) < 1e-3
            return torch.stack([torch.where(at_x, -1.0, 1.0) + 0 * x.sum(1), 0 * x.sum(1)], 1)

    x, y = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    x_adv = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=3)(Mistaken(), x, y)
    assert (Mistaken()(x_adv).argmax(1) != y).all()


def test_restarts_only_ever_help_and_stopping_early_changes_no_verdict():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)
    ).double()
    x, y = torch.rand(300, 20, dtype=torch.float64), torch.randint(0, 5, (300,))
    y = model(x).argmax(1)
    threat = rl.ThreatModel("Linf", 0.08)

    def robust(**options):
        x_adv = rl.attacks.PGD(threat, steps=5, **options)(model, x, y)
        return model(x_adv).argmax(1) == y

    once, thrice = robust(), robust(restarts=3)
    assert 0 < once.sum() < len(x)
    assert not (thrice & ~once).any()
    assert thrice.sum() < once.sum(), "restarts that begin at other points break more"
    assert torch.equal(robust(stop_at_success=True), once)
    assert torch.equal(robust(stop_at_success=True, restarts=3), thrice)


def test_a_targeted_attack_reaches_its_class():
    torch.manual_seed(0)
    model = nn.Linear(30, 4).double()
    x = torch.rand(50, 30, dtype=torch.float64)
    target = (model(x).argmax(1) + 1) % 4
    for loss in ("ce", "margin", "dlr"):
        x_adv = rl.attacks.PGD(rl.ThreatModel("Linf", 0.5), steps=40, loss=loss, targeted=True)(
            model, x, target
        )
        assert (model(x_adv).argmax(1) == target).float().mean() > 0.9


def test_nan_logits_count_as_broken_and_gradients_stay_finite():
    class Nan(nn.Module):
        def forward(self, x):
            return x[:, :3] * float("nan")

    x, y = torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)
    x_adv = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=3)(Nan(), x, y)
    assert torch.isfinite(x_adv).all()


def test_parameters_get_no_gradient_while_attacked():
    model = nn.Linear(10, 3)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(module.weight.requires_grad))
    rl.attacks.PGD(rl.ThreatModel("L2", 0.3), steps=2)(model, torch.rand(4, 10), torch.tensor([0, 1, 2, 0]))
    assert seen
    assert not any(seen)
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_a_model_without_input_gradient_is_one_clear_line():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach()[:, :3]

    threat, x, y = rl.ThreatModel("Linf", 0.1), torch.rand(2, 5), torch.tensor([0, 0])
    with pytest.raises(ModelError, match="no gradient with respect to the input"):
        rl.attacks.PGD(threat)(Detached(), x, y)
    trained = nn.Sequential(Detached(), nn.Linear(3, 3))
    with pytest.raises(ModelError, match="no gradient with respect to the input"):
        rl.attacks.craft(
            rl.attacks.PGD(threat, steps=1, keep="last"), trained, x, y, weights=[trained[1].weight]
        )


def test_crafting_for_training_gives_the_gradient_of_its_last_pass_and_none_for_unused_weights():
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(5, 3)}).double()
    model.forward = model["used"].forward
    x, y = torch.rand(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=1, random_start=False, keep="last")
    weights = [model["used"].weight, model["unused"].weight]
    crafted = rl.attacks.craft(attack, model, x, y, weights=weights)
    used, unused = crafted.weight_gradients
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), model["used"].weight)
    torch.testing.assert_close(used, expected)
    assert torch.equal(unused, torch.zeros(3, 5).double())
    assert torch.equal(crafted.x_adv, attack(model, x, y))


def test_crafting_leaves_frozen_weights_frozen_also_where_it_raises():
    model = nn.Linear(5, 3)
    model.weight.requires_grad_(False)
    x, y = torch.rand(4, 5), torch.tensor([0, 1, 2, 0])
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=2, keep="last")
    crafted = rl.attacks.craft(attack, model, x, y, weights=[model.weight, model.bias])
    assert [gradient.shape for gradient in crafted.weight_gradients] == [(3, 5), (3,)]
    assert [weight.requires_grad for weight in (model.weight, model.bias)] == [False, True]
    passes = iter([None])
    model.register_forward_pre_hook(lambda module, inputs: next(passes))  # the second pass raises
    with pytest.raises(StopIteration):
        rl.attacks.craft(attack, model, x, y, weights=[model.weight, model.bias])
    assert [weight.requires_grad for weight in (model.weight, model.bias)] == [False, True]


def test_crafting_without_images_gives_no_gradient():
    model, attack = nn.Linear(5, 3), rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=2, keep="last")
    none = torch.zeros(0, dtype=torch.int64)
    crafted = rl.attacks.craft(attack, model, torch.rand(0, 5), none, weights=[model.weight])
    assert crafted.x_adv.shape == (0, 5)
    assert torch.equal(crafted.weight_gradients[0], torch.zeros(3, 5))


def test_any_attack_crafts_and_those_that_end_with_their_last_step_give_gradients():
    threat, model = rl.ThreatModel("Linf", 0.1), nn.Linear(5, 3)
    x, y = torch.rand(4, 5), torch.tensor([0, 1, 2, 0])
    for attack in (
        rl.attacks.FGSM(threat),
        rl.attacks.PGD(threat, steps=2),
        rl.attacks.APGD(threat, steps=2),
    ):
        assert not rl.attacks.gives_weight_gradients(attack)
        crafted = rl.attacks.craft(attack, model, x, y, weights=[model.weight])
        assert crafted.weight_gradients is None
        assert torch.equal(crafted.x_adv, attack(model, x, y))
    last = rl.attacks.PGD(threat, steps=2, keep="last")
    assert rl.attacks.gives_weight_gradients(last)
    assert rl.attacks.craft(last, model, x, y).weight_gradients is None  # nothing was asked for
    with pytest.raises(ConfigError, match="expected 'last' to craft for training"):
        rl.attacks.PGD(threat).craft(model, x, y, weights=[model.weight])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps 0"),
        ({"step_size": -1.0}, "step_size"),
        ({"keep": "worst"}, "expected best or last"),
        ({"model_mode": "Train"}, "eval or train"),
        ({"loss": "hinge"}, "one of ce, margin, dlr, kl"),
        ({"restarts": 2, "random_start": False}, "every restart is the same"),
        ({"restarts": 2, "keep": "last"}, "does not compare iterates"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), **options)
    assert "\n" not in str(caught.value)
