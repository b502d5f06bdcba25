"""Write the small files that the recipes here learn from, and two tiny models for distillation.

    pairs.jsonl       prompt, chosen, rejected     a plain answer and an evasive one            dpo, ipo, orpo, simpo
    thumbs.jsonl      prompt, completion, rating   the same answers with thumbs up or down      kto
    questions.jsonl   prompt, completion           questions whose answer is Yes or No          grpo, several-tasks
    tickets.jsonl     text, queue                  messages for one of three queues             classify-head
    minutes.jsonl     text, minutes                how long a described visit takes             regress
    notes.jsonl       text                         plain paragraphs                             continued, from-scratch
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


TICKETS = {
    "billing": (
        "the invoice shows {n} charges",
        "I was charged {n} times",
        "please refund the second payment of {n} euros",
    ),
    "delivery": (
        "the parcel is {n} days late",
        "the courier left box {n} with a neighbour",
        "tracking has not moved for {n} days",
    ),
    "technical": (
        "the app crashes after {n} seconds",
        "error {n} appears when I log in",
        "the page takes {n} seconds to load",
    ),
}
VISITS = {
    "a quick question at the desk": 5,
    "a haircut": 30,
    "a guided tour": 60,
    "a swimming lesson": 45,
    "picking up a book": 3,
}


def tickets(draw: random.Random) -> list[dict[str, str]]:
    told = {
        f"{opening}, {words.format(n=draw.randint(2, 40))}.": queue
        for queue, some in TICKETS.items() for words in some for opening in ("Hello", "Sorry to trouble you again", "Since Monday")
        for _ in range(4)
    }  # fmt: skip
    return [{"text": text, "queue": queue} for text, queue in told.items()]


def minutes(draw: random.Random) -> list[dict[str, str]]:
    return [
        {"text": f"{people} people at the {shop}: {visit}.", "minutes": str(length + 2 * people)}
        for shop in SHOPS for visit, length in VISITS.items() for people in draw.sample(range(1, 9), 2)
    ]  # fmt: skip


def notes(told: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The good answers about one place, as a paragraph."""
    answers = [row["chosen"] for row in told]
    return [{"text": " ".join(answers[i : i + 4])} for i in range(0, len(answers), 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the small files that the recipes here learn from.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)  # noqa: S311  (no secret)
    told = pairs(draw)
    files = {"pairs": told, "thumbs": thumbs(told), "questions": questions(draw), "tickets": tickets(draw),
             "minutes": minutes(draw), "notes": notes(told)}  # fmt: skip
    for name, rows in files.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{folder / name}.jsonl: {len(rows)} rows")
    tiny_model(folder / "student", hidden=32, layers=2)
    tiny_model(folder / "teacher", hidden=64, layers=4, seed=1)
    print(f"{folder / 'student'}, {folder / 'teacher'}: tiny models")


if __name__ == "__main__":
    main()
