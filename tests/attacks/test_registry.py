"""Attacks by name: entries, suites, steps in the name, factories of the user's."""

import pytest
import torch

import robustlens as rl
from robustlens.errors import ConfigError


def test_names_and_suites():
    threat = rl.ThreatModel("Linf", 0.1)
    assert rl.attacks.get("pgd-50", threat).steps == 50
    assert rl.attacks.get("cw-20", threat, restarts=4).loss == "margin"
    assert rl.attacks.names("fast") == ("fgsm", "pgd-20", "cw-20")
    for name in ("pdg", "fgsm-5", "pgd-0", "pgd-x", ""):
        with pytest.raises(ConfigError):
            rl.attacks.get(name, threat)
    with pytest.raises(ConfigError):
        rl.attacks.names(())
    with pytest.raises(ConfigError, match=r"found 'pdg', expected one of fgsm, .*; did you mean 'pgd'"):
        rl.attacks.get("pdg", threat)
    with pytest.raises(ConfigError, match="found 'fgsm-5', but 'fgsm' has no steps"):
        rl.attacks.get("fgsm-5", threat)


def test_an_entry_is_its_class_with_its_options_and_the_steps_of_the_class():
    threat = rl.ThreatModel("Linf", 0.1)
    expected = rl.attacks.APGD(threat, loss="dlr", targets=9, stop_at_success=True, restarts=2, seed=3)
    assert rl.attacks.get("apgd-t", threat, restarts=2, seed=3) == expected
    assert rl.attacks.get("square-70", threat, seed=1) == rl.attacks.Square(threat, queries=70, seed=1)
    assert rl.attacks.get("fgsm", threat, restarts=4) == rl.attacks.FGSM(threat)
    usual = {
        name: entry.count and getattr(entry(threat), entry.count)
        for name, entry in rl.attacks.ATTACKS.items()
    }
    assert usual == {
        "fgsm": None,
        "pgd": 20,
        "cw": 20,
        "apgd-ce": 100,
        "apgd-dlr": 100,
        "apgd-t": 100,
        "fab": 100,
        "fab-t": 100,
        "square": 5000,
        "min-norm": 100,
        "min-norm-adaptive": 23,
    }


def test_suites_have_their_published_budgets_and_take_restarts_only_without_one():
    for norm, restarts, targets in (("Linf", 1, 9), ("L2", 1, 9), ("L1", 5, 5)):
        standard = rl.attacks.chosen("standard", rl.ThreatModel(norm, 0.1), restarts=3, seed=2)
        assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert standard["apgd-ce"].restarts == restarts
        assert (standard["apgd-t"].targets, standard["apgd-t"].restarts) == (targets, 1)
        assert (standard["fab-t"].targets, standard["square"].queries) == (9, 5000)
        assert {attack.seed for attack in standard.values()} == {2}
    threat = rl.ThreatModel("Linf", 0.1)
    plus = rl.attacks.chosen("plus", threat)
    assert [plus[name].restarts for name in ("apgd-ce", "apgd-dlr", "fab", "square")] == [5, 5, 5, 1]
    assert [attack.eot for attack in rl.attacks.chosen("rand", threat).values()] == [20, 20]
    fast = rl.attacks.chosen("fast", threat, restarts=3)
    assert [fast[name].restarts for name in ("pgd-20", "cw-20")] == [3, 3]
    assert rl.attacks.suites_in(["fast", "pgd", "rand"]) == {
        "fast": ("fgsm", "pgd-20", "cw-20"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }


def test_a_factory_of_the_users_is_an_attack_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_attacks.py").write_text(
        "from robustlens.attacks import PGD\n"
        "def weak(threat, steps=3, seed=0):\n"
        "    return PGD(threat, steps, seed=seed)\n"
        "def plain(threat):\n"
        "    return PGD(threat, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    threat = rl.ThreatModel("Linf", 0.1)
    assert rl.attacks.get("my_attacks:weak", threat, restarts=2, seed=5) == rl.attacks.PGD(threat, 3, seed=5)
    assert rl.attacks.get("my_attacks:weak-7", threat) == rl.attacks.PGD(threat, 7)
    assert rl.attacks.get("my_attacks:plain", threat, seed=1) == rl.attacks.PGD(threat, 1)
    assert rl.attacks.names("fast,my_attacks:weak-7") == ("fgsm", "pgd-20", "cw-20", "my_attacks:weak-7")
    with pytest.raises(ConfigError, match="'my_attacks:plain' has no steps"):
        rl.attacks.get("my_attacks:plain-7", threat)
    with pytest.raises(ConfigError, match="has no 'strong'"):
        rl.attacks.get("my_attacks:strong", threat)


@pytest.mark.parametrize("name", [name for name in rl.attacks.ATTACKS if name != "fgsm"])
def test_restarts_and_their_tries_are_checked_and_counted_alike(name):
    attack = rl.attacks.get(name, rl.ThreatModel("Linf", 0.1), restarts=3)
    kind = type(attack)
    tries = attack.tries()
    targets = getattr(attack, "targets", 0)
    ranks = list(range(targets)) if targets else [None]
    assert [(getattr(each, "target_rank", None), each.restart) for each in tries] == [
        (rank, restart) for rank in ranks for restart in range(3)
    ]
    assert all(each.restarts == 1 and each.seed == attack.seed for each in tries)
    for options in ({"restarts": 0}, {"restart": -1}):
        (option,) = options
        with pytest.raises(ConfigError, match=f"attack: found {option} {options[option]}; expected >= "):
            kind(rl.ThreatModel("Linf", 0.1), **options)
    x = torch.rand(3, 8)
    assert torch.equal(tries[0].keys(x, 4), attack.keys(x, 4)) or targets
    assert not torch.equal(tries[0].keys(x, 4), tries[1].keys(x, 4))
