"""Suites: attacks by purpose, in order, each on the images that none before it has broken.

`standard`, `plus` and `rand` are AutoAttack's (Croce and Hein 2020, section 5, and the authors' release) with
the published budgets and no parameter to choose. For L1 they follow Croce and Hein 2021: five restarts of
APGD on cross entropy, and five target classes for APGD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustlens.threat import ThreatModel

Members = Mapping[str, Mapping[str, Any]]
"""Names of attacks, each with the options that differ from those of its entry in `ATTACKS`."""


@dataclass(frozen=True)
class Suite:
    """A suite of attacks.

    Args:
        members: its attacks.
        in_l1: options that differ further in the L1 norm.
        published: whether its budget is published; then it takes no restarts from the caller.
    """

    members: Members
    in_l1: Members = field(default_factory=dict)
    published: bool = True

    def options(self, threat: ThreatModel, restarts: int) -> dict[str, dict[str, Any]]:
        """The options of each attack against `threat`, in order."""
        common = {} if self.published else {"restarts": restarts}
        in_norm = self.in_l1 if threat.norm == "L1" else {}
        return {
            name: common | dict(options) | dict(in_norm.get(name, {}))
            for name, options in self.members.items()
        }


_FIVE = {"restarts": 5}

SUITES: dict[str, Suite] = {
    # Cheap, for use during training.
    "fast": Suite({"fgsm": {}, "pgd-20": {}, "cw-20": {}}, published=False),
    # AutoAttack as the field reports it: two gradient attacks, a minimum-norm one, a score-based one.
    "standard": Suite(
        {"apgd-ce": {}, "apgd-t": {}, "fab-t": {}, "square": {}},
        in_l1={"apgd-ce": _FIVE, "apgd-t": {"targets": 5}},
    ),
    # Its longest version: five restarts, untargeted and targeted.
    "plus": Suite(
        {"apgd-ce": _FIVE, "apgd-dlr": _FIVE, "fab": _FIVE, "square": {}, "apgd-t": {}, "fab-t": {}}
    ),
    # For randomised models: gradients averaged over 20 passes (EOT).
    "rand": Suite({"apgd-ce": {"eot": 20}, "apgd-dlr": {"eot": 20}}),
}
"""Suites by name."""
