"""Runs on which the links of Wen et al.'s chain, and what `capacity` changes, hold, are reversed or show nothing."""

from collections.abc import Sequence

from helpers.claim_data import Net

LINKS: dict[str, tuple[tuple[str, tuple[float, ...]], tuple[str, tuple[float, ...]], int]] = {
    # claim: knobs of both quantities with their values over four seeds, and the way in which they go together
    "activations-follow-singular-values": (
        ("spectrum", (0.30, 0.32, 0.34, 0.36)), ("variation", (0.30, 0.32, 0.34, 0.36)), 1,
    ),
    "concentration-follows-activations": (
        ("variation", (0.30, 0.32, 0.34, 0.36)), ("near", (0.1, 0.12, 0.14, 0.16)), -1,
    ),
    "loss-gap-follows-concentration": (
        ("near", (0.1, 0.12, 0.14, 0.16)), ("loss_gap", (0.10, 0.12, 0.14, 0.16)), -1,
    ),
}  # fmt: skip
BOUNDS: dict[str, tuple[str, tuple[float, float], float]] = {
    # claim: knob, without and with bounds where the claim holds, and the effect these make
    "bounds-lower-singular-spread": ("kernel", (0.5, 0.3), -40.0),
    "bounds-lower-activation-spread": ("variation", (0.6, 0.3), -50.0),
    "bounds-concentrate-margins": ("near", (0.1, 0.5), 0.2),
    "bounds-shrink-loss-gap": ("loss_gap", (0.4, 0.1), -0.3),
}
ORDERS: dict[str, Sequence[int]] = {
    # place of the second quantity's value for each seed
    "holds": (0, 1, 2, 3),
    "reversed": (3, 2, 1, 0),
    "same": (1, 3, 0, 2),
    "equal": (0, 0, 0, 0),
}


def link_story(name: str, how: str, strengths: Sequence[float] = (0.0, 0.1, 0.2)) -> list[Net]:
    """Four seeds at each strength; from strength to strength both quantities go the other way together."""
    (first, xs), (second, ys), direction = LINKS[name]
    ys = ys[::direction]
    return [
        Net(eps, "at" if eps else "standard", seed=seed, knobs={
            first: xs[seed] * 2**place, second: ys[ORDERS[how][seed]] * 2 ** (-direction * place)
        })
        for place, eps in enumerate(strengths)
        for seed in range(4)
    ]  # fmt: skip


def bounds_story(name: str, how: str, seeds: int = 1) -> list[Net]:
    """AT without and with `capacity`, and a run of another recipe that is held against neither."""
    knob, values, _ = BOUNDS[name]
    values = {"holds": values, "reversed": values[::-1]}.get(how, (values[0], values[0]))
    return [
        net
        for seed in range(seeds)
        for net in (
            Net(0.1, seed=seed, knobs={knob: values[0]}, unbounded=f"at {seed}"),
            Net(0.1, seed=seed, method="AT bounded", knobs={knob: values[1]}, unbounded=f"at {seed}",
                capacity={"low": 0.8, "high": 1.25, "every": 1}),
            Net(0.1, "trades", seed=seed, knobs={knob: 0.2}, unbounded=f"trades {seed}"),
        )
    ]  # fmt: skip
