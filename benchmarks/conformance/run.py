"""OpenAI's own client tests against Luthier: the test files that the sdist of `openai` brings, unchanged, over a real port.

    python benchmarks/conformance/run.py [--parts fine_tuning,evals] [-k EXPRESSION] [--keep]

The client under test is the one that stands in this environment; its sdist is fetched once and its tests run in an environment of their
own (.bench/conformance). The server's records are filled for the run (tenant.py): the tests ask for fixed ids. Prints what passed and
what was skipped, each with its reason; the exit status is 0 where nothing failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

from tenant import PARTS, Tenant, part_of

PLACE = Path(__file__).parents[2] / ".bench" / "conformance"
NEEDED = ("pytest>=9,<10", "pytest-asyncio>=1.4", "rich", "inline-snapshot", "httpx")


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    given.add_argument("-k", dest="expression", help="as pytest's -k")
    given.add_argument(
        "--keep", action="store_true", help="leave the server's records and log, and say where"
    )
    options = given.parse_args()
    python, tests = prepared(version("openai"))
    parts = [part_of(name) for name in options.parts.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="luthier-conformance-"))
    with Tenant(folder, parts).served() as url:
        report = folder / "report.xml"
        command = [
            python,
            "-m",
            "pytest",
            "-o",
            "addopts=",
            "-q",
            "--tb=short",
            "-rs",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        command += ["-k", options.expression] if options.expression else []
        for part in parts:
            command += [f"--deselect={name}" for name in part.SKIPPED]
            command += list(part.TESTS)
        done = subprocess.run(  # noqa: S603
            command,
            cwd=tests,
            env={**os.environ, "TEST_API_BASE_URL": f"{url}/v1", "PYTHONPATH": ""},
            check=False,
        )
    show(report, {name: why for part in parts for name, why in part.SKIPPED.items()})
    print(f"openai {version('openai')}" + (f"; records: {folder}" if options.keep else ""))
    if not options.keep:
        import shutil

        shutil.rmtree(folder)
    return done.returncode


def prepared(release: str) -> tuple[str, Path]:
    """(a Python with that client and what its tests need, the unpacked sdist)."""
    tests, python = PLACE / f"openai-{release}", PLACE / "venv" / "bin" / "python"
    if not (tests / "tests").is_dir():
        PLACE.mkdir(parents=True, exist_ok=True)
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "openai",
            f"openai=={release}",
            "-d",
            str(PLACE),
        ]
        subprocess.run(fetch, check=True)  # noqa: S603
        with tarfile.open(PLACE / f"openai-{release}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
    if not (PLACE / "venv" / f"ready-{release}").exists():
        venv.create(PLACE / "venv", with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"openai[aiohttp]=={release}", *NEEDED]
        subprocess.run(install, check=True)  # noqa: S603
        (PLACE / "venv" / f"ready-{release}").touch()
    return str(python), tests


def show(report: Path, skipped: dict[str, str]) -> None:
    """What each file's tests did, and why those that were left out were."""
    told: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314  (pytest wrote it just now)
        how = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        if how == "skipped":
            reasons[str(next(child.get("message") for child in case if child.tag == "skipped"))] += 1
        told[str(case.get("classname")).rpartition(".")[0]][how] += 1
    total: Counter[str] = sum(told.values(), Counter())
    for name, counts in sorted(told.items()):
        print(f"{name:60} " + "  ".join(f"{how} {n}" for how, n in sorted(counts.items())))
    print("all: " + "  ".join(f"{how} {n}" for how, n in sorted(total.items())))
    for why, n in reasons.items():
        print(f"skipped by the tests themselves ({n}): {why}")
    for name, why in skipped.items():
        print(f"not run: {name}: {why}")


if __name__ == "__main__":
    sys.exit(main())
