"""How alike two texts are, from 0 to 1, by the measures that text_similarity names.

    fuzzy_match     1 - insertions and deletions / characters of both: what rapidfuzz's `ratio` is
    bleu            sacrebleu's of one sentence, with the orders that it has words for
    gleu            the lesser of precision and recall of all n-grams of 1 to 4 words (Wu et al. 2016, section 6), as nltk's
    rouge_1..5, _l  F of n-grams, or of the longest common subsequence, of words as rouge-score cuts them
    cosine          of vectors of spelling (data/embedders/hashed), which know no meaning: not comparable with a model's embeddings

`meteor` is refused: it needs WordNet, which is not shipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

from luthier.core.errors import SpecError, missing_part

Measure = Literal[
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]  # fmt: skip
LONGEST = 50_000
_ORDERS = 4


def check(measure: str) -> None:
    """Raises SpecError."""
    if measure == "meteor":
        raise SpecError(
            "meteor needs WordNet, which this server does not bring.",
            remedy="Take rouge_l, or a score_model grader.",
        )


def similarity(measure: str, said: str, truth: str) -> float:
    """Raises SpecError for texts that are too long, MissingPart."""
    check(measure)
    if max(len(said), len(truth)) > LONGEST:
        raise SpecError(f"a text has more than {LONGEST:,} characters.", remedy="Compare shorter texts.")
    if measure == "fuzzy_match":
        return fuzzy(said, truth)
    if measure == "gleu":
        return gleu(said.split(), truth.split())
    if measure == "cosine":
        return cosine(said, truth)
    try:
        if measure == "bleu":
            from sacrebleu.metrics import BLEU

            return min(float(BLEU(effective_order=True).sentence_score(said, [truth]).score) / 100, 1.0)
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenize import tokenize
    except ImportError:
        raise missing_part("sacrebleu and rouge-score", "train", "Comparing texts") from None
    if measure == "rouge_l":
        return overlap(*(tokenize(text, None) for text in (said, truth)))
    name = f"rouge{measure.removeprefix('rouge_')}"
    return float(RougeScorer([name]).score(truth, said)[name].fmeasure)


def fuzzy(a: str, b: str) -> float:
    """
    >>> fuzzy("kitten", "sitting"), fuzzy("", ""), fuzzy("a", "")
    (0.6153846153846154, 1.0, 0.0)
    """
    return 2 * common(a, b) / (len(a) + len(b)) if a or b else 1.0


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """F of the longest common subsequence; 0 where there is none."""
    return 2 * common(a, b) / (len(a) + len(b)) if a and b else 0.0


def common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """How long the longest common subsequence is, a word of bits at a time (Hyyrö 2004), so that long texts take no minutes.

    >>> common("kitten", "sitting"), common("abc", "")
    (4, 0)
    """
    places: dict[Hashable, int] = {}
    for i, one in enumerate(a):
        places[one] = places.get(one, 0) | 1 << i
    whole = state = (1 << len(a)) - 1
    for one in b:
        matching = state & places.get(one, 0)
        state = ((state + matching) | (state - matching)) & whole
    return len(a) - state.bit_count()


def gleu(said: Sequence[str], truth: Sequence[str]) -> float:
    """
    >>> gleu("the cat sat".split(), "the cat sat down".split())
    0.6
    """
    mine, theirs = _grams(said), _grams(truth)
    most = max(mine.total(), theirs.total())
    return (mine & theirs).total() / most if most else 0.0


def _grams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def cosine(a: str, b: str) -> float:
    """Below 0 counts as 0."""
    import numpy as np

    from luthier.data.embedders.hashed import Hashed, HashedSpec

    one, other = Hashed(HashedSpec()).embed([a, b]).astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(max(float(one @ other) / lengths, 0.0), 1.0) if lengths else float(a == b)
