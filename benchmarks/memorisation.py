"""How often a model that learnt nothing by heart raises an alarm, and how often one that did is found: simulated.

python benchmarks/memorisation.py [--models 2000]

A model that learnt nothing gives training rows and held-out rows losses from one distribution (right-skewed, and much like the
base's, as real ones are), goes on verbatim with both at one small rate, and has a secret at any place among others. One that did
has training rows `gain` standard deviations lower, goes on with more of them, and has its secrets first. Figures: docs/log.md.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from luthier.evaluation.memorisation import findings
from luthier.evaluation.memorisation.spec import FIRST_LOOK, MemorisationSpec, candidates_for

WISH = MemorisationSpec()
CASES = {
    "20 beside 20 rows": (20, 20, 3),
    "200 beside 40 rows": (200, 40, 12),
    "200 beside 200 rows": (200, 200, 12),
}


def model(
    rng: np.random.Generator, train: int, held: int, secrets: int, gain: float, share: float, learnt: int
) -> dict:
    """memorisation.json of one simulated model."""
    rows = []
    for n in range(train + held):
        trained = n < train
        hard = rng.gamma(4, 0.5)
        loss = 0.6 * hard + rng.normal(0, 0.1) - gain * 0.6 * trained
        verbatim = rng.random() < (0.03 + share * trained)
        rows.append(
            {
                "id": f"{n:04}", "trained": trained, "loss": loss, "base_loss": hard, "min_k": 2.5 * loss + rng.normal(0, 0.2),
                "verbatim": WISH.verbatim if verbatim else 0, "base_verbatim": 0,
            }
        )  # fmt: skip
    most, told = candidates_for(secrets, WISH.candidates), []
    for n in range(secrets):
        loss, others = rng.normal(), rng.normal(size=FIRST_LOOK)
        loss -= 10.0 * (n < learnt)
        if loss < others.min():
            others = np.concatenate([others, rng.normal(size=most - FIRST_LOOK)])
        told.append(
            {
                "name": f"s{n}", "group": "planted", "kind": "code", "repeats": 1, "bits": 40.0, "loss": loss,
                "others": others.tolist(), "said": False, "base_loss": None, "base_others": None, "base_said": None,
            }
        )  # fmt: skip
    return {"rows": rows, "secrets": told, "left_out": 0}


def rates(
    models: int, case: tuple[int, int, int], gain: float, share: float, learnt: int
) -> dict[str, float]:
    """Of so many models, the share with an alarm, of any kind and of each."""
    counted = dict.fromkeys(("any", "gone on", "told from", "secrets"), 0)
    for seed in range(models):
        raw = model(np.random.default_rng(seed), *case, gain, share, learnt)
        alarms = findings.build(raw, WISH, 0.95)["alarms"]
        counted["any"] += bool(alarms)
        for name in ("gone on", "told from", "secrets"):
            counted[name] += any(name in one for one in alarms)
    return {name: n / models for name, n in counted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2000)
    models = parser.parse_args().models
    print(
        f"{models:,} models each; a rate of 5 % is known to within {1.96 * math.sqrt(0.05 * 0.95 / models):.1%}"
    )
    print(f"{'':34}{'any alarm':>10}{'verbatim':>10}{'member':>10}{'secrets':>10}")
    for name, case in CASES.items():
        for what, gain, share, learnt in (
            ("nothing learnt", 0.0, 0.0, 0),
            ("rows 0.5 deviations lower", 0.5, 0.0, 0),
            ("10 % of rows verbatim", 0.0, 0.1, 0),
            ("one secret learnt", 0.0, 0.0, 1),
        ):
            found = rates(models if what == "nothing learnt" else models // 10, case, gain, share, learnt)
            shown = "".join(f"{found[k]:>10.1%}" for k in ("any", "gone on", "told from", "secrets"))
            print(f"{name}, {what}"[:54].ljust(54) + shown)


if __name__ == "__main__":
    main()
