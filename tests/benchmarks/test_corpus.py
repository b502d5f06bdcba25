"""The corpus of benchmarks/data: what it plants is there, what it says of it is true, and the counting counts right.
Measuring with it is `make bench-data`. The sentences here are made up; the real ones come from packages."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.testing import FakeContext
from luthier.data.prepare import STAGE, PrepareSpec
from luthier.data.records import RECORD

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
ROWS = 3_000


@pytest.fixture(scope="module", autouse=True)
def on_path():
    """The files are scripts that import each other by name."""
    sys.path.insert(0, str(DATA))
    yield
    sys.path.remove(str(DATA))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(DATA)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def pool():
    from sentences import gathered
    from values import Dice

    dice = Dice(7, 0)
    vocabulary = [dice.text("abcdefghijklmnoprstuvw", dice.between(2, 9)) for _ in range(3_000)]

    def sentence(least: int = 6) -> str:
        return " ".join(dice.choice(vocabulary) for _ in range(dice.between(least, 30))).capitalize() + "."

    articles = [(f"topic {n % 5}", [sentence(20), sentence(20), sentence(), sentence()]) for n in range(400)]
    foreign = [("x", [f"Où est-ce que {sentence()}"]) for _ in range(50)]
    return gathered(articles, [sentence() for _ in range(2_000)], foreign, foreign, items=40)


@pytest.fixture(scope="module")
def rows(pool):
    from corpus import Corpus

    return list(Corpus(pool, 3).every(ROWS))


@pytest.fixture(scope="module")
def folder(pool, tmp_path_factory):
    from corpus import Corpus, write

    made = tmp_path_factory.mktemp("corpus") / str(ROWS)
    write(Corpus(pool, 3), ROWS, made)
    return made


def of(rows, *kinds):
    return [row for row in rows if row.kind in kinds]


@pytest.mark.parametrize(
    "name", ["sentences", "values", "damage", "corpus", "truth", "results", "run", "watched"]
)
def test_the_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_same_seed_gives_the_same_bytes(pool, folder, tmp_path):
    from corpus import Corpus, write

    write(Corpus(pool, 3), ROWS, tmp_path / "again")
    write(Corpus(pool, 4), ROWS, tmp_path / "other")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert (folder / "corpus.jsonl").read_bytes() != (tmp_path / "other" / "corpus.jsonl").read_bytes()


def test_a_row_does_not_depend_on_the_rows_made_with_it(pool, rows):
    from corpus import Corpus

    some = np.array([2_500, 3, 77, 1_999, 3])
    assert list(Corpus(pool, 3).rows(some)) == [rows[n] for n in some]


def test_the_shares_are_those_that_the_page_names(rows):
    from damage import JUNK

    for kinds, share in (
        (["exact"], 0.08),
        (["near"], 0.08),
        (["personal"], 0.06),
        (list(JUNK), 0.04),
        (["leak"], 0.01),
    ):
        # four standard deviations of a binomial
        assert abs(len(of(rows, *kinds)) / ROWS - share) < 4 * (share * (1 - share) / ROWS) ** 0.5
    assert {row.kind for row in rows} >= set(JUNK)


def test_copies_are_of_earlier_rows_that_are_plain(rows):
    from truth import fold

    for row in of(rows, "exact", "near", "disagreement"):
        original = rows[row.of - 1]
        assert original.kind == "plain" and original.line < row.line
        if row.kind == "exact":
            assert [fold(text) for _, text in row.messages] == [fold(text) for _, text in original.messages]
            assert (row.messages == original.messages) == (row.detail == "verbatim")
        if row.kind == "disagreement":
            assert row.messages[:-1] == original.messages[:-1] and row.topic != original.topic


def test_the_index_of_near_copies_is_that_of_their_shingles(rows):
    def shingles(messages):
        found = set()
        for role, text in messages:
            told = re.findall(r"[a-z0-9]+", text.lower())
            found |= {" ".join(told[i : i + 3]) for i in range(len(told) - 2)} if role != "system" else set()
        return found

    near = of(rows, "near")
    for row in near:
        one, other = shingles(row.messages), shingles(rows[row.of - 1].messages)
        assert row.jaccard == pytest.approx(len(one & other) / len(one | other))
    # 3 % in one phrase changes few shingles, 10 % one by one changes many.
    assert min(row.jaccard for row in near) < 0.65 and max(row.jaccard for row in near) > 0.9


def values(rows, kind):
    found = [
        row.messages[span.turn][1][span.start : span.end]
        for row in rows
        for span in row.spans
        if span.kind == kind
    ]
    assert found, kind
    return found


def test_numbers_have_right_check_digits(pool):
    from corpus import Corpus

    rows = list(Corpus(pool, 5).every(20_000))
    for told in values(rows, "card"):
        digits = [int(c) for c in told if c.isdigit()][::-1]
        assert sum(d if n % 2 == 0 else sum(divmod(2 * d, 10)) for n, d in enumerate(digits)) % 10 == 0
    for told, right in [(t, True) for t in values(rows, "iban")] + [
        (t, False) for t in values(rows, "no_iban")
    ]:
        plain = told.replace(" ", "")
        assert (int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1) == right
    for told in values(rows, "github_token"):
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        n = 0
        for c in told[-6:]:
            n = 62 * n + letters.index(c)
        assert n == zlib.crc32(told[4:-6].encode())
    for told in values(rows, "nl_bsn"):
        assert sum(int(d) * w for d, w in zip(told, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0
    for told in values(rows, "es_dni"):
        assert "TRWAGMYFPDXBNJZSQVHLCKE"[int(told[:8]) % 23] == told[8]
    for told in values(rows, "fr_nir"):
        digits = told.replace(" ", "")
        assert 97 - int(digits[:13]) % 97 == int(digits[13:])
    for told in values(rows, "pl_pesel"):
        assert sum(int(d) * w for d, w in zip(told, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10 == 0
    for told in values(rows, "br_cpf"):
        digits = [int(c) for c in told if c.isdigit()]
        for n in (9, 10):
            assert sum(d * (n + 1 - k) for k, d in enumerate(digits[:n])) * 10 % 11 % 10 == digits[n]
    for told in values(rows, "de_tax_id"):
        product, digits = 10, told.replace(" ", "")
        for digit in digits[:10]:
            product = ((int(digit) + product) % 10 or 10) * 2 % 11
        assert (11 - product) % 10 == int(digits[10])
        assert sorted(digits[:10].count(d) for d in set(digits[:10])) == [1] * 8 + [2]
    for told in values(rows, "no_card"):
        digits = [int(c) for c in told][::-1]
        assert sum(d if n % 2 == 0 else sum(divmod(2 * d, 10)) for n, d in enumerate(digits)) % 10


def test_spans_are_where_the_values_stand(rows):
    for row in of(rows, "personal", "decoy"):
        assert row.spans
        for before, after in zip(row.spans, row.spans[1:], strict=False):
            assert before.end <= after.start
    assert all(re.fullmatch(r"\S+@\S+\.\w+", told) for told in values(rows, "email"))
    assert all(
        told.startswith("-----BEGIN") and told.endswith("-----") for told in values(rows, "private_key")
    )


def test_only_leaks_share_ten_words_with_the_benchmark(pool, rows):
    def runs(text):
        told = re.findall(r"[^\W_]+", text.lower())
        return {tuple(told[i : i + 10]) for i in range(len(told) - 9)}

    benchmark = {run for item in pool.items for text in item for run in runs(text)}
    for row in rows:
        shared = any(runs(text) & benchmark for _, text in row.messages)
        assert shared == (row.kind == "leak"), row


def test_junk_is_what_it_is_called(rows):
    text = {
        kind: [" ".join(t for _, t in row.messages) for row in of(rows, kind)]
        for kind in ("html", "control", "mojibake")
    }
    assert all(re.search(r"<\w+|&\w+;", told) for told in text["html"])
    assert all(re.search("[\x00-\x1f\u200b\ufeff\u202e\u00ad]", told) for told in text["control"])
    for row in of(rows, "mojibake"):
        again = [told.encode("cp1252", "replace").decode("utf-8", "replace") for _, told in row.messages]
        assert again == [told for _, told in row.clean]
    for row in of(rows, "empty"):
        assert any(not told.strip() for _, told in row.messages)
    for row in of(rows, "order"):
        roles = [role for role, _ in row.messages if role != "system"]
        assert roles != ["user", "assistant"] * (len(roles) // 2)


def prepared(folder, out, rules):
    spec = PrepareSpec.model_validate(
        {"data": {"sources": [{"files": "corpus.jsonl", "map": {"messages": "messages", "on_bad_row": "set_aside"}}], "rules": {"quality": rules}}}
    )  # fmt: skip
    for name in (out, out.with_name("scratch")):
        name.mkdir()
    STAGE.function(spec, {}, out, out.with_name("scratch"), FakeContext(folder, root=folder))
    return out


def test_what_rules_find_is_counted(folder, tmp_path):
    from truth import scores, table

    found = {
        one.rule: one
        for one in scores(
            prepared(folder, tmp_path / "out", ["normalize", "drop_empty", "deduplicate"]), folder
        )
    }
    assert list(found) == ["normalize", "drop_empty", "deduplicate"]
    for one in found.values():
        assert one.planted and one.recall == 1
    assert [found[name].false for name in found] == [None, 0, 0]
    assert set(found["deduplicate"].parts) == {"verbatim", "folded"}
    assert table(list(found.values())).count("\n") == 4


def test_what_is_missed_and_what_is_wrong_is_counted(folder, rows, tmp_path):
    """A dataset written by hand: of the exact copies the first is left, a plain row is taken for a copy of another, and
    the row of a leak was gone before."""
    from truth import scores

    exact, leak = of(rows, "exact"), of(rows, "leak")
    plain = [row for row in of(rows, "plain") if row.line not in {one.of for one in rows}]
    ids = {row.line: f"{row.line:032x}" for row in rows}
    gone = {leak[0].line: ("drop_empty", "the user turn is empty")}
    gone |= {row.line: ("deduplicate", f"the same as {ids[row.of]}") for row in exact[1:]}
    gone[plain[0].line] = ("deduplicate", f"the same as {ids[plain[1].line]}")
    removed = [
        {"id": ids[n], "origin": f"corpus.jsonl:{n}", "rule": rule, "reason": why, "preview": ""}
        for n, (rule, why) in gone.items()
    ]
    pq.write_table(pa.Table.from_pylist(removed), tmp_path / "removed.parquet")
    kept = [
        {
            "id": ids[row.line],
            "origin": f"corpus.jsonl:{row.line}",
            "messages": [{"role": role, "content": text} for role, text in row.messages],
        }
        for row in rows
        if row.line not in gone
    ]
    for side, some in (("train", kept), ("validation", []), ("test", [])):
        pq.write_table(pa.Table.from_pylist(some, RECORD), tmp_path / f"{side}.parquet")
    told = [{"rule": name, "spec": {}} for name in ("read", "drop_empty", "deduplicate", "decontaminate")]
    (tmp_path / "rules.json").write_text(json.dumps(told))
    found = {one.rule: one for one in scores(tmp_path, folder)}
    assert (found["deduplicate"].found, found["deduplicate"].planted) == (len(exact) - 1, len(exact))
    assert (found["deduplicate"].false, found["deduplicate"].acted) == (1, len(exact))
    assert (found["drop_empty"].false, found["drop_empty"].acted) == (1, 1)
    assert (found["decontaminate"].found, found["decontaminate"].planted) == (0, len(leak) - 1)


def measured(what, rows, cpu_s, mode="rules", peak_bytes=1_000_000_000, failed=None):
    return {"what": what, "mode": mode, "rows": rows, "cpu_s": cpu_s, "wall_s": 2 * cpu_s, "peak_bytes": peak_bytes, "failed": failed, "load": 0.0, "round": 1}  # fmt: skip


def test_promises_that_do_not_hold_are_told():
    from results import broken

    runs = [
        measured("near_duplicates", 20_000, 2.0),  # 10,000 rows/CPU-s
        measured("normalize", 20_000, 1.0),
        measured("default", 200_000, 20.0, "stage"),
        measured("default", 2_000_000, 400.0, "stage", peak_bytes=1_600_000_000),
        measured("redact", 20_000, 1.0, failed="exit status 1: no room"),
    ]
    score = {
        "what": "x",
        "rows": 20_000,
        "planted": 100,
        "found": 98,
        "acted": 98,
        "false": 1,
        "recall": 0.98,
        "precision": 0.9898,
        "examples": ["line 1"],
    }
    scores = [
        score | {"rule": "near_duplicates", "parts": {}},
        score | {"rule": "redact", "parts": {"iban": (10, 9), "email": (10, 9)}},
        score | {"rule": "normalize", "parts": {}, "false": None, "precision": None},
    ]
    told = " ".join(broken(runs, scores))
    for words in (
        "10,000 rows/CPU-s",
        "2.00 times as much",
        "1,600 MB",
        "no room",
        "recall 0.9800",
        "1 false removals",
        "1 values of iban",
    ):
        assert words in told
    assert "normalize" not in told and "email" not in told


def test_the_tables_show_medians():
    from results import curve, markdown

    about = {
        "processor": "P",
        "cores": 2,
        "versions": {},
        "lacking": {"redact": ["redact"]},
        "about": {"default": ""},
    }
    runs = [measured("default", 20_000, cpu_s) for cpu_s in (1.0, 2.0, 4.0)] + [
        measured("default", 20_000, 4.0, "stage")
    ]
    text = markdown(runs, [], about)
    assert "| default | 10,000 | 5,000 – 20,000 | 100.0 | 5,000 | 1,000 | 5,000 | 2,500 | 1,000 |" in text
    assert "redact was not measured: there is no rule redact" in text
    assert "| default | 20,000 | 200.0 | 5,000 | 2,500 | 0.1 | 1,000 |" in curve(runs[-1:], about)
