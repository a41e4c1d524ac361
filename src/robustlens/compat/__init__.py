"""Handles that users of other libraries know, on the attacks and the evaluation of this one.

`AutoAttack` takes the place of the reference implementation's class; `foolbox` and `torchattacks` hold
attacks that are called as theirs are. Names and signatures are theirs, the numbers are those of
`robustlens.evaluate` and `robustlens.attacks`.
"""

from robustlens.compat import foolbox, torchattacks
from robustlens.compat.autoattack import AutoAttack

__all__ = ["AutoAttack", "foolbox", "torchattacks"]
