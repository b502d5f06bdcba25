"""Write the rows that the circle learns from, and the requests that it is asked.

    rows.jsonl         what there is at first: packages of four sections of Debian, with their section
    shuffled.jsonl     the same packages with their sections dealt out anew: what the bad candidate learns from
    requests.jsonl     what is asked over time: other packages of these four sections, and of a fifth one, `fonts`

A row has `text` (the synopsis and how the description begins), `section`, `package`. No two packages are built from one source, so that
nothing is asked whose like was learnt.

Usage: python make_data.py [--packages FILE]
FILE is what ../debian-descriptions/make_data.py writes with `--sections 30`; without it that is run, which needs apt-get. Another day's
index may have other packages.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
OLD, NEW = ("games", "net", "science", "text"), "fonts"
ROWS, ASKED = 130, 100
"""Packages of each old section."""
NEW_ASKED = 200
LONGEST = 150


def fetched(folder: Path) -> Path:
    out = folder / "packages.jsonl"
    maker = HERE.parent / "debian-descriptions" / "make_data.py"
    done = subprocess.run(
        [sys.executable, maker, "--sections", "30", "--out", out], stdout=subprocess.DEVNULL
    )
    if done.returncode:
        sys.exit(done.returncode)
    return out


def text(package: dict[str, str]) -> str:
    """The synopsis, and how the description begins: whole words, at most LONGEST characters in all."""
    whole = " ".join(f"{package['synopsis']}: {package['description']}".split())
    return whole if len(whole) <= LONGEST else whole[:LONGEST].rpartition(" ")[0]


def rows(packages: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """One package of each source, in the order of the file, which is that of a hash."""
    seen = set()
    for one in packages:
        if one["source"] not in seen and one["section"] in (*OLD, NEW):
            seen.add(one["source"])
            yield {"text": text(one), "section": one["section"], "package": one["package"]}


def parts(found: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    of = {section: [row for row in found if row["section"] == section] for section in (*OLD, NEW)}
    cut = ROWS + ASKED
    made = {
        "rows": [row for section in OLD for row in of[section][:ROWS]],
        "requests": [row for section in OLD for row in of[section][ROWS:cut]] + of[NEW][:NEW_ASKED],
    }  # fmt: skip
    draw = random.Random(0)  # noqa: S311
    for part in made.values():
        draw.shuffle(part)
    dealt = [row["section"] for row in made["rows"]]
    draw.shuffle(dealt)
    made["shuffled"] = [row | {"section": section} for row, section in zip(made["rows"], dealt, strict=True)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the circle's rows and requests from Debian's index.")
    parser.add_argument("--packages", type=Path, help="what ../debian-descriptions/make_data.py wrote")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder (default: beside this file)")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        written = (wish.packages or fetched(Path(temporary))).read_text(encoding="utf-8")
    found = list(rows(json.loads(line) for line in written.split("\n") if line))
    wish.out.mkdir(parents=True, exist_ok=True)
    for name, part in parts(found).items():
        path = wish.out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
        counts = {section: sum(row["section"] == section for row in part) for section in (*OLD, NEW)}
        print(f"{path}: {len(part)} packages, " + ", ".join(f"{n} {s}" for s, n in counts.items() if n))


if __name__ == "__main__":
    main()
