"""Lightning Fabric, without the package that its import would bring for a class that is not used here."""

import logging
import sys

_UNUSED = "torchmetrics"

# Fabric asks for its version, which imports it and transformers: three times as long as Fabric itself.
_found = sys.modules.setdefault(_UNUSED, None)  # type: ignore[arg-type]  # None: there is no such module
try:
    from lightning_fabric import Fabric
finally:
    if _found is None:
        del sys.modules[_UNUSED]

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision to the terminal

__all__ = ["Fabric"]
