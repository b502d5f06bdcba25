"""near_duplicates against a plain twin that compares each row with each, by Python sets of words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.data import compiled, words
from luthier.data.engines.local import LocalEngine
from luthier.data.engines.protocol import At, LocalEngineSpec
from luthier.data.opened import Opened
from luthier.data.plan import Group, Step
from luthier.data.rules.near_duplicates import NearDuplicates, compare, spoken_shingles
from luthier.data.rules.primitives import Candidates
from luthier.data.rules.rule import PairRule

from ..test_rules import batch_of
from ..test_words import hostile, plain_words

Row = Any  # a plain text, or a conversation as (role, content)
Prepare = Any


class Away:
    """protocol.Look that looks away."""

    def seen(self, done_bytes: int, rows: int) -> None: ...

    def held(self, batch: Any, side: str) -> None: ...

    def settle(self, ask: Any, rows: Any) -> None: ...


def near(folder: Path, batches: list[pa.RecordBatch], **wish: Any) -> tuple[dict[str, str], list[str]]:
    """(id of a removed row to the reason, notes)."""
    rule = plugin.load("rule", "near_duplicates")
    group = Group(keyed=(Step(rule, NearDuplicates.model_validate(wish)),))
    accounts = [step.account() for step in group.steps]
    lines: list[pa.RecordBatch] = []
    at = At(folder, lines.append, lambda: None, str)
    left = list(LocalEngine(LocalEngineSpec(), at).run(group, iter(batches), accounts, Away()))
    gone = {row["id"]: row["reason"] for batch in lines for row in batch.to_pylist()}
    assert sum(b.num_rows for b in left) + len(gone) == sum(b.num_rows for b in batches)
    assert accounts[0].plain()["removed"] == len(gone)
    return gone, accounts[0].notes


def of(rows: list[Row], folder: Path, **wish: Any) -> dict[int, str]:
    """Row number to what it is like, as in "0.93 like 4"."""
    batch = batch_of(*rows)
    told, _ = near(folder, [batch] if rows else [], **wish)
    place = {name: n for n, name in enumerate(batch["id"].to_pylist())}
    return {
        place[name]: f"{why.split(' like ')[0]} like {place[why.split(' like ')[1]]}"
        for name, why in told.items()
    }


def plain_set(row: Row, k: int = 3, roles: tuple[str, ...] = ("user", "assistant")) -> set[tuple[bytes, ...]]:
    found: set[tuple[bytes, ...]] = set()
    for text in [row] if isinstance(row, str) else [text for role, text in row if role in roles]:
        told = plain_words(text)
        found |= {tuple(told[n : n + k]) for n in range(max(1, len(told) - k + 1))} if told else set()
    return found


def plain(rows: list[Row], similarity: float = 0.85, k: int = 3) -> dict[int, set[int]]:
    """Row number to all staying rows before it that it is near, in the order of rows."""
    sets = [plain_set(row, k) for row in rows]
    gone: dict[int, set[int]] = {}
    for n, own in enumerate(sets):
        like = {
            m
            for m in range(n)
            if m not in gone
            and own
            and len(own & sets[m]) * 1000 >= round(similarity * 1000) * len(own | sets[m])
        }
        if like:
            gone[n] = like
    return gone


def sound(rows: list[Row], gone: dict[int, str], least: float, k: int = 3) -> None:
    """What went is truly near one that stays and comes before."""
    for n, why in gone.items():
        share, _, other = why.partition(" like ")
        kept = int(other)
        one, two = plain_set(rows[n], k), plain_set(rows[kept], k)
        assert kept < n and kept not in gone
        assert len(one & two) * 1000 >= round(least * 1000) * len(one | two)
        assert share == f"{len(one & two) * 100 // len(one | two) / 100:.2f}"


def corpus(n: int, seed: int, family: float = 0.5, length: tuple[int, int] = (3, 60)) -> list[str]:
    draw = random.Random(seed)
    vocabulary = [f"w{k}" for k in range(400)]
    rows: list[str] = []
    while len(rows) < n:
        if rows and draw.random() < family:
            told = draw.choice(rows).split()
            for _ in range(draw.randrange(4)):
                told[draw.randrange(len(told))] = draw.choice(vocabulary)
        else:
            told = draw.choices(vocabulary, k=draw.randint(*length))
        rows.append(" ".join(told))
    return rows


@pytest.mark.parametrize(("similarity", "k"), [(0.5, 3), (0.7, 1), (0.7, 3), (0.85, 3), (0.95, 2), (1, 3)])
def test_what_goes_is_what_goes_by_comparing_each_with_each(
    tmp_path: Path, similarity: float, k: int
) -> None:
    rows = corpus(300, seed=k)
    gone, want = of(rows, tmp_path, similarity=similarity, shingle=k), plain(rows, similarity, k)
    sound(rows, gone, similarity, k)
    assert {*gone} == {*want} and len(want) > 20


@given(
    st.lists(
        hostile
        | st.lists(st.tuples(st.sampled_from(["user", "assistant"]), hostile), min_size=1, max_size=3),
        max_size=8,
    ),
    st.sampled_from([0.5, 0.85]),
)
@settings(max_examples=15, deadline=None)
def test_nothing_goes_falsely_whatever_is_written(rows: list[Row], similarity: float) -> None:
    import tempfile

    rows = (
        rows + rows[:2] if all(isinstance(row, str) for row in rows) else rows
    )  # labels would keep others apart
    with tempfile.TemporaryDirectory() as folder:
        gone = of(rows, Path(folder), similarity=similarity)
    sound(rows, gone, similarity)


def test_order_and_batches_make_no_difference(tmp_path: Path) -> None:
    batch = batch_of(*corpus(200, seed=5))
    want = near(tmp_path / "0", [batch])
    assert want[0]
    for n, size in enumerate((1, 7, 64)):
        order = list(range(200))
        random.Random(size).shuffle(order)
        mixed = batch.take(pa.array(order))
        parts = [mixed.slice(start, size) for start in range(0, 200, size)]
        assert near(tmp_path / str(n + 1), parts) == want


def test_a_row_goes_for_one_that_stays_and_never_by_a_chain(tmp_path: Path) -> None:
    words_ = [f"w{k}" for k in range(40)]
    a = " ".join(words_)
    b = " ".join([*words_[:38], "x", "y"])  # 38 - 2 = 36 shingles of 38 are those of a: 36 / 40
    c = " ".join(["z", "q", *words_[2:38], "x", "y"])  # near b, but 34 / 42 of a
    assert of([a, b, c], tmp_path / "1") == {1: "0.90 like 0"}
    assert of([b, a, c], tmp_path / "2") == {1: "0.90 like 0", 2: "0.90 like 0"}


def test_a_copy_of_a_row_that_went_goes_for_the_one_that_stays(tmp_path: Path) -> None:
    words_ = [f"w{k}" for k in range(40)]
    a, b = " ".join(words_), " ".join([*words_[:38], "x", "y"])
    assert of([a, b, b.upper(), b + "!", a], tmp_path) == {
        1: "0.90 like 0", 2: "0.90 like 0", 3: "0.90 like 0", 4: "1.00 like 0",
    }  # fmt: skip


def test_what_is_compared(tmp_path: Path) -> None:
    ask, other = "how do I reset the password of my account", "where is the invoice of last month please"
    answer = "open the settings and choose reset then follow the link in the mail"
    rows = [
        [("user", ask), ("assistant", answer)],
        [("user", ask), ("assistant", other)],
        [("user", other), ("assistant", answer)],
    ]
    assert of(rows, tmp_path / "1") == {}
    assert of(rows, tmp_path / "2", on="user") == {1: "1.00 like 0"}
    assert of(rows, tmp_path / "3", on="assistant") == {2: "1.00 like 0"}
    assert of([ask, [("user", ask), ("assistant", other)]], tmp_path / "4", on="user") == {1: "1.00 like 0"}


def test_a_system_message_that_all_rows_share_makes_none_alike(tmp_path: Path) -> None:
    system = " ".join(f"rule {k} must be followed" for k in range(100))
    rows = [[("system", system), ("user", f"question {k}"), ("assistant", f"answer {k}")] for k in range(5)]
    assert of(rows, tmp_path) == {}


def test_rows_of_different_labels_are_for_a_person(tmp_path: Path) -> None:
    said = " ".join(f"w{k}" for k in range(60))
    rows = [[("user", said), ("assistant", label)] for label in ("a", "b", "a", "b")]
    assert of(rows, tmp_path / "1") == {2: "1.00 like 0", 3: "1.00 like 1"}
    assert of(rows, tmp_path / "2", on="user") == dict.fromkeys((1, 2, 3), "1.00 like 0")


def test_the_longest_stays(tmp_path: Path) -> None:
    words_ = [f"w{k}" for k in range(50)]
    rows = [" ".join(words_[:46]), " ".join(words_), " ".join(words_[:48])]
    assert of(rows, tmp_path / "1") == {1: "0.91 like 0", 2: "0.95 like 0"}
    batch = batch_of(*rows)
    told, _ = near(tmp_path / "2", [batch], keep="longest")
    assert {name[-1]: why for name, why in told.items()} == {
        "0": f"0.91 like {1:032x}", "2": f"0.95 like {1:032x}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        ([], {}),
        (["", "", "!!!", "!!!", "👍", "👍"], {}),
        (["yes", "Yes!", "no"], {1: "1.00 like 0"}),
        (["thank you", "thank  YOU", "thank me"], {1: "1.00 like 0"}),
        (["今日は良い天気ですね", "今日は、良い天気ですね。", "明日は雨が降るそうです"], {1: "1.00 like 0"}),
        (["cafe\u0301 au lait", "Café au lait"], {1: "1.00 like 0"}),
        (["a b c", "c b a"], {}),
        ([[("user", "a b"), ("assistant", "c d")], [("user", "a"), ("assistant", "b c d")]], {}),
    ],
)
def test_small_rows(rows: list[Row], want: dict[int, str], tmp_path: Path) -> None:
    assert of(rows, tmp_path) == want


def test_a_hash_alone_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(told: Any, start: Any, end: Any) -> Any:
        return (end - start).astype("uint64")  # every word of one length collides

    monkeypatch.setattr(words, "_hash", colliding)
    rows = ["aaa bbb ccc ddd", "xxx yyy zzz qqq", "aaa bbb ccc ddd"]
    assert of(rows, tmp_path) == {2: "1.00 like 0"}


def test_a_large_family_loses_no_recall(tmp_path: Path) -> None:
    draw = random.Random(3)
    base = [f"w{k}" for k in range(80)]
    rows = []
    for _ in range(400):  # each changes up to three of the words: near the base, often not near each other
        told = list(base)
        for place in draw.sample(range(80), draw.randrange(1, 4)):
            told[place] = draw.choice([f"x{k}" for k in range(30)])
        rows.append(" ".join(told))
    gone, want = of(rows, tmp_path), plain(rows)
    sound(rows, gone, 0.85)
    assert len({*want} - {*gone}) <= len(want) // 100 and 100 < len(want) < 300


def test_a_crowd_of_one_boilerplate_takes_no_quadratic_time(tmp_path: Path) -> None:
    boilerplate = " ".join(f"the {k} terms apply" for k in range(12))
    rows = [f"{boilerplate} case {n} of {n * 7919 % 10_007}" for n in range(12_000)]
    told, notes = near(tmp_path, [batch_of(*rows[:2000])], similarity=0.95)
    assert told == {}  # 2,000 rows of 46 shared shingles and 5 of their own: 46 / 56
    found, notes = near(tmp_path / "2", [batch_of(*rows)], similarity=0.8)
    assert len(found) == 11_999 and notes[0] == "1 families of near duplicates, the largest of 12000 rows"
    assert "in such a crowd rows are compared with the first few that stay, at most 24" in notes[1]


def test_in_a_recipe_with_other_rules(prepare: Prepare, jsonl: Any) -> None:
    rows = [
        {"prompt": text, "completion": f"answer {n % 7}"}
        for n, text in enumerate(corpus(120, seed=9, length=(30, 60)))
    ]
    jsonl([*rows, *rows[:5]])
    rules = [
        "normalize",
        "deduplicate",
        "near_duplicates",
        {"length": {"min": 3}},
        {"near_duplicates": {"on": "user"}},
    ]
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": rules}})
    assert done.rule("deduplicate")["removed"] == 125 - len(
        {row["prompt"] + row["completion"] for row in rows}
    )
    first = [entry for entry in done.rules if entry["rule"] == "near_duplicates"]
    assert first[0]["removed"] > 0 and first[0]["rows_in"] <= 120 and first[0]["notes"]
    kept = {row["id"] for row in done.rows()}
    ids = kept | {row["id"] for row in done.removed()}
    for row in done.removed():
        if row["rule"] == "near_duplicates":
            other = row["reason"].split(" like ")[1]
            assert other in ids and other < row["id"]
    alone = prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": ["near_duplicates"]}})
    removed = {row["id"]: row["reason"] for row in alone.removed()}
    numbered = [name for name in removed if name.endswith("-2")]  # equal rows have ids of their own
    assert len(numbered) >= 5 and all(
        name.removesuffix("-2") not in removed or removed[name] for name in numbered
    )


def test_settings() -> None:
    for wrong in (
        {"similarity": 0.3},
        {"similarity": 1.1},
        {"shingle": 0},
        {"on": "system"},
        {"keep": "newest"},
    ):
        with pytest.raises(ValueError):
            NearDuplicates.model_validate(wrong)


def test_keys_of_no_rows_and_of_a_slice() -> None:
    rule = plugin.load("rule", "near_duplicates")
    wish = NearDuplicates()
    whole = batch_of("one two three four", [("user", "a b c d"), ("assistant", "e")], "five six seven", "")
    assert rule.keys(Opened(whole.slice(0, 0)), wish).num_rows == 0
    assert rule.features(Opened(whole.slice(0, 0)), wish).num_rows == 0
    together = rule.keys(Opened(whole), wish)
    for n in range(4):
        assert rule.keys(Opened(whole.slice(n, 1)), wish).equals(together.slice(n, 1))
        assert (
            rule.features(Opened(whole.slice(n, 1)), wish).to_pylist()
            == rule.features(Opened(whole), wish).slice(n, 1).to_pylist()
        )


# Candidates, against a twin


Keys = list[tuple[int, int, int, list[int | None]]]  # rank, n, whole, bands


def plain_pairs(rows: Keys, wish: Candidates) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(twins, pairs of the first round); ids are the row numbers."""
    order = sorted((n for n, row in enumerate(rows) if row[1] > 0), key=lambda n: (rows[n][0], n))
    heads: dict[int, int] = {}
    twins = set()
    for n in order:
        head = heads.setdefault(rows[n][2], n)
        if head != n:
            twins.add((head, n))
    found = set()
    for band in range(len(wish.bands)):
        buckets: dict[int, list[int]] = {}
        for n in [n for n in order if n in heads.values()]:
            if (value := rows[n][3][band]) is not None:
                buckets.setdefault(value, []).append(n)
        for bucket in buckets.values():
            firsts = bucket if len(bucket) <= wish.most else bucket[: wish.first]
            for i, a in enumerate(firsts):
                for b in bucket[i + 1 :]:
                    low, high = sorted((rows[a][1], rows[b][1]))
                    if low * 1000 >= wish.least * high:
                        found.add((a, b))
    return twins, found


@given(
    st.lists(
        st.tuples(
            st.integers(-2, 0),
            st.integers(0, 5),
            st.integers(0, 30),
            st.lists(st.none() | st.integers(0, 2), min_size=2, max_size=2),
        ),
        max_size=25,
    )
)
@settings(max_examples=25, deadline=None)
def test_candidates_are_those_of_the_twin(rows: Keys) -> None:
    wish = Candidates(("p", "q"), least=500, most=4, first=2)
    with duckdb.connect() as database:
        database.execute(
            "CREATE TABLE rows_0 (row BIGINT, id VARCHAR, rank BIGINT, n INTEGER, whole BIGINT, p BIGINT, q BIGINT)"
        )
        for n, (rank, size, whole, bands) in enumerate(rows):
            database.execute(
                "INSERT INTO rows_0 VALUES (?, ?, ?, ?, ?, ?, ?)", [n, f"{n:03}", rank, size, whole, *bands]
            )
        twins = {*database.execute(wish.twins("rows_0")).fetchall()}
        database.execute(f"CREATE TABLE twins AS {wish.twins('rows_0')}")
        database.execute(f"CREATE TABLE compared AS {wish.compared('rows_0', 'twins')}")
        database.execute("CREATE TABLE gone (row BIGINT)")
        found = set()
        for band in wish.bands:
            database.execute(f"CREATE OR REPLACE TABLE buckets AS {wish.buckets('compared', band, 0)}")
            found |= {*database.execute(wish.pairs("compared", band, "buckets", "gone", 0)).fetchall()}
    assert (twins, found) == plain_pairs(rows, wish)


def test_large_buckets_are_asked_again_without_what_went_and_with_more_first_rows(tmp_path: Path) -> None:
    """200 rows in one bucket, of 50 families that stand one after the other: each of three rounds compares with 8 more."""
    from luthier.data.engines import pairs
    from luthier.data.engines.local import Keys

    asked: list[int] = []

    def solve(features: Any, found: Any, settings: Any, note: Any) -> pa.Table:
        table = pa.concat_batches(list(features))
        family = dict(zip(table["row"].to_pylist(), table["family"].to_pylist(), strict=True))
        both = [(row["a"], row["b"]) for batch in found for row in batch.to_pylist()]
        asked.append(len(both))
        assert both == sorted(both, key=lambda pair: (pair[1], pair[0]))  # ids are in the order of rows
        away = sorted({b for a, b in both if family[a] == family[b]})
        return pa.table({"row": pa.array(away, pa.int64()), "reason": pa.array(["like"] * len(away))})

    batch = batch_of(*(str(n) for n in range(200)))
    rule = PairRule(
        "families", 1, NearDuplicates, "", lambda rows, wish: None,  # type: ignore[arg-type,return-value]
        candidates=lambda wish: Candidates(("band",), least=0),
        features=lambda rows, wish: pa.record_batch({"family": pa.array([int(text) % 50 for text in rows.text])}),
        solve=solve,
    )  # fmt: skip
    keys = Keys(tmp_path / "keys", 1_000_000_000)
    one = pa.array([1] * 200, pa.int64())
    keys.add(
        pa.record_batch(
            {"id": batch["id"], "rank": one, "n": one, "whole": pa.array(range(200)), "band": one}
        )
    )
    assert keys.ready()
    notes: list[str] = []
    parts = [batch.slice(start, 30) for start in range(0, 200, 30)]
    sql = pairs.decide(
        Step(rule, NearDuplicates()),
        "keys",
        keys,
        lambda step, wanted: pairs.features_of(step, wanted, iter(parts)),
        tmp_path / "features",
        notes.append,
    )
    gone = pa.Table.from_batches(keys.stream(sql))
    # 8 rows with all after them, then 16 and 24 of those that stay
    assert sorted(gone["row"].to_pylist()) == sorted(n for n in range(50, 200) if n % 50 < 24)
    assert len(asked) == 3 and asked[0] == 8 * 200 - 36
    assert notes and "as many as 200 rows" in notes[0]


told_words = st.lists(st.lists(st.sampled_from([b"a", b"b", b"ab", b"longer than", "wörtchen".encode()]), min_size=1, max_size=9), min_size=1, max_size=4)  # fmt: skip


@given(told_words, told_words, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_rows_are_compared_by_c_as_by_sets_of_words(
    one: list[list[bytes]], other: list[list[bytes]], k: int
) -> None:
    a, b = (b"".join(b" ".join(line) + b"\n" for line in lines) for lines in (one, other))
    with compiled.plainly():
        plain = compare(a, b, k)
    assert compare(a, b, k) == plain
    assert compare(a, a, k) == (len(spoken_shingles(a, k)),) * 2
