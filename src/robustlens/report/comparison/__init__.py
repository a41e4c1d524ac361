"""Two runs side by side: what differs in their recipes, and their numbers on the same images.

`compare` reads, `write_comparison` makes the page and the JSON file of it.
"""

from robustlens.report.comparison.comparing import compare
from robustlens.report.comparison.documents import (
    Change,
    Comparison,
    FieldDifference,
    ImageComparison,
    Side,
)
from robustlens.report.comparison.page import write_comparison, write_pages

__all__ = [
    "Change",
    "Comparison",
    "FieldDifference",
    "ImageComparison",
    "Side",
    "compare",
    "write_comparison",
    "write_pages",
]
