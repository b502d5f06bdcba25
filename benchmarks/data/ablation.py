"""What rules are worth: one recipe trained with its groups of rules switched on and off, measured on the same rows.

    python benchmarks/data/ablation.py examples/spam-mail/recipe.yaml [--rows 600] [--test-rows 300] [--each]

The rows are divided before any rule sees them: by the recipe's own test file (NAME-test.jsonl beside NAME.jsonl), else one
row of five, by a hash of the column that the recipe groups by, or of the row. Rules act on the rows that are learnt from; what
is tested is the same for all, only rows without an answer are left out. So a rule is never credited with an easier test.

`--each` leaves out one rule at a time in place of groups. `tfidf` is a plain classifier on the same rows, which shows what the
rules do when nothing else is at work. Everything is kept in .bench/ablation, so a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from luthier.app.app import App
from luthier.app.line import Make, import_base, sources
from luthier.core.artifact import Artifact
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage
from luthier.data.shards import Side, excerpt, write_manifest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("quality", "relevance", "quantity")
ONE_OF = 5


class Composed(Spec):
    """The rows of one dataset, tested on those of another."""


def compose(_: Composed, inputs: Mapping[str, Artifact], out: Path, _scratch: Path, at: Context) -> Output:
    """All of `test` becomes the test split of `rows`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, test = at.folder(inputs["rows"]), at.folder(inputs["test"])
    shutil.copytree(rows, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
    shutil.rmtree(out / "test", ignore_errors=True)
    write_manifest(out, excerpt(rows, ("train", "validation", "removed", "trail")))  # test is another one's
    held = pa.concat_tables(
        Side(test / f"{side}.parquet").table() for side in ("train", "validation", "test")
    )
    pq.write_table(held.sort_by("id"), out / "test.parquet")
    facts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    facts["counts"]["test"] = held.num_rows
    (out / "dataset.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    return Output(facts["counts"])


COMPOSE = Stage("dataset", 1, compose)


def main() -> int:
    given = arguments()
    recipe = YAML(typ="safe").load(given.recipe.read_text(encoding="utf-8"))
    folder = given.folder / recipe["name"]
    folder.mkdir(parents=True, exist_ok=True)
    train, test = divided(recipe, given.recipe.parent, folder, given.rows, given.test_rows)
    app = App.open({**os.environ, "LUTHIER_HOME": str(given.folder / "home")})
    with_base = True
    print(
        "| rules | rows learnt from | steps | tuned | tfidf | base | seconds |\n|---|---|---|---|---|---|---|"
    )
    for name, rules in variants(recipe["data"].get("rules") or {}, given.each):
        print(row(app, recipe, name, rules, train, test, folder, with_base), flush=True)
        with_base = False
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", type=int, default=600, help="rows that are learnt from, before any rule")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--each", action="store_true", help="leave out one rule at a time")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "ablation")
    given = parser.parse_args()
    given.recipe, given.folder = given.recipe.resolve(), given.folder.resolve()
    return given


def variants(rules: Mapping[str, list[Any]], each: bool) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """(what is on, the rules)

    >>> [name for name, _ in variants({"quality": ["normalize"], "quantity": ["balance"]}, False)]
    ['none', 'quality', 'quantity', 'quality + quantity']
    >>> [name for name, _ in variants({"quality": ["normalize", {"length": {"min": 3}}]}, True)]
    ['none', 'all', 'without normalize', 'without length']
    """
    groups = [name for name in GROUPS if rules.get(name)]
    if not each:
        for n in range(len(groups) + 1):
            for some in itertools.combinations(groups, n):
                yield " + ".join(some) or "none", {name: list(rules[name]) for name in some}
        return
    yield "none", {}
    yield "all", {name: list(rules[name]) for name in groups}
    for group in groups:
        for place, rule in enumerate(rules[group]):
            left = [*rules[group][:place], *rules[group][place + 1 :]]
            name = rule if isinstance(rule, str) else next(iter(rule))
            yield f"without {name}", {g: left if g == group else list(rules[g]) for g in groups}


def divided(
    recipe: Mapping[str, Any], here: Path, folder: Path, rows: int, test_rows: int
) -> tuple[Path, Path]:
    """The files of rows to learn from and to test on; the first so many of each by a hash."""
    source = here / recipe["data"]["sources"][0]["files"]
    own = source.with_name(f"{source.stem}-test{source.suffix}")
    column = recipe["data"].get("split", {}).get("group_by")
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for line in source.read_text(encoding="utf-8").splitlines():
        key = str(json.loads(line)[column]) if column else line
        side = "test" if not own.exists() and drawn(key) % ONE_OF == 0 else "train"
        sides[side].append(line)
    if own.exists():
        sides["test"] = own.read_text(encoding="utf-8").splitlines()
    paths = []
    for side, most in (("train", rows), ("test", test_rows)):
        some = sorted(sides[side], key=drawn)[:most]
        paths.append(folder / f"{side}.jsonl")
        paths[-1].write_text("".join(line + "\n" for line in some), encoding="utf-8")
    return paths[0], paths[1]


def drawn(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def row(
    app: App,
    recipe: Mapping[str, Any],
    name: str,
    rules: Mapping[str, Any],
    train: Path,
    test: Path,
    folder: Path,
    with_base: bool,
) -> str:
    """One line of the table."""
    from luthier.data.prepare import STAGE as PREPARE
    from luthier.data.prepare import PrepareSpec
    from luthier.evaluation.suite import STAGE as EVALUATE
    from luthier.training.train import STAGE as TRAIN

    started = time.monotonic()
    labels = labels_of(recipe, train, test)
    wish = app._read(
        written(
            recipe,
            rules,
            train,
            {"validation": 0.05, "test": 0.02},
            labels,
            with_base,
            folder / "recipe.yaml",
        ),
        (),
    )
    held = app._read(
        written(
            recipe,
            {"quality": ["drop_empty"]},
            test,
            {"validation": 0.1, "test": 0.1},
            labels,
            with_base,
            folder / "test.yaml",
        ),
        (),
    )
    with closing(app._context(wish, None)) as at:
        make = Make(at)
        made = []
        for one in (wish, held):
            spec = PrepareSpec(task=one.recipe.task, data=one.recipe.data)
            made.append(make("dataset", PREPARE, spec, sources(one, at)))
        dataset = make("dataset", COMPOSE, Composed(), {"rows": made[0], "test": made[1]})
        base = import_base(wish.recipe.base, at)
        model = make("model", TRAIN, wish.recipe.train, {"base": base, "dataset": dataset})
        measured = wish.recipe.evaluate.measuring(wish.recipe.train.dtype)
        report = make("report", EVALUATE, measured, {"model": model, "base": base, "dataset": dataset})
        history = json.loads((at.folder(model) / "history.json").read_text(encoding="utf-8"))
        systems = json.loads((at.folder(report) / "report.json").read_text(encoding="utf-8"))["systems"]
    cells = [shown(systems.get(system)) for system in ("tuned", "tfidf", "base")]
    n = dataset.summary["train"]
    return f"| {name} | {n:,} | {len(history['steps'])} | {' | '.join(cells)} | {time.monotonic() - started:.0f} |"


def shown(system: Mapping[str, Any] | None) -> str:
    """The metric that matters most, with its interval where there is one."""
    if system is None:
        return ""
    for name in ("macro_f1", "perplexity"):
        value = system["metrics"].get(name)
        if isinstance(value, dict):
            low, high = value.get("interval") or (None, None)
            between = f" ({low:.3f} – {high:.3f})" if low is not None else ""
            return f"{name} {value['value']:.3f}{between}"
        if value is not None:
            return f"{name} {value:.3f}"
    return json.dumps(system["metrics"])


def labels_of(recipe: Mapping[str, Any], *paths: Path) -> list[str] | None:
    """All that occur, so that every variant learns and is tested on the same ones."""
    column = (recipe["data"]["sources"][0].get("map") or {}).get("label")
    if column is None:
        return None
    lines = (line for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    return sorted({str(json.loads(line)[column]) for line in lines})


def written(
    recipe: Mapping[str, Any],
    rules: Mapping[str, Any],
    rows: Path,
    split: Mapping[str, float],
    labels: list[str] | None,
    with_base: bool,
    path: Path,
) -> Path:
    """The recipe of a variant."""
    source = {**recipe["data"]["sources"][0], "files": str(rows)}
    own = {key: value for key, value in recipe["data"].get("split", {}).items() if key == "group_by"}
    data = {**recipe["data"], "sources": [source], "rules": dict(rules), "split": {**own, **split}}
    classify = labels is not None
    against = (["base"] if with_base else []) + (["tfidf"] if classify else [])
    evaluate = {k: v for k, v in recipe.get("evaluate", {}).items() if k in ("max_tokens",)}
    task = {**recipe["task"], **({"labels": labels} if classify else {})}
    told = {**recipe, "task": task, "data": data, "evaluate": {**evaluate, "against": against}}
    with path.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump(told, out)
    return path


if __name__ == "__main__":
    sys.exit(main())
