"""How near a written answer is to its reference in meaning, as far as an embedder knows any: the cosine of their vectors.

Computed once, when the answers are there, and kept beside them: an embedder may be a server, and nobody who computes a report
again should need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.data.embedders.embedder import EmbedderSpec
from luthier.data.vectors import floats, lengths

AT_ONCE = 1024


def measure(lines: Sequence[dict[str, Any]], embedder: EmbedderSpec, check: Callable[[], None]) -> None:
    """Set `similarity` of the lines of predictions that have an answer, 0 to 1 (a cosine below 0 is none). Texts that are equal,
    whitespace aside, are as near as can be, and an answer without content is near to nothing else. Raises what an embedder
    raises."""
    told = [line for line in lines if line["prediction"] is not None]
    for start in range(0, len(told), AT_ONCE):
        check()
        some = told[start : start + AT_ONCE]
        texts = list(dict.fromkeys(text for line in some for text in (line["reference"], line["prediction"])))
        vectors = embedder.made().embed(texts)
        place = {text: i for i, text in enumerate(texts)}
        one = vectors[[place[line["reference"]] for line in some]]
        other = vectors[[place[line["prediction"]] for line in some]]
        product_N = np.einsum("nd,nd->n", floats(one).astype(np.float64), floats(other).astype(np.float64))
        size_N = lengths(one) * lengths(other)
        cosine_N = np.divide(product_N, size_N, out=np.zeros(len(some)), where=size_N > 0)
        for line, cosine in zip(some, cosine_N.tolist(), strict=True):
            same = line["reference"].split() == line["prediction"].split()
            line["similarity"] = 1.0 if same else min(1.0, max(0.0, cosine))
