"""Write the small files that the recipes here learn from, and two tiny models for distillation.

    pairs.jsonl       prompt, chosen, rejected     a plain answer and an evasive one            dpo, ipo, orpo, simpo
    thumbs.jsonl      prompt, completion, rating   the same answers with thumbs up or down      kto
    questions.jsonl   prompt, completion           questions whose answer is Yes or No          grpo
    student/, teacher/                             random weights and one tokenizer             distill

Usage: python make_data.py [--out FOLDER]
Everything is made up here; the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from luthier.models.testing import tiny_model

SHOPS = (
    "bakery",
    "library",
    "pharmacy",
    "bookshop",
    "garage",
    "florist",
    "museum",
    "swimming pool",
    "clinic",
    "hotel",
)
FACTS = (
    ("When does the {shop} open?", "The {shop} opens at {n} in the morning."),
    ("When does the {shop} close?", "The {shop} closes at {n} in the evening."),
    ("How many people work at the {shop}?", "{n} people work at the {shop}."),
    ("On which floor is the {shop}?", "The {shop} is on floor {n}."),
    ("How far is the {shop} from the station?", "The {shop} is {n} minutes from the station."),
    ("What does parking at the {shop} cost?", "Parking at the {shop} costs {n} euros a day."),
    ("How long is the waiting time at the {shop}?", "You wait about {n} minutes at the {shop}."),
    ("How do I reach the {shop} by bus?", "Take bus {n} to the {shop}."),
)
EVASIONS = (
    "That is a very interesting question, and I am glad you asked me about the {shop}.",
    "As an assistant I cannot say anything about the {shop} at this moment, sorry.",
    "There are many things to consider about the {shop}, and it all depends on your needs.",
)


def pairs(draw: random.Random) -> list[dict[str, str]]:
    rows = []
    for shop in SHOPS:
        for question, answer in FACTS:
            told = {"shop": shop, "n": draw.randint(2, 12)}
            evasion = draw.choice(EVASIONS)
            rows.append(
                {
                    "prompt": question.format(**told),
                    "chosen": answer.format(**told),
                    "rejected": evasion.format(**told),
                }
            )
    return rows


def thumbs(told: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Every other pair gives its good answer, the others their bad one."""
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if i % 2 else "chosen"], "rating": i % 2 == 0}
        for i, row in enumerate(told)
    ]


def questions(draw: random.Random) -> list[dict[str, str]]:
    found = {}
    while len(found) < 80:
        a, b = draw.sample(range(1, 100), 2)
        found[f"Is {a} larger than {b}?"] = "Yes" if a > b else "No"
    return [{"prompt": question, "completion": answer} for question, answer in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the small files that the recipes here learn from.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)  # noqa: S311  (no secret)
    told = pairs(draw)
    for name, rows in (("pairs", told), ("thumbs", thumbs(told)), ("questions", questions(draw))):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{folder / name}.jsonl: {len(rows)} rows")
    tiny_model(folder / "student", hidden=32, layers=2)
    tiny_model(folder / "teacher", hidden=64, layers=4, seed=1)
    print(f"{folder / 'student'}, {folder / 'teacher'}: tiny models")


if __name__ == "__main__":
    main()
