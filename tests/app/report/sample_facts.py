"""Made-up facts of one run, as its files would hold them: fifteen licences, 320 test rows. Everything is derived from
a seed and adds up; the numbers are nobody's measurement."""

import hashlib
import random
from dataclasses import replace

from luthier.app.report.facts import RunFacts

LABELS = [
    "agpl-3.0", "apache-2.0", "artistic-2.0", "boost-1.0", "bsd-new", "bsd-simplified", "cc-by-4.0", "epl-2.0", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl-2.1", "mit", "mpl-2.0", "zlib",
]  # fmt: skip
SUPPORT = [18, 41, 9, 12, 33, 21, 14, 11, 29, 24, 13, 22, 46, 17, 10]
SHARES = {"tuned": 0.83, "base": 0.11, "base_3shot": 0.32, "tfidf": 0.79}
NEAR = {"bsd-new": "bsd-simplified", "bsd-simplified": "bsd-new", "gpl-2.0": "gpl-3.0", "gpl-3.0": "gpl-2.0", "lgpl-2.1": "gpl-2.0",
        "agpl-3.0": "gpl-3.0", "isc": "mit", "mit": "isc"}  # fmt: skip
NOTICES = {
    "isc": "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby "
    "granted, provided that the above copyright notice and this permission notice appear in all copies.",
    "apache-2.0": "Licensed under the Apache License, Version 2.0 (the \"License\"); you may not use this file except in "
    "compliance with the License. You may obtain a copy of the License at\n\n    http://www.apache.org/licenses/LICENSE-2.0",
    "gpl-2.0": "This program is free software; you can redistribute it and/or modify it under the terms of the GNU General "
    "Public License as published by the Free Software Foundation; either version 2 of the License, or (at your option) any "
    "later version.",
    "bsd-new": "Redistribution and use in source and binary forms, with or without modification, are permitted provided that "
    "the following conditions are met: 1. Redistributions of source code must retain the above copyright notice, this list "
    "of conditions and the following disclaimer. 3. Neither the name of the copyright holder nor the names of its "
    "contributors may be used to endorse or promote products derived from this software.",
    "mit": "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    "documentation files (the \"Software\"), to deal in the Software without restriction.",
}  # fmt: skip


def digest(word):
    return hashlib.sha256(word.encode()).hexdigest()


def confusion(share, seed):
    draw = random.Random(seed)
    matrix = [[0] * len(LABELS) for _ in LABELS]
    for i, (label, rows) in enumerate(zip(LABELS, SUPPORT, strict=True)):
        skill = min(1.0, max(0.0, draw.gauss(share, 0.1)))
        for _ in range(rows):
            if draw.random() < skill:
                matrix[i][i] += 1
            elif label in NEAR and draw.random() < 0.7:
                matrix[i][LABELS.index(NEAR[label])] += 1
            else:
                favourites = [LABELS.index("mit"), LABELS.index("apache-2.0")] * 3 if share < 0.5 else []
                matrix[i][draw.choice([*range(len(LABELS)), *favourites])] += 1
    return matrix


def system(share, seed, perplexity=None):
    """Metrics follow from the matrix: precision by column, recall by row, macro by plain mean."""
    matrix = confusion(share, seed)
    n, per_label = len(LABELS), {}
    for i, label in enumerate(LABELS):
        right, said, support = matrix[i][i], sum(matrix[r][i] for r in range(n)), sum(matrix[i])
        precision, recall = right / said if said else 0.0, right / support
        f1 = 2 * right / (said + support)
        per_label[label] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    mean = lambda key: sum(one[key] for one in per_label.values()) / n  # noqa: E731
    accuracy = sum(matrix[i][i] for i in range(n)) / sum(SUPPORT)
    metrics = {"accuracy": accuracy, "precision_macro": mean("precision"), "recall_macro": mean("recall"), "macro_f1": mean("f1"),
               "exact_match": accuracy, "perplexity": perplexity}  # fmt: skip
    half = 1.96 * (accuracy * (1 - accuracy) / sum(SUPPORT)) ** 0.5
    intervals = {m: [max(0.0, v - half), min(1.0, v + half)] for m, v in metrics.items() if v is not None}
    if perplexity:
        intervals["perplexity"] = [perplexity * 0.93, perplexity * 1.09]
    return {
        "rows": sum(SUPPORT),
        "metrics": metrics,
        "intervals": intervals,
        "per_label": per_label,
        "confusion": matrix,
    }


def comparison(metric, one, other, to, half):
    gap = one["metrics"][metric] - other["metrics"][metric]
    return {"metric": metric, "of": "tuned", "to": to, "difference": gap, "low": gap - half, "high": gap + half * 0.9,
            "rows": sum(SUPPORT), "confidence": 0.95, "resamples": 2000, "seed": 0}  # fmt: skip


def report(tfidf_share=SHARES["tfidf"]):
    systems = {
        "tuned": system(SHARES["tuned"], 1, 1.21),
        "base": system(SHARES["base"], 2, 9.84),
        "base_3shot": system(SHARES["base_3shot"], 3),
        "tfidf": system(tfidf_share, 4),
    }
    comparisons = [
        comparison(metric, systems["tuned"], systems[to], to, half)
        for to, half in (("base", 0.05), ("base_3shot", 0.055), ("tfidf", 0.046))
        for metric in ("accuracy", "macro_f1")
    ]
    comparisons.append(comparison("perplexity", systems["tuned"], systems["base"], "base", 0.7))
    return {
        "task": {"kind": "classify", "instruction": "Which licence is this notice?", "labels": LABELS},
        "rows": sum(SUPPORT),
        "labels": LABELS,
        "systems": systems,
        "comparisons": comparisons,
        "examples": examples(),
        "cautions": ["Row 5b0c41d09e2f was not asked of base_3shot: it has 2,412 tokens with its examples, and the model's context is 2,048. Nothing was cut."],
    }  # fmt: skip


def examples():
    told = [
        ("isc", "mit", "isc", "isc", "isc", "improved"), ("apache-2.0", "mit", "apache-2.0", "apache-2.0", "apache-2.0", "improved"),
        ("gpl-2.0", "apache-2.0", "gpl-2.0", "gpl-3.0", "gpl-2.0", "improved"), ("bsd-new", "mit", "bsd-new", "mit", "bsd-new", "improved"),
        ("mit", "apache-2.0", "mit", "mit", "mit", "improved"), ("mit", "mit", "isc", "mit", "mit", "regressed"),
        ("bsd-new", "bsd-new", "bsd-simplified", "bsd-new", "bsd-simplified", "regressed"),
        ("gpl-2.0", "gpl-2.0", "gpl-3.0", "apache-2.0", "gpl-2.0", "regressed"), ("mit", "mit", "mit", "mit", "mit", "same"),
        ("apache-2.0", "apache-2.0", "apache-2.0", "apache-2.0", "apache-2.0", "same"),
    ]  # fmt: skip
    return [
        {"id": digest(f"e{i}")[:32], "prompt": NOTICES[right], "reference": right, "change": change,
         "answers": {"tuned": tuned, "base": base, "base_3shot": shots, "tfidf": words}}
        for i, (right, base, tuned, shots, words, change) in enumerate(told)
    ]  # fmt: skip


def history():
    draw = random.Random(7)
    steps, validation = [], []
    for step in range(1, 151):
        warm = min(1.0, step / 8)
        loss = 0.16 + 2.6 * 2.718 ** (-step / 16) + draw.gauss(0, 0.05 + 0.22 * 2.718 ** (-step / 20))
        steps.append({"step": step, "loss": max(0.02, loss), "learning_rate": 2e-4 * warm * (0.5 + 0.5 * (1 - step / 150)),
                      "gradient_norm": max(0.2, 0.6 + 2.2 * 2.718 ** (-step / 12) + draw.gauss(0, 0.2)), "tokens": 2400 + draw.randrange(300),
                      "supervised": 96})  # fmt: skip
    for step, loss in ((0, 2.91), (15, 1.22), (30, 0.61), (45, 0.44), (60, 0.37), (75, 0.335), (90, 0.318), (105, 0.309), (120, 0.304),
                       (135, 0.307), (150, 0.311)):  # fmt: skip
        validation.append({"step": step, "loss": loss})
    kept = {"how": "best", "steps": [120], "loss": 0.304, "why": None}
    return {
        "steps": steps,
        "validation": validation,
        "best_step": 120,
        "stopped": "epochs",
        "kept": kept,
        "watched": {"metric": "loss", "mode": "min"},
        "unit": "nats per supervised token",
        "proof": proof(),
    }


def proof():
    near = {
        "loss": 2.1e-4,
        "loss_allowed": 0.01,
        "gradient": 1.9e-3,
        "gradient_allowed": 0.05,
        "parameter": 2e-2,
        "parameter_allowed": 0.3,
        "dtype": "bf16",
    }
    return {
        "text": {"rows": 8},
        "ends": {"answers": 2560, "learnt": 2560},
        "mask": {"train": {"rows": 2560, "tokens": 381_221, "supervised": 14_402, "share": 14_402 / 381_221, "least": 0.01,
                           "median": 0.04, "without": 0}},
        "packing": {"rows": 3, "tokens": 164, **near},
        "fused": {"parts": ["gated", "head", "norms"], "left": {}, "used": True, **near, "loss": 7.5e-3, "loss_allowed": 0.04},
    }  # fmt: skip


def rules():
    white = {"id": digest("w")[:32], "before": "Permission  is hereby\u00a0granted,\tfree of charge", "after": "Permission is hereby granted, free of charge", "reason": "blanks joined, no-break space replaced"}  # fmt: skip
    twin = {"id": digest("t")[:32], "before": NOTICES["mit"], "after": None, "reason": "the same text as 0f3a99c1d2e4 (tickets.jsonl:12)"}  # fmt: skip
    tail = {
        "id": digest("l")[:32],
        "before": "See LICENSE.",
        "after": None,
        "reason": "12 characters, fewer than 40",
    }
    steps = [
        ("read", {"files": "notices.jsonl"}, 5214, 5208, 6, 0, [{"id": "notices.jsonl:811", "before": '{"text": "Copyright (c)', "after": None, "reason": "not valid JSON"}]),
        ("normalize", {"unicode": "NFC", "whitespace": "join"}, 5208, 5208, 0, 3127, [white]),
        ("drop_empty", {}, 5208, 5201, 7, 0, []),
        ("length", {"at_least": 40, "at_most": 4000}, 5201, 4730, 471, 0, [tail]),
        ("deduplicate", {"exact": True, "near": None}, 4730, 3562, 1168, 0, [twin]),
        ("balance", {"by": "label", "at_most": 300}, 3562, 3204, 358, 0, []),
    ]  # fmt: skip
    return [
        {"rule": rule, "version": 1, "spec": spec, "rows_in": n, "rows_out": out, "removed": gone, "changed": changed, "notes": [],
         "examples": shown}
        for rule, spec, n, out, gone, changed, shown in steps
    ]  # fmt: skip


def dataset():
    train = [8 * n for n in SUPPORT]
    counts = {"train": sum(train), "validation": 324, "test": sum(SUPPORT)}
    return {
        "task": {"kind": "classify", "instruction": "Which licence is this notice?", "labels": LABELS},
        "counts": counts,
        "split": {"validation": 0.1, "test": 0.1},
        "labels": {label: {"train": t, "validation": 20, "test": n} for label, t, n in zip(LABELS, train, SUPPORT, strict=True)},
        "characters": 2_412_903,
    }  # fmt: skip


def lineage():
    kinds = [("source.0", "source"), ("source.base", "source"), ("dataset", "dataset"), ("base", "model"), ("tuned", "model"),
             ("report", "report"), ("package", "package"), ("release", "release")]  # fmt: skip
    nodes = [
        {"digest": digest(word), "kind": kind, "names": ["licence-reader@3"] if word == "release" else []}
        for word, kind in kinds
    ]
    edges = [
        ("dataset", "source.0", "source.0"), ("base", "source", "source.base"), ("tuned", "base", "base"), ("tuned", "dataset", "dataset"),
        ("report", "model", "tuned"), ("report", "base", "base"), ("report", "dataset", "dataset"), ("package", "model", "tuned"),
        ("package", "base", "base"), ("release", "package", "package"), ("release", "report", "report"), ("release", "model", "tuned"),
        ("release", "dataset", "dataset"), ("release", "base", "base"),
    ]  # fmt: skip
    return nodes, [(digest(a), role, digest(b)) for a, role, b in edges]


RECIPE = """\
name: licence-reader
base: smollm2-135m-instruct
task: {kind: classify, instruction: "Which licence is this notice?", labels: auto}
data:
  sources:
    - {files: notices.jsonl, map: {user: text, assistant: license, group: family}}
  rules: [normalize, drop_empty, {length: {at_least: 40, at_most: 4000}}, deduplicate, {balance: {by: label, at_most: 300}}]
  split: {validation: 0.1, test: 0.1, group_by: family}
train: {method: sft, adapter: {kind: lora, rank: 16}, epochs: 1}
evaluate: {gate: {macro_f1: {at_least: 0.75, better_than: base, by: 0.3}}}
budget: {money: 1 USD, time: 30 min}
"""


def classify():
    """A run that was released."""
    nodes, edges = lineage()
    measured = report()
    f1 = measured["systems"]["tuned"]["metrics"]["macro_f1"]
    gap = next(c for c in measured["comparisons"] if c["metric"] == "macro_f1" and c["to"] == "base")
    return RunFacts(
        name="licence-reader",
        release="licence-reader@3",
        state="released",
        made_on="24 November 2026",
        base="smollm2-135m-instruct",
        dataset=dataset(),
        rules=rules(),
        history=history(),
        train={"method": {"sft": {}}, "adapter": {"kind": "lora", "rank": 16, "alpha": None, "rslora": False}},
        report=measured,
        verdicts=[
            {"metric": "macro_f1", "rule": "at least 0.75", "passed": True, "reason": f"it is {f1:.4f}"},
            {"metric": "macro_f1", "rule": "better than base by more than 0.3", "passed": True,
             "reason": f"it is {gap['difference']:.4f} higher (95 % interval {gap['low']:.4f} to {gap['high']:.4f})"},
        ],
        forecast={"steps": 150, "tokens": 378_000, "peak_bytes": 2_310_000_000, "seconds": 502.0, "training_seconds": 431.0,
                  "money": [0.0251, "USD"], "basis": []},
        actual={"steps": 150, "tokens": 381_402, "peak_bytes": 2_180_000_000, "seconds": 561.0, "training_seconds": 452.0,
                "money": [0.02805, "USD"], "basis": ["9 min 21 s of machine time", "local-cpu at 0.18 USD per hour",
                "price: estimate: depreciation of a 1,200 USD computer over 8,000 hours of use, and 100 W at 0.30 USD/kWh; retrieved 2026-11-24"]},
        lineage_nodes=nodes,
        lineage_edges=edges,
        recipe=RECIPE,
        overrides=["train.epochs=1"],
        environment={"luthier": "0.1.0", "python": "3.11.2", "system": "Linux x86_64", "torch": "2.13.0", "transformers": "5.9.0",
                     "peft": "0.21.0", "polars": "1.30.0", "pyarrow": "21.0.0", "scikit-learn": "1.8.0"},
    )  # fmt: skip


def stopped():
    """The same run, stopped by the gate: nothing was packed or released, and the plain baseline wins."""
    whole = classify()
    changed = report(tfidf_share=0.97)
    nodes, edges = lineage()
    kept = [n for n in nodes if n["kind"] not in ("package", "release")]
    return replace(
        whole,
        release=None,
        state="stopped by the gate",
        report=changed,
        verdicts=[
            {"metric": "macro_f1", "rule": "at least 0.9", "passed": False, "reason": f"{whole.verdicts[0]['reason']}, and more is asked"},
            whole.verdicts[1],
        ],
        lineage_nodes=kept,
        lineage_edges=edges,
    )  # fmt: skip


def chat():
    """A task without labels and without a validation split."""

    def one(exact, f1, perplexity):
        metrics = {"exact_match": exact, "token_f1": f1, "perplexity": perplexity}
        return {"rows": 240, "metrics": metrics, "intervals": {}, "per_label": None, "confusion": None}

    comparisons = [
        {"metric": metric, "of": "tuned", "to": "base", "difference": difference, "low": low, "high": high, "rows": 240,
         "confidence": 0.95, "resamples": 2000, "seed": 0}
        for metric, difference, low, high in (
            ("exact_match", 0.05, -0.01, 0.11), ("token_f1", 0.22, 0.17, 0.27), ("perplexity", -7.1, -8.4, -5.9),
        )
    ]  # fmt: skip
    answer = {"id": "a1", "prompt": "fd: a program to find entries in the file system. It is simple, fast and user-friendly.",
              "reference": "find entries in your file system, simply and fast", "change": "improved",
              "answers": {"tuned": "a simple and fast way to find files", "base": "Sure! Here is a synopsis of the package:\nfd is…"}}  # fmt: skip
    told = {"kind": "chat", "instruction": "Write a one-line synopsis.", "labels": None}
    return RunFacts(
        name="synopsis",
        release="synopsis@1",
        state="released",
        base="smollm2-135m-instruct",
        dataset={"task": told, "counts": {"train": 1900, "validation": 0, "test": 240}, "split": {"test": 0.1}, "labels": {}, "characters": 1},
        history=history()
        | {"validation": [], "best_step": 150, "kept": {"how": "last", "steps": [150], "loss": None, "why": None}},
        report={"task": told, "rows": 240, "labels": None, "systems": {"tuned": one(0.05, 0.46, 4.62), "base": one(0.0, 0.24, 11.7)},
                "comparisons": comparisons, "examples": [answer], "cautions": []},
    )  # fmt: skip
