"""How near a written answer is to its reference, by the measures the field reports: sacrebleu and rouge-score compute them.

    rouge_l        F of the longest common subsequence of words (Lin 2004); rouge-score's, whose words are of a-z and 0-9
    chrf           F2 of character n-grams, of each row, averaged (Popović 2015); any language
    bleu           BLEU of all rows together, words as "13a" splits them (Papineni et al. 2002; Post 2018)
    length_error   how far the characters of all answers are from those of their references, as a share of these
    refused        share of answers that decline to answer, by the words English-speaking models do that with

The first three are shares here (0 to 1), where sacrebleu prints percent. Shapes: N rows, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import missing_part

from .compare import Statistics, of_mean, together

_ORDERS = 4

_REFUSES = re.compile(
    r"\b(?:i(?:'m| am)(?: really| very| so)? sorry\b.{0,40}\b(?:can(?:'t|not)|unable|not able)"
    r"|i(?:'m unable to|'m not able to| am unable to| am not able to| can(?:'t|not)| won't| will not) "
    r"(?:help|assist|answer|provide|comply|do that|fulfil|fulfill|discuss|share|give)"
    r"|as an ai(?: language)? model\b)",
    re.IGNORECASE | re.DOTALL,
)
_FIRST = 300


def refuses(text: str) -> bool:
    """Whether an answer declines, looked for where answers begin.

    >>> refuses("I'm sorry, but I can't help with that."), refuses("I'm sorry your parcel is late. It arrives today.")
    (True, False)
    """
    return _REFUSES.search(text[:_FIRST].replace("’", "'")) is not None


def statistics(references: Sequence[str], predictions: Sequence[str | None]) -> Statistics:
    """compare.Statistics of the five, over the rows that have an answer."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise missing_part("sacrebleu and rouge-score", "train", "Measuring written answers") from None
    rouge, chrf, bleu = RougeScorer(["rougeL"]), CHRF(), BLEU(effective_order=True)
    n = len(references)
    near_N, chars_N, refused_N = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    grams_ND = np.zeros((n, 2 * _ORDERS + 2), np.int64)
    length_N2 = np.zeros((n, 2), np.int64)
    for i, (truth, said) in enumerate(zip(references, predictions, strict=True)):
        if said is None:
            continue
        near_N[i] = rouge.score(truth, said)["rougeL"].fmeasure
        chars_N[i] = chrf.sentence_score(said, [truth]).score / 100
        refused_N[i] = refuses(said)
        told: Any = bleu.sentence_score(said, [truth])
        grams_ND[i] = [*told.counts, *told.totals, told.sys_len, told.ref_len]
        length_N2[i] = len(said), len(truth)

    def sums(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        of_RD = np.stack([grams_ND[index_N].sum(0) for index_N in index_RN])
        score_R = [
            BLEU.compute_bleu(
                d[:_ORDERS].tolist(),
                d[_ORDERS : 2 * _ORDERS].tolist(),
                int(d[-2]),
                int(d[-1]),
                smooth_method="exp",  # as sacrebleu's corpus score
            ).score
            for d in of_RD
        ]
        said_R, truth_R = length_N2[index_RN].sum(1).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"bleu": np.array(score_R) / 100, "length_error": np.abs(said_R / truth_R - 1)}

    rows = [of_mean("rouge_l", near_N), of_mean("chrf", chars_N), of_mean("refused", refused_N)]
    return together([*rows, sums])
