"""Whether Spark makes the very data sets that one process makes: their digests side by side.

    python benchmarks/data/parity.py [--rows 5000] [--master "local[2]"] [--only chats,food-reviews] [--into .bench/parity]

    chats, labels, answers, gathered   the corpus of corpus.py, with every rule that runs without a model
    food-reviews, debian-descriptions, synopses   real rows with the recipes of examples/; apt-get fetches what is not there

Input files are read in small pieces and shuffles have more parts than cores, so that there is something to get wrong. A
digest is that of all files of the data set, as an artifact names its content. Exit 1 where two differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core import plugin

ROOT = Path(__file__).resolve().parents[2]
PIECE_BYTES = 200_000
OPTIONS = {"spark.sql.shuffle.partitions": "5"}
ASIDE = {"on_bad_row": "set_aside"}
CHATS = (
    "mojibake", "html", "normalize", "drop_empty", {"length": {"min": 200, "max": 2_500, "on": "all"}}, "turns", "characters",
    "repetition", "injection", "toxicity", {"language": {"keep": ["en"]}}, {"filter": "len(user) > 10 and len(assistant) > 5"},
    {"licence": {"allow": ["CC-BY-SA-4.0", "MIT"], "sources": {"corpus.jsonl": "CC-BY-SA-4.0 AND MIT", "others": "LicenseRef-theirs"}}},
    {"decontaminate": {"against": ["benchmark.jsonl"]}}, "deduplicate", "agree", "near_duplicates", "redact",
)  # fmt: skip
"""In an order in which each has something to do; redact last, because before it nothing is shown."""
LABELS = (
    {"sample": {"share": 0.8, "by": "label"}}, {"balance": {"at_most": "median"}}, {"weight": {"expression": "1 + len(user) / 100"}},
    {"augment": {"copies": 2}},
)  # fmt: skip
GATHERED = {
    "quality": ["boilerplate", "semantic_duplicates", "label_noise", "triggers"],
    "relevance": [
        {"rank": {"goal": "a library for reading files, and a tool to convert them", "share": 0.9}}
    ],
    "quantity": ["held_out", {"inverse_frequency": {"of": "label"}}, {"select": {"n": 200}}],
}
"""Rules that learn from all rows."""
LEFT_OUT = {
    "difficulty": "asks a model",
    "generate": "asks a model",
    "replay": "needs two sources; its step over all rows is that of balance",
}
REAL = {
    "food-reviews": ("food-reviews", "recipe.yaml"),
    "debian-descriptions": ("debian-descriptions", "recipe.yaml"),
    "synopses": ("debian-descriptions", "synopsis.yaml"),
}


@dataclass(frozen=True)
class Wish:
    """A data set to make: what a recipe says under `task` and `data`, and where its relative paths start."""

    root: Path
    data: dict[str, Any]
    task: dict[str, Any] = field(default_factory=dict)


def planted(folder: Path) -> dict[str, Wish]:
    """Over a corpus in `folder`, with every rule once at least. answers.jsonl is made beside it."""
    answers(folder)
    split = {"validation": 0.1, "test": 0.1}
    chat = {"files": "corpus.jsonl", "map": {"messages": "messages", **ASIDE}}
    pairs = {"files": "pairs.jsonl", "map": {"user": "text", "label": "topic", **ASIDE}}
    others = {
        "files": "pairs.jsonl",
        "name": "others",
        "map": {"user": "text", "assistant": "topic", **ASIDE},
    }
    told = {"files": "answers.jsonl", "map": {"user": "asked", "assistant": "said", **ASIDE}}
    schema = {"type": "object", "required": ["topic"], "properties": {"words": {"maximum": 90}}}
    return {
        "chats": Wish(folder, {"sources": [chat, others], "rules": {"quality": list(CHATS)}, "split": split}),
        "labels": Wish(
            folder,
            {
                "sources": [pairs],
                "rules": {"quality": ["normalize"], "quantity": list(LABELS)},
                "split": split,
            },
            {"kind": "classify"},
        ),
        "gathered": Wish(
            folder, {"sources": [pairs], "rules": GATHERED, "split": split}, {"kind": "classify"}
        ),
        "answers": Wish(
            folder,
            {
                "sources": [told],
                "rules": {"quality": [{"json_schema": {"schema": schema, "repair": "fences"}}]},
                "split": split,
            },
        ),
    }


def answers(folder: Path) -> None:
    """Questions answered in JSON: some in a fence, some broken, some with too large a number."""
    lines = (folder / "pairs.jsonl").read_text("utf-8").splitlines()
    with open(folder / "answers.jsonl", "w", encoding="utf-8") as out:
        for n, line in enumerate(lines):
            pair = json.loads(line)
            said = json.dumps({"topic": pair["topic"], "words": len(pair["text"].split())})
            said = {0: f"```json\n{said}\n```", 1: said[:-1]}.get(n % 9, said)
            out.write(json.dumps({"asked": pair["text"], "said": said}) + "\n")


def rules_named(wishes: Iterator[Wish]) -> set[str]:
    """Every rule that these data sets run."""
    lists = [some for wish in wishes for some in wish.data["rules"].values()]
    return {one if isinstance(one, str) else next(iter(one)) for some in lists for one in some}


def unlisted(named: set[str]) -> list[str]:
    """Rules of the plug-in table that neither run here nor are left out for a reason."""
    return sorted(set(plugin.names("rule")) - named - set(LEFT_OUT))


def real(name: str, places: list[Path]) -> Wish | None:
    """A real set with its recipe, its rows taken from the first of the folders that has them; None where none has."""
    from luthier.app.recipe import read_recipe

    example, recipe = REAL[name]
    told = read_recipe(ROOT / "examples" / example / recipe).recipe
    for place in places:
        if (place / f"{example}.jsonl").exists():
            return Wish(place, told.data.plain(), told.task.plain())
    return None


def fetched(name: str, into: Path) -> Wish:
    """As `real`, and fetched where that is needed."""
    example = REAL[name][0]
    there = [ROOT / "examples" / example, into / example]
    if real(name, there) is None:
        there[1].mkdir(parents=True, exist_ok=True)
        out = there[1] if example == "food-reviews" else there[1] / f"{example}.jsonl"
        script = ROOT / "examples" / example / "make_data.py"
        subprocess.run([sys.executable, str(script), "--out", str(out)], check=True)  # noqa: S603
    wish = real(name, there)
    assert wish is not None
    return wish


def made(wish: Wish, engine: Any, into: Path) -> tuple[str, dict[str, Any]]:
    """The digest of the data set that an engine makes, and dataset.json."""
    from luthier.core.testing import FakeContext
    from luthier.data.prepare import STAGE, PrepareSpec

    out, scratch = into / "out", into / "scratch"
    for folder in (out, scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    spec = PrepareSpec.model_validate({"task": wish.task, "data": {**wish.data, "engine": engine}})
    STAGE.function(spec, {}, out, scratch, FakeContext(wish.root, root=wish.root))
    return digest(out), json.loads((out / "dataset.json").read_text())


def digest(out: Path) -> str:
    from luthier.core.artifact import digest_of

    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return digest_of(
        {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    )


def spark(master: str) -> dict[str, Any]:
    """The engine, set so that even small files have several parts."""
    from luthier.data.engines import spark as module

    module.PART_BYTES = PIECE_BYTES
    return {"spark": {"master": master, "options": OPTIONS}}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["chats", "labels", "answers", *REAL]
    parser.add_argument("--rows", type=int, default=5_000, help="of the corpus")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names)
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "parity")
    given = parser.parse_args()
    into = given.into.resolve()
    wishes: dict[str, Wish] = {}
    if not set(given.only) <= set(REAL):
        from corpus import there

        wishes |= planted(there(given.rows, 0, into / "corpus"))
    wishes |= {name: fetched(name, into) for name in REAL if name in given.only}
    print(f"{'data set':<20} {'kept':>7}  {'one process':<16}  {given.master:<22}  seconds")
    wrong = 0
    for name in given.only:
        start = time.perf_counter()
        one, facts = made(wishes[name], "local", into / "local")
        half = time.perf_counter()
        other, _ = made(wishes[name], spark(given.master), into / "spark")
        seconds = f"{half - start:.0f} and {time.perf_counter() - half:.0f}"
        kept = sum(facts["counts"].values())
        same = "" if one == other else "  DIFFERENT"
        print(f"{name:<20} {kept:>7,}  {one[:16]}  {other[:16]:<22}  {seconds}{same}", flush=True)
        wrong += one != other
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
