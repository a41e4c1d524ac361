"""Certificates: images proven robust, and lower bounds on the distance to the nearest adversarial image.

`certify` proves that no image inside a threat model is misclassified. `graph` records a network as its
operations, `operations` names the rule of each, `propagation` bounds margins with them, and `smoothing`
needs no rules. `margin` bounds distances by the layers' norms.
"""

from robustlens.certification.bounded import METHODS, BoundedNetwork
from robustlens.certification.certifiers import CERTIFIERS, certify
from robustlens.certification.margin import certificate
from robustlens.certification.verdict import Certification
from robustlens.certification.worst import logits_and_worst

__all__ = [
    "CERTIFIERS",
    "METHODS",
    "BoundedNetwork",
    "Certification",
    "certificate",
    "certify",
    "logits_and_worst",
]
