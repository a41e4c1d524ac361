"""Lightning Fabric, without the package that its import would bring for a class that is not used here."""

import logging
import sys
from importlib.util import find_spec
from types import ModuleType

_UNUSED = "torchmetrics"

# Fabric asks whether it is new enough, which imports it and transformers: three times as long as Fabric
# itself. The version of an empty module in its place is read from the package's metadata.
_left_out = _UNUSED not in sys.modules and find_spec(_UNUSED) is not None
if _left_out:
    sys.modules[_UNUSED] = ModuleType(_UNUSED)
try:
    from lightning_fabric import Fabric
finally:
    if _left_out:
        del sys.modules[_UNUSED]

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision to the terminal

__all__ = ["Fabric"]
