"""The exact smallest margin of a small ReLU network over a Linf ball, by mixed-integer programming."""

from itertools import pairwise

import numpy as np
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn


def exact_margin(model: nn.Sequential, x: Tensor, y: int, eps: float) -> float:
    """Smallest f_y - f_i over all images within `eps` of x (d,) in [0, 1], over all classes i != y.

    `model` is linear layers with ReLUs between them. Each hidden unit has a binary variable, and a big M from
    the interval of its input (Tjeng, Xiao and Tedrake 2019, eq. 4); HiGHS solves one program a class.
    """
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in layers]
    biases = [layer.bias.detach().double().numpy() for layer in layers]
    low, high = np.clip(x.double().numpy() - eps, 0, 1), np.clip(x.double().numpy() + eps, 0, 1)
    sizes = [len(x), *(len(bias) for bias in biases[:-1])]
    places = np.cumsum([0, *sizes])
    hidden, total = sum(sizes[1:]), int(places[-1])
    lower, upper = np.zeros(total + hidden), np.ones(total + hidden)
    lower[: len(x)], upper[: len(x)] = low, high
    rows, least, most = [], [], []
    for (start, end), weight, bias in zip(pairwise(places[:-1]), weights[:-1], biases[:-1], strict=True):
        middle, spread = (low + high) / 2, (high - low) / 2
        before = weight @ middle + bias
        bottom, top = before - np.abs(weight) @ spread, before + np.abs(weight) @ spread
        for unit in range(len(bias)):
            value, switch = end + unit, total + end + unit - len(x)
            line = np.zeros(total + hidden)
            line[start:end], line[value] = -weight[unit], 1.0
            off, on = max(0.0, -bottom[unit]), max(0.0, top[unit])
            upper[value] = on
            shut, open_ = line.copy(), np.zeros(total + hidden)
            shut[switch] = off  # value - (w x + b) <= off (1 - switch)
            open_[value], open_[switch] = 1.0, -on  # value <= on switch
            rows += [line, shut, open_]
            least += [bias[unit], -np.inf, -np.inf]
            most += [np.inf, bias[unit] + off, 0.0]
        low, high = np.maximum(bottom, 0), np.maximum(top, 0)
    integral = np.concatenate([np.zeros(total), np.ones(hidden)])
    found = []
    for other in set(range(len(biases[-1]))) - {y}:
        cost = np.zeros(total + hidden)
        cost[places[-2] : total] = weights[-1][y] - weights[-1][other]
        solved = milp(
            cost,
            constraints=LinearConstraint(np.array(rows), least, most),
            integrality=integral,
            bounds=(lower, upper),
            options={"mip_rel_gap": 0.0},
        )
        assert solved.success, solved.message
        found.append(solved.fun + biases[-1][y] - biases[-1][other])
    return min(found)
