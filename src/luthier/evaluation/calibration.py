"""The stage that learns from the validation split how far the model's probabilities may be believed, and below which it had
better not answer. What it finds is measured on the test split and served: the same numbers in both.

    inputs: model (tuned), base, dataset        out: calibration.json, predictions.parquet (of the validation rows)

What is learnt is applied by outputs/calibration: a temperature for labels, or an isotonic line from how sure an answer is to how
often such answers are right, for labels and for free texts (right: as the task's metrics have it, after the steps). Threshold: the lowest of ten at which, with the confidence asked, no more than the share
`risk` of what is answered is wrong: the exact (Clopper-Pearson) upper bound of the error must lie below `risk`, with the
confidence divided over the ten (Geifman & El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017, in its
plain form). Shapes: N rows, K labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.errors import missing_part
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage
from luthier.outputs.calibration import Belief
from luthier.outputs.calibration import warmed as tempered
from luthier.outputs.spec import AnsweringSpec

from .spec import EvaluateSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST, FEWEST_ISOTONIC = 50, 100
"""Validation rows below which nothing is learnt from them, and below which no isotonic line is."""
COVERAGES = tuple(tenths / 10 for tenths in range(10, 0, -1))
_BETWEEN = (0.05, 20.0)


class CalibrateSpec(Spec):
    """What to learn, and how the model is asked."""

    temperature: bool = True
    """Whether to find a temperature; without it the probabilities stay as the model gives them."""
    isotonic: bool = False
    """Whether to find an isotonic line in its place; what free texts are calibrated by."""
    answering: AnsweringSpec = AnsweringSpec(constrain="labels")
    """The way from what the model says to an answer, another model left out."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer that is written freely, in tokens."""
    risk: float | None = Field(default=None, gt=0, lt=1)
    """The largest share of wrong answers among those given; None: no threshold is looked for."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """How sure that must be."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Threshold:
    """Answers with a probability of `at` or more are given: a share `coverage` of the validation rows, `wrong` of them wrong,
    and at most the share `bound` in the long run."""

    at: float
    coverage: float
    wrong: int
    bound: float


def calibrate(
    spec: CalibrateSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    from . import predictions, questions, validation
    from .refining import Refining

    folders = {role: at.folder(inputs[role]) for role in ("model", "base", "dataset")}
    task = json.loads((folders["dataset"] / "dataset.json").read_text(encoding="utf-8"))["task"]
    rows = questions.records(folders["dataset"] / validation.SPLIT)
    found: dict[str, Any] = {
        "temperature": 1.0,
        "isotonic": None,
        "rows": len(rows),
        "threshold": None,
        "why": None,
    }
    table = predictions.table([])
    fewest = FEWEST_ISOTONIC if spec.isotonic else FEWEST
    if len(rows) < fewest:
        found["why"] = f"{len(rows)} validation rows are too few to learn from; {fewest} are needed"
        at.emit("note", about="calibration", message=found["why"])
    else:
        metric = "accuracy" if task["kind"] == "classify" else None
        wish = EvaluateSpec(
            against=[],
            metrics=[metric] if metric else [_text_metric(task["kind"])],
            max_tokens=spec.max_tokens,
            timed_rows=0,
            dtype=spec.dtype,
            device=spec.device,
        )
        refining = Refining.of(spec.answering, task, spec.max_tokens, sure=True)
        table = validation.answers(wish, task, folders, scratch, at, refining)
        found |= _learnt(spec, task, table)
    predictions.write(table, out / "predictions.parquet")
    text = json.dumps({**spec.plain(), **found}, indent=1, sort_keys=True, allow_nan=False)
    (out / "calibration.json").write_text(text + "\n", encoding="utf-8")
    return Output({"temperature": round(found["temperature"], 4), "rows": found["rows"]})


def _text_metric(kind: str) -> str:
    """Any that needs the text and no loss: perplexity would cost a pass."""
    from .spec import SLICED

    return SLICED[kind] if kind != "extract" else "exact_object"


def _learnt(spec: CalibrateSpec, task: Mapping[str, Any], table: Any) -> dict[str, Any]:
    """What calibration.json says of it."""
    import numpy as np

    from . import predictions, probabilities
    from .metrics import positions

    answers = predictions.by_system(table)["tuned"]
    found: dict[str, Any] = {"rows": len(answers)}
    if answers.probability_NK is not None:
        truth, raw = positions(answers.references, task["labels"]), answers.probability_NK
        heat = temperature(truth, raw) if spec.temperature and not spec.isotonic else 1.0
        knots = isotonic(*probabilities.answered(truth, raw)) if spec.isotonic else None
        with np.errstate(divide="ignore"):
            warm = np.exp(Belief(heat, knots).labels(np.log(raw)))
        sure, right = probabilities.answered(truth, warm)
        found |= {"before": probabilities.values(truth, raw), "after": probabilities.values(truth, warm)}
    else:
        lines = [line for line in table.to_pylist() if line["raw_probability"] is not None]
        fewest = FEWEST_ISOTONIC if spec.isotonic else FEWEST
        if len(lines) < fewest:  # plain texts, and rows beyond the context, were asked nothing
            found["why"] = (
                f"{len(lines)} validation rows were answered, too few to learn from; {fewest} are needed"
            )
            return found | {"rows": len(lines)}
        raw_sure = np.array([line["raw_probability"] for line in lines])
        right, heat = np.array([bool(line["correct"]) and line["refusal"] is None for line in lines]), 1.0
        knots = isotonic(raw_sure, right) if spec.isotonic else None
        belief = Belief(knots=knots)
        sure = np.array([belief.sure(one) for one in raw_sure])
        found |= {"before": of_texts(raw_sure, right), "after": of_texts(sure, right)}
    told = None if spec.risk is None else threshold(sure, right, spec.risk, spec.confidence)
    if spec.risk is not None and told is None:
        found["why"] = (
            f"no threshold keeps wrong answers at or below {spec.risk:g} with {spec.confidence:g} confidence: of "
            f"{len(right)} validation rows {int((~right).sum())} are answered wrongly"
        )
    return found | {
        "temperature": heat,
        "isotonic": knots,
        "threshold": None if told is None else asdict(told),
    }


def of_texts(sure_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> dict[str, float]:
    """{"log_loss", "brier", "ece"} of how sure answers are against whether they are right."""
    import numpy as np

    from .probabilities import reliability

    p_N = np.clip(sure_N, 1e-12, 1 - 1e-12)
    bins = reliability(sure_N, right_N)
    return {
        "log_loss": float(-np.where(right_N, np.log(p_N), np.log1p(-p_N)).mean()),
        "brier": float(((sure_N - right_N) ** 2).mean()),
        "ece": float(sum(n * abs(sure - right) for n, sure, right, *_ in bins) / max(1, len(sure_N))),
    }


def isotonic(
    sure_N: NDArray[np.float64], right_N: NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The knots of the line that never falls and is nearest to right (1) and wrong (0): pool adjacent violators, by scikit-learn.
    Its ends are kept away from 0 and 1 by one answer in n + 2 (Laplace), since n answers cannot show more."""
    import numpy as np

    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError:
        raise missing_part("scikit-learn", "train", "An isotonic calibration") from None
    line = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(sure_N, right_N.astype(float))
    least = 1 / (len(sure_N) + 2)
    at = [float(f"{x:.6g}") for x in line.X_thresholds_]
    value = [float(f"{y:.6g}") for y in np.clip(line.y_thresholds_, least, 1 - least)]
    return tuple(at), tuple(value)


STAGE = Stage("calibration", 2, calibrate)


def temperature(truth_N: NDArray[np.int64], probability_NK: NDArray[np.float64]) -> float:
    """The temperature of least log loss, by golden section over its logarithm (the loss is convex in 1/temperature). Rounded to
    four digits, which no one can tell apart, so that it does not depend on the machine's last bit."""
    import numpy as np

    from .probabilities import values

    def loss(log_t: float) -> float:
        warm_NK = tempered(probability_NK, math.exp(log_t))
        of_truth_N = warm_NK[np.arange(len(truth_N)), truth_N]
        return float(-np.log(np.clip(of_truth_N, 1e-300, 1.0)).mean())

    low, high = (math.log(edge) for edge in _BETWEEN)
    golden = (math.sqrt(5) - 1) / 2
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-4:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = loss(b)
    found = float(f"{math.exp((low + high) / 2):.4g}")
    before, after = values(truth_N, probability_NK), values(truth_N, tempered(probability_NK, found))
    return found if (after["log_loss"] or 0.0) < (before["log_loss"] or 0.0) else 1.0


def threshold(
    sure_N: NDArray[np.float64], right_N: NDArray[np.bool_], risk: float, confidence: float
) -> Threshold | None:
    """The one that answers most; None where even the surest tenth is not sure enough."""
    import numpy as np

    for coverage in COVERAGES:
        at = float(np.quantile(sure_N, 1 - coverage, method="higher"))
        given_N = sure_N >= at
        n, wrong = int(given_N.sum()), int((given_N & ~right_N).sum())
        bound = upper_bound(wrong, n, 1 - (1 - confidence) / len(COVERAGES))
        if bound <= risk:
            lowest = 0.0 if coverage == 1.0 else at
            return Threshold(lowest, n / len(sure_N), wrong, bound)
    return None


def upper_bound(wrong: int, n: int, confidence: float) -> float:
    """The largest share that makes so few wrong ones of n no surprise (Clopper & Pearson 1934, one-sided).

    >>> round(upper_bound(0, 58, 0.95), 3)  # 1 - 0.05 ** (1 / 58)
    0.05
    """
    try:
        from scipy.special import betaincinv
    except ImportError:
        raise missing_part("scipy", "train", "Choosing when to abstain") from None
    return 1.0 if wrong >= n else float(betaincinv(wrong + 1, n - wrong, confidence))
