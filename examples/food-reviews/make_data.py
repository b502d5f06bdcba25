"""Write food-reviews.jsonl and food-reviews-test.jsonl: reviews of food, and whether they are great or not.

The reviews are two tables of R's package modeldata (MIT), taken from Debian's package r-cran-modeldata: 4,000 rows to
learn from and 1,000 to test on, as its authors divided them. They were left at Amazon; `product` is what was reviewed.

Usage: python make_data.py [--out FOLDER] [--deb FILE]
Needs apt-get and dpkg-deb (Debian, Ubuntu); or give a .deb that you fetched elsewhere. Nothing is installed. Only the
standard library is used, and the same package gives the same files on every machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from r_data import table

PACKAGE, VERSION = "r-cran-modeldata", "1.1.0-1"
TABLES = {"food-reviews": "training_data", "food-reviews-test": "testing_data"}


def fetched(folder: Path) -> Path:
    """The package's file. Exits with the remedy when it cannot be had."""
    if shutil.which("apt-get") is None:
        sys.exit(
            f"apt-get is not here.\n  → fetch Debian's package {PACKAGE} elsewhere and give it: --deb FILE"
        )
    done = subprocess.run(
        ["apt-get", "download", "--quiet", PACKAGE], cwd=folder, capture_output=True, text=True
    )
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not found:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        sys.exit(
            f"{PACKAGE} could not be fetched: {said}\n  → run apt-get update first, or give the file: --deb FILE"
        )
    return found[0]


def unpacked(deb: Path, folder: Path) -> Path:
    """Where the package keeps its data."""
    version = subprocess.run(
        ["dpkg-deb", "--field", deb, "Version"], capture_output=True, text=True, check=True
    )
    if version.stdout.strip() != VERSION:
        print(
            f"note: this is version {version.stdout.strip()}; the published figures are for {VERSION}",
            file=sys.stderr,
        )
    subprocess.run(["dpkg-deb", "--extract", deb, folder], check=True)
    return folder / "usr/lib/R/site-library/modeldata/data"


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [
        {"review": row["review"], "score": row["score"], "product": row["product"]}
        for row in table(folder, name)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write food-reviews.jsonl and food-reviews-test.jsonl.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument(
        "--deb", type=Path, help=f"the file of Debian's package {PACKAGE}; else apt-get fetches it"
    )
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = unpacked(wish.deb or fetched(folder), folder / "unpacked")
        for name, of in TABLES.items():
            some = rows(data, of)
            path = wish.out / f"{name}.jsonl"
            path.write_text(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some), encoding="utf-8"
            )
            counts = Counter(row["score"] for row in some)
            told = ", ".join(f"{n} {score}" for score, n in counts.most_common())
            print(f"{path}: {len(some)} reviews of {len({row['product'] for row in some})} products ({told})")


if __name__ == "__main__":
    main()
