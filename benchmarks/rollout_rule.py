"""How often the rule of rollouts takes a good candidate back, and how soon a bad one: by simulation, looking after every pair.

    python benchmarks/rollout_rule.py

Each line: N rollouts of up to M pairs with the plan's defaults (four metrics share 5 %, so one metric needs a capital of 80; 2 % allowed
of errors). Beside it what others do: a fixed bound on the candidate's own error rate, and a test of two proportions (z, one-sided 5 %)
repeated every 50 answers. Then, who is on which side: the same model on both, 15 % of users ask what takes three times as long, 25 % of users
(or of requests, or all of them in shadow) are the candidate's.
"""

from __future__ import annotations

import json
import random
from statistics import NormalDist

import numpy as np

from luthier.deployment.evidence import Outcome, Pairs
from luthier.deployment.rule import STAKES, judge
from luthier.deployment.spec import RolloutSpec

N, M, MARGIN, NEEDED = 1000, 2000, 0.02, 80.0


def crossing(stable_NM: np.ndarray, candidate_NM: np.ndarray) -> np.ndarray:
    """After how many pairs each rollout is taken back; M + 1: never."""
    z_NM = candidate_NM.astype(float) - stable_NM
    mean_NM = np.zeros_like(z_NM)
    for part in STAKES:
        stake = part / (1 + MARGIN)
        mean_NM += np.exp(np.cumsum(np.log1p(stake * (z_NM - MARGIN)), axis=1).clip(max=600)) / len(STAKES)
    hit_NM = mean_NM >= NEEDED
    return np.where(hit_NM.any(axis=1), hit_NM.argmax(axis=1) + 1, M + 1)


def fixed_bound(candidate_NM: np.ndarray, bound: float) -> float:
    """Share of rollouts in which some 200 answers on end had more errors than the bound."""
    sums = np.cumsum(candidate_NM, axis=1)
    return float(((sums[:, 200:] - sums[:, :-200]) / 200 > bound).any(axis=1).mean())


def repeated_z(stable_NM: np.ndarray, candidate_NM: np.ndarray) -> float:
    n = np.arange(50, M + 1, 50)
    s, c = (np.cumsum(x, axis=1)[:, n - 1] / n for x in (stable_NM, candidate_NM))
    pooled = (s + c) / 2
    error = np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / n, 1e-12))
    return float((((c - s) / error) > NormalDist().inv_cdf(0.95)).any(axis=1).mean())


def sides(users: int, by: str, rollouts: int = 300, requests: int = 3000) -> float:
    """Share of rollouts in which a candidate that is the stable version itself is taken back, looked at every 100 requests."""
    draw, plan, taken = random.Random(1), RolloutSpec(), 0  # noqa: S311
    for _ in range(rollouts):
        is_candidate = [draw.random() < 0.25 for _ in range(users)]
        pairs = Pairs()
        for n in range(requests):
            user = draw.randrange(users)
            once, again = (
                Outcome(False, draw.lognormvariate(0, 0.2) * (3 if user < 0.15 * users else 1))
                for _ in range(2)
            )
            if by == "shadow":
                pairs.shadow(again, once)
            elif is_candidate[user] if by == "user" else draw.random() < 0.25:
                pairs.candidate(once)
            else:
                pairs.stable(once)
            if n % 100 == 99 and any(one.worse for one in judge(pairs.tally.counts, plan)):
                taken += 1
                break
    return taken / rollouts


def main() -> None:
    for users, by in ((20, "user"), (100, "user"), (1000, "user"), (20, "request"), (20, "shadow")):
        print(json.dumps({"users": users, "by": by, "taken_back": round(sides(users, by), 4)}), flush=True)
    draw = np.random.default_rng(1)
    steady = lambda rate: np.full(M, rate)  # noqa: E731
    bad_hours = np.where((np.arange(M) // 100) % 5 == 4, 0.5, 0.01)
    cases = {
        "equal, 1 % errors": (steady(0.01), steady(0.01)),
        "equal, 20 %": (steady(0.2), steady(0.2)),
        "equal, 1 % and 50 % in bad hours": (bad_hours, bad_hours),
        "at the edge: 2 % against 4 %": (steady(0.02), steady(0.04)),
        "1 % against 5 %": (steady(0.01), steady(0.05)),
        "1 % against 10 %": (steady(0.01), steady(0.1)),
        "1 % against 20 %": (steady(0.01), steady(0.2)),
        "1 % against 50 %": (steady(0.01), steady(0.5)),
        "1 % against 100 %": (steady(0.01), steady(1.0)),
    }
    for name, (stable_M, candidate_M) in cases.items():
        stable, candidate = draw.random((N, M)) < stable_M, draw.random((N, M)) < candidate_M
        at = crossing(stable, candidate)
        print(
            json.dumps(
                {
                    "case": name,
                    "taken_back": round(float((at <= M).mean()), 4),
                    "pairs_median": None if np.median(at) > M else int(np.median(at)),
                    "pairs_90%": None if np.quantile(at, 0.9) > M else int(np.quantile(at, 0.9)),
                    "fixed_bound_5%": round(fixed_bound(candidate, 0.05), 4),
                    "repeated_z": round(repeated_z(stable, candidate), 4),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
