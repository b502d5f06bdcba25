"""Write debian-descriptions.jsonl: what Debian's packages say of themselves, with their section and their source.

`description` is the long text, `synopsis` the line above it, `section` one of Debian's (games, python, doc, ...). Binary
packages that are built from one `source` often share most of their description; split by it. Both texts are in
English, from the index files that apt-get fetches.

Usage: python make_data.py [--out FILE] [--sections 20] [--rows N]
Needs apt-get (Debian, Ubuntu) and asks the mirrors that it is set up with; the lists of this machine are not touched.
What it writes follows from the release and its day: another day's index may have other packages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SHORTEST = 80


def fetched(folder: Path) -> Path:
    """The index files, in a folder of their own. Exits with the remedy when they cannot be had."""
    if shutil.which("apt-get") is None:
        sys.exit("apt-get is not here.\n  → run this on Debian or Ubuntu, or in a container of one of them.")
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    settings = {"Dir::State::Lists": lists, "Acquire::Languages": "en", "Acquire::GzipIndexes": "false"}
    settings |= {"Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "", "APT::Sandbox::User": "root"}
    wish = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    done = subprocess.run(["apt-get", *wish, "--quiet", "update"], capture_output=True, text=True)
    if not list(lists.glob("*_Packages")) or not list(lists.glob("*_Translation-en")):
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        sys.exit(
            f"the index files could not be fetched: {said}\n  → see that `apt-get update` works on this machine."
        )
    return lists


def paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """Each package's fields; lines that go on begin with a blank."""
    fields: dict[str, str] = {}
    name = ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line == "\n":
                if fields:
                    yield fields
                fields = {}
            elif line[0] in " \t":
                fields[name] += line
            else:
                name, _, value = line.partition(":")
                fields[name] = value.lstrip(" ")
    if fields:
        yield fields


def told(description: str) -> tuple[str, str]:
    """(synopsis, text) of a description; a line with a dot is an empty one.

    >>> told("a tool\\n It does\\n things.\\n .\\n  * one\\n")
    ('a tool', 'It does\\nthings.\\n\\n * one')
    """
    synopsis, *lines = description.rstrip("\n").split("\n")
    text = "\n".join("" if line.strip() == "." else line[1:] for line in lines)
    return synopsis.strip(), text.strip()


def rows(lists: Path) -> Iterator[dict[str, str]]:
    """Every package once, in the order of names."""
    texts: dict[tuple[str, str], str] = {}
    for path in sorted(lists.glob("*_Translation-en")):
        for one in paragraphs(path):
            key = (one["Package"].strip(), one["Description-md5"].strip())
            texts.setdefault(key, one["Description-en"])
    packages: dict[str, dict[str, str]] = {}
    for path in sorted(lists.glob("*_Packages")):
        for one in paragraphs(path):
            packages.setdefault(one["Package"].strip(), one)
    for name, one in sorted(packages.items()):
        description = texts.get((name, one.get("Description-md5", "").strip()))
        if description is None:
            continue
        synopsis, text = told(description)
        if len(text) >= SHORTEST:
            yield {
                "package": name,
                "source": one.get("Source", name).split()[0],
                "section": one.get("Section", "none").strip().rpartition("/")[2],
                "synopsis": synopsis,
                "description": text,
            }


def choose(every: Iterable[dict[str, str]], sections: int, n: int | None) -> list[dict[str, str]]:
    """The packages of the largest sections; of these the first n by a hash of their name, in that order."""
    some = list(every)
    largest = {section for section, _ in Counter(row["section"] for row in some).most_common(sections)}
    chosen = sorted((row for row in some if row["section"] in largest), key=lambda row: _hash(row["package"]))
    return chosen[:n]


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write debian-descriptions.jsonl from Debian's index.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "debian-descriptions.jsonl")
    parser.add_argument("--sections", type=int, default=20, help="how many sections (default 20)")
    parser.add_argument("--rows", type=int, help="the most rows; without it, all")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen = choose(rows(fetched(Path(temporary))), wish.sections, wish.rows)
    with wish.out.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
    print(f"{wish.out}: {len(chosen)} packages of {len({row['source'] for row in chosen})} sources")
    for section, n in Counter(row["section"] for row in chosen).most_common():
        print(f"  {n:6}  {section}")


if __name__ == "__main__":
    main()
