"""Claims of the papers, checked on the runs of a study: run files in, `claims.json` out; no torch.

No claim is built in as true. A hypothesis is a quantity of a run and the direction in which a paper says it
goes; the verdict comes from the data, by one rule (`verdict.decide`) and one control of all claims that a
study decides (`family.controlled`):

- The *effect* is the quantity at the strongest strength minus at the weakest (or with AWP minus without; or
  a rank correlation), averaged over training seeds, with a 95 % interval. The *statistic* says how
  consistently it goes that way: Spearman's correlation with strength over all strengths and seeds, or the
  share of layers or of pairs.
- **Supported**: the whole interval lies on the claimed side of zero, the statistic agrees (a correlation of
  at least 0.5 in the claimed direction where there are three strengths or more, a share of at least 2/3 of
  the layers, or of three pairs or more), and so it stays among all claims of the study.
- **Not supported**: the whole interval lies on the other side of zero, and so it stays.
- **Inconclusive**: everything else that was tested. The interval holds zero; or the ends differ but the
  statistic does not agree; or distances are within what sampling alone gives; or data are not finite, too
  few, or were measured under different conditions; or the claim is clear by itself, but not among the others.
  No effect is called negligible: an interval tight around zero is inconclusive too, and shows how small an
  effect could be.

A verdict has a *scope*. These three are **decided**: they speak of training anew, and take three training
seeds (of every method, where methods are correlated). Fewer seeds **describe** the networks that there are:
the same rule then says **as claimed**, **opposite** or **unclear**, over images (or layers) only. Another
training run might say otherwise, so no description is ever called supported; layers of one network are no
sample of networks. What a study has nothing to test on is **untested**, with the lines of a study file that
would measure it.

*All claims together.* The test that a decided claim's interval inverts gives a two-sided p-value: of
Student's statistic with Satterthwaite's degrees of freedom over seeds, of the exact sign test over layers and
of Student's over seeds, the larger, or of a rank correlation's z and its permutation test, the larger. Over
these the false discovery rate is held at 5 % (`family`). Sensitivity checks are second looks: they stand in
the note, decide nothing and are not in the family.

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
from robustlens.claims.family import controlled
from robustlens.claims.further import hypotheses as further
from robustlens.claims.hypothesis import Hypothesis
from robustlens.claims.wen2020 import hypotheses as wen2020
from robustlens.claims.wu2020 import hypotheses as wu2020
from robustlens.registry import Registry
from robustlens.results import ClaimResult, StudyFolder

__all__ = ["CLAIMS", "Hypothesis", "check", "judge", "write"]

CLAIMS: Registry[Hypothesis] = Registry(
    "claim",
    {
        hypothesis.id: hypothesis
        for hypothesis in (*wen2020.HYPOTHESES, *wu2020.HYPOTHESES, *further.HYPOTHESES)
    },
)
"""Every claim by its id, in the order of the report."""


def check(folder: Path | str) -> tuple[ClaimResult, ...]:
    """Check every registered claim on the runs of a study.

    Args:
        folder: a folder with `study.json` and `runs/`. It is only read.

    Raises:
        StateError: this is no study folder, or `study.json` is damaged. A run that is missing, failed or
            damaged raises nothing: the claims that need it are untested or inconclusive and name it.
    """
    return judge(StudyData.of(StudyFolder(folder)))


def judge(study: StudyData) -> tuple[ClaimResult, ...]:
    """Every registered claim on a study, and all that it decides controlled together."""
    return controlled([claim for hypothesis in CLAIMS.values() for claim in hypothesis.claims(study)])


def write(folder: Path | str) -> tuple[ClaimResult, ...]:
    """As `check`, and write `claims.json` into the study folder; returns the claims."""
    claims = check(folder)
    StudyFolder(folder).write_claims(claims)
    return claims
