"""What rules are worth: one recipe trained with rules switched on and off, measured on the same rows.

    python benchmarks/data/ablation.py examples/spam-mail/recipe.yaml [--rows 600] [--test-rows 300] [--seeds 2]
        [--variants examples/spam-mail/ablation.yaml | --each] [--longest 600] [--words-only]

The rows are divided before any rule sees them: by the recipe's own test file (NAME-test.jsonl beside NAME.jsonl), else one
row of five, by a hash of the column that the recipe groups by, or of the row. Rules act on the rows that are learnt from; what
is tested is the same for all, only rows without an answer are left out. So a rule is never credited with an easier test.

Variants are the recipe's groups of rules, on and off; with `--each`, all but one rule at a time; with `--variants`, those of
a file: a name, and rules as a recipe has them. `--longest` leaves out rows of more characters, on both sides, so that a run is
short. `tfidf` is a plain classifier on the same rows, which shows what rules do when nothing else is at work, and with
`--words-only` it is all that is run.

Each figure is the mean over the seeds of training, with a 95 % interval; `against the first` is the paired difference to the
first variant. Both are bootstraps over the tested rows, the same draws for all: they say how sure the figure is for other
rows of the kind, not for other seeds. Everything is kept in .bench/ablation, so a run that was broken off goes on.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from luthier.app.app import App
from luthier.app.line import Make, import_base, sources
from luthier.core.artifact import Artifact
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage
from luthier.data.shards import Side, excerpt, write_manifest
from luthier.evaluation import compare, predictions, tasks
from luthier.evaluation.predictions import Answers

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("quality", "relevance", "quantity")
ONE_OF = 5
RESAMPLES = 2000
METRICS = ("macro_f1", "perplexity")
"""The first that a task has is told."""


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


@dataclass
class Measured:
    """What one variant gave. `tuned` has the answers of each seed, `words` those of tfidf."""

    name: str
    rows: int
    task: Mapping[str, Any]
    words: Answers | None = None
    tuned: list[Answers] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0


def main() -> int:
    given = arguments()
    recipe = YAML(typ="safe").load(given.recipe.read_text(encoding="utf-8"))
    folder = given.folder / recipe["name"]
    folder.mkdir(parents=True, exist_ok=True)
    train, test = divided(recipe, given.recipe.parent, folder, given)
    app = App.open({**os.environ, "LUTHIER_HOME": str(given.folder / "home")})
    if given.variants is not None:
        chosen: Any = YAML(typ="safe").load(given.variants.read_text(encoding="utf-8")).items()
    else:
        chosen = variants(recipe["data"].get("rules") or {}, given.each)
    print(
        "| rules | rows learnt from | steps | tuned | against the first | tfidf | against the first | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    first = None
    for name, rules in chosen:
        done = measured(
            app, recipe, name, rules or {}, (train, test), folder, 0 if given.words_only else given.seeds
        )
        first = first or done
        print(line(done, first), flush=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", type=int, default=600, help="rows that are learnt from, before any rule")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--longest", type=int, help="leave out rows of more characters")
    parser.add_argument("--seeds", type=int, default=1, help="how often each variant is trained")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--each", action="store_true", help="leave out one rule at a time")
    which.add_argument("--variants", type=Path, help="a file of names and rules")
    parser.add_argument("--words-only", action="store_true", help="train no model, only tfidf")
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
    recipe: Mapping[str, Any], here: Path, folder: Path, given: argparse.Namespace
) -> tuple[Path, Path]:
    """The files of rows to learn from and to test on; the first so many of each by a hash."""
    source = here / recipe["data"]["sources"][0]["files"]
    own = source.with_name(f"{source.stem}-test{source.suffix}")
    column = recipe["data"].get("split", {}).get("group_by")
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for written_line in lines_of(source):
        key = str(json.loads(written_line)[column]) if column else written_line
        side = "test" if not own.exists() and drawn(key) % ONE_OF == 0 else "train"
        sides[side].append(written_line)
    if own.exists():
        sides["test"] = lines_of(own)
    paths = []
    for side, most in (("train", given.rows), ("test", given.test_rows)):
        fitting = (one for one in sides[side] if given.longest is None or len(one) <= given.longest)
        some = sorted(fitting, key=drawn)[:most]
        paths.append(folder / f"{side}.jsonl")
        paths[-1].write_text("".join(one + "\n" for one in some), encoding="utf-8")
    return paths[0], paths[1]


def lines_of(path: Path) -> list[str]:
    """Of JSON Lines, whose strings may hold what str.splitlines takes for an end of line."""
    return [one for one in path.read_text(encoding="utf-8").split("\n") if one]


def drawn(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def measured(
    app: App,
    recipe: Mapping[str, Any],
    name: str,
    rules: Mapping[str, Any],
    files: tuple[Path, Path],
    folder: Path,
    seeds: int,
) -> Measured:
    from luthier.data.prepare import STAGE as PREPARE
    from luthier.data.prepare import PrepareSpec
    from luthier.evaluation.suite import STAGE as EVALUATE
    from luthier.training.train import STAGE as TRAIN

    started = time.monotonic()
    labels = labels_of(recipe, *files)
    shares = {"validation": 0.05, "test": 0.02}
    wish = app.recipes.read(written(recipe, rules, files[0], shares, labels, folder / "recipe.yaml"), ())
    alone = {"quality": ["drop_empty"]}
    shares = {"validation": 0.1, "test": 0.1}
    held = app.recipes.read(written(recipe, alone, files[1], shares, labels, folder / "test.yaml"), ())
    with closing(app.recipes.context(wish, None)) as at:
        make = Make(at)
        made = []
        for one in (wish, held):
            spec = PrepareSpec(task=one.recipe.task, data=one.recipe.data)
            made.append(make("dataset", PREPARE, spec, sources(one, at)))
        dataset = make("dataset", COMPOSE, Composed(), {"rows": made[0], "test": made[1]})
        told = Measured(name, dataset.summary["train"], dataset_task(at.folder(dataset)))
        if labels is not None:
            told.words = words(at.folder(dataset), told.task)
        base = import_base(wish.recipe.base, at) if seeds else None
        for seed in range(seeds):
            train = wish.recipe.train.model_copy(update={"seed": seed})
            model = make("model", TRAIN, train, {"base": base, "dataset": dataset})
            measuring = wish.recipe.evaluate.measuring(train.dtype)
            report = make("report", EVALUATE, measuring, {"model": model, "base": base, "dataset": dataset})
            answers = predictions.read(at.folder(report) / "predictions.parquet")
            told.tuned.append(predictions.by_system(answers)["tuned"])
            history = json.loads((at.folder(model) / "history.json").read_text(encoding="utf-8"))
            told.steps = len(history["steps"])
    told.seconds = time.monotonic() - started
    return told


def dataset_task(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["task"])


def words(folder: Path, task: Mapping[str, Any]) -> Answers:
    """What tfidf answers to the tested rows."""
    from luthier.evaluation import questions

    part = tasks.of(task)
    asked = questions.read(folder / "test.parquet")
    answers = part.baseline(questions.records(folder / "train.parquet"), asked, 0)
    lines = [predictions.line(one, "tfidf", answer, part) for one, answer in zip(asked, answers, strict=True)]
    return predictions.by_system(predictions.table(lines))["tfidf"]


def line(done: Measured, first: Measured) -> str:
    """One line of the table."""
    cells = [done.name, f"{done.rows:,}", str(done.steps or "")]
    pairs = [
        (done.tuned, first.tuned),
        ([done.words] if done.words else [], [first.words] if first.words else []),
    ]
    for mine, theirs in pairs:
        if not mine:
            cells += ["", ""]
            continue
        shared = set.intersection(*(set(one.ids) for one in (*mine, *theirs)))
        one, other = (
            averaged([answers.only(shared) for answers in some], done.task) for some in (mine, theirs)
        )
        metric = next(name for name in METRICS if name in compare.at_sample(one, len(shared)))
        drawn = compare.resampled(one, len(shared), RESAMPLES, 0)[metric]
        within = compare.interval(drawn, 0.95, len(shared))
        value = compare.at_sample(one, len(shared))[metric]
        cells.append(f"{metric} {value:.3f}" + (f" ({within[0]:.3f} – {within[1]:.3f})" if within else ""))
        apart = compare.difference(one, other, len(shared), confidence=0.95, resamples=RESAMPLES, seed=0)
        found = apart.get(metric) if done is not first else None
        cells.append(f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})" if found else "")
    return f"| {' | '.join([*cells, f'{done.seconds:.0f}'])} |"


def averaged(some: Sequence[Answers], task: Mapping[str, Any]) -> compare.Statistics:
    """The mean over seeds of each metric, on the same draws of rows."""
    parts = [tasks.of(task).statistics(answers) for answers in some]

    def statistics(index_RN: Any) -> dict[str, Any]:
        told = [part(index_RN) for part in parts]
        return {name: np.mean([one[name] for one in told], axis=0) for name in told[0]}

    return statistics


def labels_of(recipe: Mapping[str, Any], *paths: Path) -> list[str] | None:
    """All that occur, so that every variant learns and is tested on the same ones."""
    column = (recipe["data"]["sources"][0].get("map") or {}).get("label")
    if column is None:
        return None
    lines = (one for path in paths for one in lines_of(path))
    return sorted({str(json.loads(one)[column]) for one in lines})


def written(
    recipe: Mapping[str, Any],
    rules: Mapping[str, Any],
    rows: Path,
    split: Mapping[str, float],
    labels: list[str] | None,
    path: Path,
) -> Path:
    """The recipe of a variant."""
    source = {**recipe["data"]["sources"][0], "files": str(rows)}
    own = {key: value for key, value in recipe["data"].get("split", {}).items() if key == "group_by"}
    data = {**recipe["data"], "sources": [source], "rules": dict(rules), "split": {**own, **split}}
    evaluate = {k: v for k, v in recipe.get("evaluate", {}).items() if k in ("max_tokens",)}
    task = {**recipe["task"], **({"labels": labels} if labels is not None else {})}
    told = {**recipe, "task": task, "data": data, "evaluate": {**evaluate, "against": []}}
    with path.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump(told, out)
    return path


if __name__ == "__main__":
    sys.exit(main())
