"""Two runs side by side: what differs in their recipes, and their numbers on the same images.

`compare` reads, `write_comparison` makes the page and the JSON file of it.
"""

from robustlens.report.comparison.comparing import compare
from robustlens.report.comparison.documents import (
    Comparison,
    FieldDifference,
    ImageComparison,
    QuantityChange,
    Side,
)
from robustlens.report.comparison.page import write_comparison, write_pages

__all__ = [
    "Comparison",
    "FieldDifference",
    "ImageComparison",
    "QuantityChange",
    "Side",
    "compare",
    "write_comparison",
    "write_pages",
]
