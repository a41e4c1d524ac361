"""Claims of the papers, checked on the runs of a study: run files in, `claims.json` out; no torch.

No claim is built in as true. A hypothesis is a quantity of a run and the direction in which a paper says it
goes; the verdict comes from the data, by one rule (`verdict.decide`):

- The *effect* is the quantity at the strongest strength minus at the weakest (or with AWP minus without; or
  a rank correlation), averaged over training seeds, with a 95 % interval. The *statistic* says how
  consistently it goes that way: Spearman's correlation with strength over all strengths and seeds, or the
  share of layers or of pairs.
- **Supported**: the whole interval lies on the claimed side of zero, and the statistic agrees: a
  correlation of at least 0.5 in the claimed direction where there are three strengths or more, a share of
  at least 2/3 of the layers, or of three pairs or more.
- **Not supported**: the whole interval lies on the other side of zero.
- **Inconclusive**: everything else. The interval holds zero; or the ends differ but the statistic does not
  agree; or distances are within what sampling alone gives; or data are missing, not finite, too few, or
  were measured under different conditions. No effect is called negligible: an interval tight around zero is
  inconclusive too, and shows how small an effect could be.

The claim's note says what the interval covers. With one seed it is a bootstrap over images, in pairs where
runs saw the same images, and covers no training randomness. With several it is a bootstrap over seeds and
images with Student's quantile. Training and test images are resampled apart. A quantity that is one number
per layer (spectra) has no images behind it: layers are the units, by an exact sign test, which takes six of
them. A claim about strengths is checked apart in every setting (architecture, BatchNorm, data ...) in which
the study has several of them; one about AWP or flatness at the primary and at the last checkpoint, where the
study evaluates both. Missing strengths in the middle of the sweep are named in the note; without its ends
there is no effect.

To add a claim, write one function of a run (`quantities`) and one entry of `CLAIMS` (`hypotheses`).
"""

from pathlib import Path

from robustlens.claims.evidence import StudyData
from robustlens.claims.hypothesis import Hypothesis
from robustlens.claims.wen2020 import hypotheses as wen2020
from robustlens.claims.wu2020 import hypotheses as wu2020
from robustlens.registry import Registry
from robustlens.results import ClaimResult, StudyFolder

__all__ = ["CLAIMS", "Hypothesis", "check", "write"]

CLAIMS: Registry[Hypothesis] = Registry(
    "claim", {hypothesis.id: hypothesis for hypothesis in (*wen2020.HYPOTHESES, *wu2020.HYPOTHESES)}
)
"""Every claim by its id, in the order of the report."""


def check(folder: Path | str) -> tuple[ClaimResult, ...]:
    """Check every registered claim on the runs of a study.

    Args:
        folder: a folder with `study.json` and `runs/`. It is only read.

    Raises:
        StateError: this is no study folder, or `study.json` is damaged. A run that is missing, failed or
            damaged raises nothing: the claims that need it are inconclusive and name it.
    """
    study = StudyData.of(StudyFolder(folder))
    return tuple(claim for hypothesis in CLAIMS.values() for claim in hypothesis.claims(study))


def write(folder: Path | str) -> tuple[ClaimResult, ...]:
    """As `check`, and write `claims.json` into the study folder; returns the claims."""
    claims = check(folder)
    StudyFolder(folder).write_claims(claims)
    return claims
