"""Write into docs/security.md how many cases each attack has: what pytest collects for the tests that stand there.

python scripts/count_attacks.py           write them
python scripts/count_attacks.py --check   fail if they are not what pytest collects

Every part that tests of attacks need must be installed (the extras serve, postgres, oidc); without one its cases would not be counted, which
is an error. Not here: whether the tests pass.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"\| (?P<name>[A-Z]\d) \| (?P<rest>.*) \| (?P<tests>[^|]*) \| (?P<count>\d+) \|")
SUM = re.compile(r"\*\*[\d,]+ cases\*\* in all")


@dataclass(frozen=True)
class Attack:
    """`tests`: files below tests/, or PATH::NAME in one."""

    name: str
    tests: tuple[str, ...]


def attacks(page: str) -> Iterator[Attack]:
    for line in page.splitlines():
        if row := ROW.fullmatch(line):
            yield Attack(row["name"], tuple(re.findall(r"`([^`]+)`", row["tests"])))


def collected(files: list[str]) -> list[str]:
    """The cases of these files below tests/, each as PATH::NAME[CASE]."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(f"tests/{one}" for one in files),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  our own Python
    if done.returncode:
        raise SystemExit(f"the tests cannot be collected:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    return [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]


def counted(page: str) -> str:
    """The page with the numbers as they are."""
    rows = list(attacks(page))
    files = sorted({test.partition("::")[0] for row in rows for test in row.tests})
    cases = collected(files)
    of = {
        test: {case for case in cases if case.split("[")[0] == test or case.split("::")[0] == test}
        for row in rows
        for test in row.tests
    }
    if none := sorted(test for test, found in of.items() if not found):
        raise SystemExit(f"nothing is collected for {', '.join(none[:5])}: are all extras installed?")
    numbers = {row.name: len(set().union(*(of[test] for test in row.tests))) for row in rows}

    def written(line: str) -> str:
        row = ROW.fullmatch(line)
        if row is None:
            return line
        return f"| {row['name']} | {row['rest']} | {row['tests']} | {numbers[row['name']]} |"

    page = "\n".join(written(line) for line in page.splitlines()) + "\n"
    return SUM.sub(f"**{len(set().union(*of.values())):,} cases** in all", page)


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    now = counted(page)
    if "--check" in sys.argv[1:]:
        if now != page:
            print(
                "docs/security.md counts other cases than there are; run: python scripts/count_attacks.py",
                file=sys.stderr,
            )
        return now != page
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
