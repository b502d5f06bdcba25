"""The point values: scikit-learn for the standard ones, three short functions for the rest.

Macro averages are over the labels that occur among the references: a label without a test row has no recall,
and counting it as zero would punish every system alike. A label that is never predicted has precision 0.

`from_predictions` is the auditor's door: every metric of report.json from predictions.parquet and the task.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, missing_part

if TYPE_CHECKING:
    import pyarrow as pa


def from_predictions(predictions: pa.Table, task: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """System -> {"rows", "metrics", "per_label", "confusion"}, every metric that applies.

    `task` is {"kind", "labels", ...} as in report.json. The order of the table's lines does not matter.
    """
    from . import tasks
    from .predictions import by_system

    part = tasks.of(task)
    return {name: part.summarise(answers) for name, answers in by_system(predictions).items()}


def positions(values: Sequence[str | None], labels: Sequence[str]) -> NDArray[np.int64]:
    """Each value's place among the labels. Raises DataError for a value that is no label."""
    place = {label: i for i, label in enumerate(labels)}
    if strange := [v for v in values if v not in place]:
        raise DataError(
            f"{strange[0]!r} is not one of the {len(labels)} labels.",
            remedy="Predict with the task that the model was tuned for.",
        )
    return np.array([place[str(v)] for v in values], np.int64)


def said_positions(values: Sequence[str | None], labels: Sequence[str]) -> NDArray[np.int64]:
    """Each answer's place among the labels; what is no label (a system that writes freely may say anything) is at the place after
    the last: wrong, whatever was right.

    >>> said_positions(["b", "maybe b", None], ["a", "b"]).tolist()
    [1, 2, 2]
    """
    place: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    return np.array([place.get(value, len(labels)) for value in values], np.int64)


def classification(
    references: Sequence[str], predictions: Sequence[str | None], labels: Sequence[str]
) -> dict[str, Any]:
    """{"metrics", "per_label", "confusion", "off_list"}; confusion[i][j] counts rows of label i that were called label j, and
    off_list those that were called something that is no label."""
    try:
        from sklearn.metrics import (
            accuracy_score,
            confusion_matrix,
            matthews_corrcoef,
            precision_recall_fscore_support,
        )
    except ImportError:
        raise missing_part("scikit-learn", "train", "Measuring a classifier") from None
    truth, said = positions(references, labels), said_positions(predictions, labels)
    every = range(len(labels))
    with warnings.catch_warnings():  # rows of one label have no correlation: that is 0, and no news
        warnings.filterwarnings("ignore", "A single label was found", UserWarning)
        mcc = float(matthews_corrcoef(truth, said))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, said, labels=every, zero_division=0
    )
    present = support > 0
    return {
        "metrics": {
            "accuracy": float(accuracy_score(truth, said)),
            "precision_macro": float(precision[present].mean()),
            "recall_macro": float(recall[present].mean()),
            "macro_f1": float(f1[present].mean()),
            "weighted_f1": float(f1 @ support / support.sum()),
            "mcc": mcc,
        },
        "per_label": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion_matrix(truth, said, labels=every).tolist(),
        "off_list": int((said == len(labels)).sum()),
    }


def same_text(one: str, other: str) -> bool:
    """Equal, whitespace aside.

    >>> same_text(" a  b\\n", "a b"), same_text("a b", "ab")
    (True, False)
    """
    return one.split() == other.split()


_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def number_in(text: str) -> float | None:
    """The last number in a text; commas between digits are thousands. None when there is none.

    >>> number_in("about 1,250.5"), number_in("3 of 4"), number_in("-2e1"), number_in("none")
    (1250.5, 4.0, -20.0, None)
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    value = float(found[-1].replace(",", ""))
    return value if np.isfinite(value) else None


def each(
    score: Callable[[str, str], float], references: Sequence[str], predictions: Sequence[str | None]
) -> NDArray[np.float64]:
    """score(reference, prediction) per row; NaN for a row without a prediction."""
    pairs = zip(references, predictions, strict=True)
    return np.array(
        [np.nan if said is None else float(score(truth, said)) for truth, said in pairs], np.float64
    )


def mean(value_N: NDArray[np.float64]) -> float | None:
    """Over the rows that have a value; None when no row has."""
    has_N = np.isfinite(value_N)
    return float(value_N[has_N].mean()) if has_N.any() else None


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Lower case, no ASCII punctuation, no English articles: the normalisation of SQuAD's evaluate-v1.1.py.

    >>> words("The  cat, a dog!")
    ['cat', 'dog']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(reference: str, prediction: str) -> float:
    """F1 of the two bags of words (Rajpurkar et al. 2016, section 6.1). Two empty texts agree.

    >>> token_f1("the red cat", "red cat sat")  # overlap 2; precision 2/3, recall 2/2
    0.8
    """
    truth, said = words(reference), words(prediction)
    if not truth or not said:
        return float(truth == said)
    overlap = sum((Counter(truth) & Counter(said)).values())
    return 2 * overlap / (len(truth) + len(said))


def perplexity(loss_sum_N: NDArray[np.float64], loss_tokens_N: NDArray[np.int64]) -> float | None:
    """exp(total loss / total tokens); None unless every row has a loss.

    >>> perplexity(np.array([np.log(2) * 3, np.log(8)]), np.array([3, 1]))  # (3 ln 2 + 3 ln 2) / 4 = 1.5 ln 2
    2.82842712474619
    """
    if not len(loss_tokens_N) or not loss_tokens_N.all():
        return None
    return float(np.exp(loss_sum_N.sum() / loss_tokens_N.sum()))
