"""Lightning Fabric, without the package that its import would bring for a class that is not used here."""

import contextlib
import importlib.metadata
import logging
import sys

_UNUSED, _ASKED = "torchmetrics", "_TORCHMETRICS_GREATER_EQUAL_1_0_0"

# Fabric asks for its version, which imports it and transformers: three times as long as Fabric itself.
_hidden = _UNUSED not in sys.modules
if _hidden:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # there is no such module
try:
    from lightning_fabric import Fabric
finally:
    if _hidden:
        del sys.modules[_UNUSED]

if _hidden:  # the answer, for others in this process
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        _is_new = int(importlib.metadata.version(_UNUSED).split(".")[0]) >= 1
        for _name, _module in list(sys.modules.items()):
            if _name.startswith("lightning_fabric.") and hasattr(_module, _ASKED):
                setattr(_module, _ASKED, _is_new)

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision to the terminal

__all__ = ["Fabric"]
