"""Every recipe of examples/techniques, whole, one after the other: how long it takes, and what came of it.

    python benchmarks/techniques.py [--only dpo,kto] [--threads 2]

A home of its own, so the base is imported by the first recipe. Exit status 1 when a recipe fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from luthier.app.app import App

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "examples" / "techniques"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of recipes, without .yaml")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "LUTHIER_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1",
                       "OMP_NUM_THREADS": str(given.threads)}  # fmt: skip
        data = folder / "techniques"
        subprocess.run([sys.executable, str(RECIPES / "make_data.py"), "--out", str(data)], check=True)  # noqa: S603
        print(
            "| recipe | whole run s | of which training s | steps | loss, first and last step |\n|---|---|---|---|---|"
        )
        for recipe in sorted(RECIPES.glob("*.yaml")):
            if given.only and recipe.stem not in given.only:
                continue
            (data / recipe.name).write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
            started = time.monotonic()
            done = luthier(["run", str(data / recipe.name), "--json"], environment)
            seconds = time.monotonic() - started
            if done.returncode:
                failed.append(recipe.stem)
                print(
                    f"| `{recipe.name}` | failed: {done.stdout.strip()[-300:] or done.stderr.strip()[-300:]} | | | |",
                    flush=True,
                )
                continue
            print(
                f"| `{recipe.name}` | {seconds:.0f} | {trained(json.loads(done.stdout), environment)} |",
                flush=True,
            )
    for name in failed:
        print(f"FAILED {name}", file=sys.stderr)
    return 1 if failed else 0


def luthier(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "luthier", *words], capture_output=True, text=True, env=environment
    )


def trained(told: dict, environment: dict[str, str]) -> str:
    """How long the stage took by the ledger, and the losses by the model's own record."""
    done = App.open(environment).store.ledger.read(kind=["stage.finished"])
    seconds = [event.data["seconds"] for event in done if event.data["step"] == "model"][-1]
    shown = json.loads(luthier(["show", told["digests"]["model"], "--json"], environment).stdout)
    history = json.loads((Path(shown["folder"]) / "history.json").read_text(encoding="utf-8"))
    steps = history["steps"]
    return f"{seconds:.0f} | {len(steps)} | {steps[0]['loss']:.3f}, {steps[-1]['loss']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
