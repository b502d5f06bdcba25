"""One process and Spark make the same data sets, of every rule that runs without a model and of real rows.
Side by side for people: benchmarks/data/parity.py."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "benchmarks" / "data"
_spec = importlib.util.spec_from_file_location("made_up_corpus", Path(__file__).with_name("test_corpus.py"))
assert _spec and _spec.loader
_corpus = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_corpus)
pool = _corpus.pool
ROWS = 700

needs_spark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("pyspark") is None
        or not (shutil.which("java") or os.environ.get("JAVA_HOME")),
        reason="Spark is not installed (make setup-optional; Java 17)",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def parity() -> Iterator[Any]:
    sys.path.insert(0, str(DATA))
    import parity

    yield parity
    sys.path.remove(str(DATA))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(DATA)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def corpus(parity: Any, pool: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from corpus import Corpus, write

    folder = tmp_path_factory.mktemp("corpus")
    write(Corpus(pool, 3), ROWS, folder)
    found: dict[str, Any] = parity.planted(folder)
    return found


def test_every_rule_is_compared_or_left_out_for_a_reason(parity: Any, corpus: dict[str, Any]) -> None:
    named = parity.rules_named(iter(corpus.values()))
    assert parity.unlisted(named) == [], "give it settings in benchmarks/data/parity.py"


def same(parity: Any, wish: Any, folder: Path, master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.data.engines import spark

    monkeypatch.setattr(spark, "PART_BYTES", spark.PART_BYTES)  # parity.py sets another
    one, facts = parity.made(wish, "local", folder / "local")
    other, _ = parity.made(wish, parity.spark(master), folder / "spark")
    assert facts["counts"]["train"] > 20
    if one != other:
        names = [path.name for path in sorted((folder / "local" / "out").iterdir())]
        for name in ("rules.json", "dataset.json"):
            assert (folder / "spark/out" / name).read_text() == (folder / "local/out" / name).read_text()
        pytest.fail(
            f"other bytes in {[n for n in names if (folder / 'spark/out' / n).read_bytes() != (folder / 'local/out' / n).read_bytes()]}"
        )


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=needs_spark) for one in ("chats", "labels", "answers", "gathered")]
)
def test_the_planted_corpus(
    parity: Any, corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spark_here: None
) -> None:  # fmt: skip
    monkeypatch.setattr(parity, "PIECE_BYTES", 100_000)
    same(parity, corpus[name], tmp_path, "local[2]", monkeypatch)


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=needs_spark) for one in ("food-reviews", "synopses")]
)
def test_real_rows(
    parity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spark_here: None
) -> None:
    example = parity.REAL[name][0]
    wish = parity.real(name, [ROOT / "examples" / example, ROOT / ".bench" / "parity" / example])
    if wish is None:
        pytest.skip(f"the rows are not there (python examples/{example}/make_data.py)")
    same(parity, wish, tmp_path, "local[2]", monkeypatch)


@pytest.mark.parametrize("name", [pytest.param("chats", marks=needs_spark)])
def test_workers_that_are_processes_of_their_own(
    parity: Any, corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(parity, "PIECE_BYTES", 100_000)
    same(parity, corpus[name], tmp_path, "local-cluster[2,1,1024]", monkeypatch)
