"""The report: reads run files only, and never imports torch.

`write` makes the page of a study, `write_run` that of one run; `compare` and `write_comparison` set two runs
side by side (`comparison`). The first two read what is there (`data`), turn it into figures that no drawing
library has touched yet (`figures`, `drawing.spec`) and draw these twice: for the page (`drawing.plotly`) and
for papers (`drawing.matplotlib`). One colour, dash and marker per network, from `drawing.palette`, goes
through all of it. `text` has everything that is read rather than looked at.
"""

from robustlens.report.comparison import compare, write_comparison
from robustlens.report.page.rendering import write, write_run

__all__ = ["compare", "write", "write_comparison", "write_run"]
