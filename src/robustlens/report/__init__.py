"""The report: reads run files only, and never imports torch.

`write` makes the page of a study, `write_run` that of one run. Both read what is there (`collect`), turn it
into figures that no drawing library has touched yet (`figures`, `spec`) and draw these twice: for the page
(`plotly_json`) and for papers (`files`). One colour, dash and marker per network, from `palette`, goes
through all of it.
"""

from robustlens.report.page.rendering import write, write_run

__all__ = ["write", "write_run"]
