"""Requests of a made-up desk: sentences of a few words, so that thousands are drawn in no time."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.monitoring.reference import Material, build
from luthier.monitoring.rows import Row
from luthier.monitoring.spec import DriftSpec, ReferenceSpec

SUBJECTS = {
    "billing": [
        "invoice",
        "payment",
        "refund",
        "charge",
        "receipt",
        "account",
        "balance",
        "tax",
        "amount",
        "credit",
    ],
    "delivery": [
        "parcel",
        "courier",
        "package",
        "address",
        "depot",
        "tracking",
        "driver",
        "door",
        "late",
        "lorry",
    ],
}
GLUE = [
    "the",
    "my",
    "is",
    "was",
    "not",
    "and",
    "with",
    "for",
    "please",
    "about",
    "this",
    "when",
    "will",
    "you",
    "have",
    "been",
]
OTHER = ["router", "modem", "firmware", "wifi", "antenna", "signal", "password", "browser", "cable", "outage"]


def sentence(generator, words):
    n = int(generator.integers(8, 25))
    return " ".join(generator.choice(words if generator.random() < 0.4 else GLUE) for _ in range(n))


def rows(
    n, seed, *, mix=0.5, words=None, right=0.9, confidence=None, start_s=0.0, span_s=86_400.0, prefix="r"
):
    """`mix`: share of billing. `words`: in place of the subjects'."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        label = "billing" if generator.random() < mix else "delivery"
        asked = sentence(generator, words or SUBJECTS[label])
        sure = confidence if confidence is not None else float(generator.beta(8, 2))
        said = label if generator.random() < right else {"billing": "delivery", "delivery": "billing"}[label]
        found.append(
            Row(
                f"{prefix}{seed}-{i}",
                asked,
                said,
                sure,
                False,
                float(said == label),
                start_s + span_s * i / n,
                "desk@1",
            )
        )
    return found


@pytest.fixture(scope="session")
def make_rows():
    return rows


@pytest.fixture(scope="session")
def other_words():
    return OTHER


@pytest.fixture(scope="session")
def reference():
    material = Material(rows(800, 1), rows(400, 2), ["billing", "delivery"])
    return build(material, ReferenceSpec(near=300), {"release": "desk@1"})


@pytest.fixture
def drift():
    return DriftSpec()
