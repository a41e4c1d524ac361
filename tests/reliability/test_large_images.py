"""Checks that attack take large images in parts, to the same survivors."""

import torch
from torch import nn

from robustlens import attacks
from robustlens.reliability import diagnostics as room
from robustlens.reliability.state import ModelState
from robustlens.threat import ThreatModel


def test_survivors_of_an_attack_do_not_depend_on_the_parts(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    threat = ThreatModel("Linf", 0.1)
    x = torch.rand(40, 3, 2, 2)
    y = model(x).argmax(1)
    looked = room.Diagnostics(model, x, y, threat, ModelState(model))
    rows = torch.arange(3, 40)
    attack = attacks.PGD(threat, steps=5)
    whole = looked.survivors_of(attack, rows)
    assert 0 < len(whole) < len(rows)
    sizes: list[int] = []
    model.register_forward_hook(lambda module, given, output: sizes.append(len(given[0])))
    monkeypatch.setattr(room, "_ELEMENTS", 60)
    assert torch.equal(looked.survivors_of(attack, rows), whole)
    assert max(sizes) == 5
