"""Networks: images (n, c, h, w) in [0, 1] in, logits (n, classes) out, normalisation inside.

Small CNN, CIFAR ResNets, PreActResNet-18, wide ResNets by name; any network of yours as
"package.module:factory"; weights in safetensors, and those of others (docs/models.md).
"""

from robustlens.models.compiled import compiled_apart, compiled_copy, repeated_gradients
from robustlens.models.copies import fast_copy, float64_copy, training_copy
from robustlens.models.external import refuse_network
from robustlens.models.fast_network import FastNetwork
from robustlens.models.fingerprint import fingerprint
from robustlens.models.inference import frozen, inference, preserved_state
from robustlens.models.input_gradients import ZeroGradient, has_input_gradient
from robustlens.models.loading import load, load_weights, to_bytes
from robustlens.models.normalize import Normalize
from robustlens.models.probe import as_logits, check_logits, device_of, failure_on, forward
from robustlens.models.registry import MODELS, build_from, check, count_parameters, describe, get
from robustlens.models.start import start_from

__all__ = [
    "MODELS",
    "FastNetwork",
    "Normalize",
    "ZeroGradient",
    "as_logits",
    "build_from",
    "check",
    "check_logits",
    "compiled_apart",
    "compiled_copy",
    "count_parameters",
    "describe",
    "device_of",
    "failure_on",
    "fast_copy",
    "fingerprint",
    "float64_copy",
    "forward",
    "frozen",
    "get",
    "has_input_gradient",
    "inference",
    "load",
    "load_weights",
    "preserved_state",
    "refuse_network",
    "repeated_gradients",
    "start_from",
    "to_bytes",
    "training_copy",
]
