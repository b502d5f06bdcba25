"""The compiled look at bytes keeps its promises: a way that it leaves out finds nothing, and a number that it calls unsure is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import compiled
from luthier.data.digests import bytes_of
from luthier.data.private import KINDS, checks, national, numbers, phones, scan
from luthier.data.private.find import WAYS, candidates
from luthier.data.private.readable import Readable
from luthier.data.private.secrets import NAMED, SECRETS

from ..test_words import each_way, hostile
from .corpus import Made
from .ruled import batch_of, record, run
from .test_national import Some

ALL = frozenset(KINDS)


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from each_way("compiled", tmp_path_factory)


def seen(texts: list[str], kinds: frozenset[str] = ALL) -> list[int]:
    series = pl.Series(texts, dtype=pl.String)
    rough = scan._compiled(*bytes_of(series.to_arrow()), kinds)
    assert rough is not None
    fine = scan.ways(series, kinds)
    assert not (fine & ~rough).any()
    return fine.tolist()


def keeps_promises(texts: list[str]) -> None:
    for text, bits in zip(texts, seen(texts), strict=True):
        plain = Readable(text).plain
        for name, way in WAYS.items():
            found = list(way.look(plain, ALL))
            where = not way.digits or text != plain or any(c in "0123456789" for c in text)
            assert bits & scan.BITS[name] or not (found and where), (name, text)
            if name == "numbers" and any(one.sure for one in found):
                assert bits & scan.SURE, text


made = st.builds(
    lambda seed, kind: getattr(Made(seed), kind)(), st.integers(0, 2**32), st.sampled_from(KINDS)
)
named = st.sampled_from(
    [*sorted(phones.WORDS), *NAMED, "SSN", "social security", "NHS no", "BSN", "CPF", "Steuer", "AHV", "TFN", "SIN:", "t.c.",
     "id card", "personal id", "पण", "आधार", "主민등록", "version", "Release-", "v", "from", "address", "order no.", "ISBN"]
)  # fmt: skip
groups = st.lists(
    st.tuples(st.integers(1, 13), st.sampled_from([" ", "-", ".", "/", ") ", " (", ")", "  ", " - ", ",", "", "(0)"])),
    min_size=1,
    max_size=9,
)  # fmt: skip


@st.composite
def grouped(draw: Any) -> str:
    """Digits in groups, as layouts have them."""
    pieces = []
    for size, gap in draw(groups):
        pieces += [draw(st.text("0123456789", min_size=size, max_size=size)), gap]
    return draw(st.sampled_from(["", "+", "00", "(", "é", "#", "DE", "x", "-", "a-"])) + "".join(pieces[:-1])


@st.composite
def laid_out(draw: Any) -> str:
    layout = draw(st.sampled_from(sorted(numbers.layouts())))
    some = iter(draw(st.text("0123456789", min_size=20, max_size=20)))
    return "".join(
        "".join(next(some) for _ in range(int(piece))) if piece.isdigit() else piece
        for piece in numbers.pieces_of(layout)
    )


lettered = st.one_of(
    *(st.from_regex(one.pattern, fullmatch=True) for one in national.NATIONAL if one.pattern)
).flatmap(lambda text: st.sampled_from([text, text.lower(), text.replace("K", "\u212a").replace("S", "ſ")]))
around = st.sampled_from(
    ["", " ", "\n", "é", "–", "\u200b", "x", "_", "1", "-", ".", "(", ")", ": ", "[", "@", "%40", "\0", "📞 "]
)
piece = st.one_of(
    made, named, grouped(), laid_out(), lettered, hostile, st.text("AB19 -./@:()+_Tf%", max_size=40)
)
soup = st.lists(st.tuples(around, piece), max_size=7).map(lambda some: "".join(a + b for a, b in some))


@given(st.lists(soup, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_is_left_out_is_not_there(texts: list[str]) -> None:
    keeps_promises(texts)


@given(st.lists(made | laid_out() | lettered, min_size=1, max_size=4), around, around, named)
@settings(max_examples=100, deadline=None)
def test_values_by_themselves(values: list[str], before: str, behind: str, name: str) -> None:
    keeps_promises([before + value + behind for value in values] + [f"{name} {value}" for value in values])
    wide = str.maketrans("0123456789-. ", "０１２３４５６７８９－．\u2007")
    keeps_promises([(before + value + behind).translate(wide) for value in values])


NAMES = {
    "US": "SSN", "DE": "Steuer-ID", "FR": "NIR", "NL": "BSN", "BE": "rijksregister", "SE": "personnummer", "PL": "PESEL", "BR": "CPF",
    "CN": "身份证", "IN": "Aadhaar", "GB": "NHS", "CH": "AHV", "NO": "fødselsnummer", "DK": "CPR", "PT": "contribuinte", "AT": "SVNR",
    "CA": "SIN:", "AU": "TFN", "ZA": "ID", "KR": "RRN", "TR": "T.C. kimlik", "RO": "CNP", "CZ": "rodné", "BG": "EGN", "HR": "OIB",
    "EE/LT": "isikukood", "CL": "RUT", "AR": "CUIT", "JP": "my number", "TH": "thai id", "IL": "teudat",
}  # fmt: skip


def valid(row: numbers.Row, size: int, seed: int) -> Iterator[str]:
    """So many digits that hold for the row."""
    some = Some(seed)
    special = {
        ("SE", 12): lambda: some.random.choice(("19", "20")) + some.number("SE"),
        ("DK", 10): lambda: some.date(day_first=True) + some.digits(4),
        ("CL", 8): lambda: some.digits(8),
    }
    country = row.national.country if row.national else ""
    make = special.get((country, size), lambda: some.number(country) if country else some.digits(size))
    for _ in range(20_000):
        digits = make()
        if len(digits) != size or not digits.isdigit():
            continue
        if row.kind == "phone":
            holds = numbers._area(digits, row) is not None
        else:
            holds = row.national.check(digits) if row.national else checks.card(digits)
        if holds:
            yield digits


def every_layout() -> Iterator[tuple[numbers.Row, str, str]]:
    """(a row, what it is called, a number of it as one of its layouts has it): two of each."""
    seed = 0
    for layout, rows in numbers.layouts().items():
        sizes = [int(piece) for piece in numbers.pieces_of(layout) if piece.isdigit()]
        for row in rows:
            seed += 1
            made = list(islice(valid(row, sum(sizes), seed), 2))
            assert len(made) == 2, (layout, row)
            for digits in made:
                some = iter(digits)
                value = re.sub("[0-9]+", lambda size, some=some: "".join(islice(some, int(size[0]))), layout)
                yield row, NAMES[row.national.country] if row.national else "call", value


@pytest.mark.parametrize("kinds", [ALL, frozenset({"national_id"}), frozenset({"card", "phone"})])
def test_every_layout_beside_its_name_and_without(kinds: frozenset[str]) -> None:
    """What one layout is of may count by itself in one country and need its name in another."""
    texts, masked = [], []
    for row, name, value in every_layout():
        if row.kind not in kinds:
            continue
        alone = [f"{value}", f"see {value} there", f"é {value}", f"{value}, {value}"]
        beside = [
            f"my {name} number is {value}, thanks",
            f"{name}: {value}",
            f"{name} é {value}",
            f"id card {value}",
        ]
        beside += [f"{value} ({name})", f"{value} é {name}", f"{name} order {value}"] if row.national else []
        if row.kind != "national_id":  # a word before says it of a telephone's number, and a card needs none
            beside = beside[:2]
        texts += alone + beside
        masked += [not row.weak] * len(alone) + [True] * len(beside)
    for text, bits in zip(texts, seen(texts, kinds), strict=True):
        sure = any(one.sure for one in candidates(text, kinds))
        assert not sure or bits & scan.SURE, text
    batch = batch_of(*(record(text) for text in texts))
    with compiled.plainly():
        plain = run("redact", batch, sorted(kinds))
    ran = run("redact", batch, sorted(kinds))
    assert vars(ran) == vars(plain)
    for text, must, changed in zip(texts, masked, ran.changed, strict=True):
        assert changed or not must, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my CPF number is 52998224725, thanks", "52998224725"), ("OIB: 69435151530", "69435151530"),
        ("T.C. kimlik 10000000146", "10000000146"), ("Aadhaar 796256478716", "796256478716"), ("CPR 311299-1234", "311299-1234"),
        ("RRN 6202206761725", "6202206761725"), ("thai id 3748730344032", "3748730344032"), ("CUIT 24836584479", "24836584479"),
        ("id card 204073030034", "204073030034"),
    ],
)  # fmt: skip
def test_an_id_that_needs_its_name_where_its_layout_is_also_of_one_that_does_not(
    text: str, value: str
) -> None:
    for_all = batch_of(record(text))
    with compiled.plainly():
        assert value not in run("redact", for_all).texts()[0]
    assert value not in run("redact", for_all).texts()[0]


def test_every_hint_of_a_key_is_seen() -> None:
    tails = ("Zx9" * 100, "9f3A" * 100, "0a1f" * 8, "0a1f" * 16, "ABCDEFGHIJ234567", "A1" * 29)
    for one in SECRETS:
        lead = "123456789" if one.before else ""
        keeps_promises(
            [f"x {lead}{one.hint}{tail[:n]} y" for tail in tails for n in (16, 32, 36, 58, 64, 300)]
        )
    assert {one.hint for one in SECRETS if len(one.hint) < 3} == {"SK", "AC"}  # which scan.c knows


@given(st.lists(st.lists(soup, min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_rule_gives_the_same_with_it_and_without(rows: list[list[str]], labelled: bool) -> None:
    told = [
        record([("user" if k % 2 else "assistant", text) for k, text in enumerate(texts)], label=texts[-1] if labelled else None)
        for texts in rows
    ]  # fmt: skip
    with compiled.plainly():
        plain = run("redact", batch_of(*told))
    assert vars(run("redact", batch_of(*told))) == vars(plain)


@pytest.mark.parametrize("kinds", [*({kind} for kind in KINDS), {"phone", "card"}, ALL])
def test_only_ways_that_are_asked_for(kinds: set[str]) -> None:
    text = "a@b.de +4930123456 4111111111111111 DE89370400440532013000 10.1.2.3 AKIAIOSFODNN7EXAMPLE 078-05-1120 12345678Z"
    (bits,) = seen([text], frozenset(kinds))
    assert set(scan.names(bits)) == {name for name, way in WAYS.items() if way.kinds & kinds}


def test_more_open_numbers_than_there_is_room_for() -> None:
    """Where there is no room left, texts are looked at."""
    texts = ["123456782, " * 400, "", "bsn 123456782", "1 2 " * 200]
    keeps_promises(texts)
    assert seen(texts)[0] & scan.SURE


def test_a_turn_without_content() -> None:
    batch = batch_of(record([("user", "mail a@b.de"), ("assistant", None)]), record([("user", None)]))
    with compiled.plainly():
        plain = run("redact", batch)
    assert vars(run("redact", batch)) == vars(plain)
    assert plain.texts()[0] == "mail [EMAIL_1]"


def test_nothing_and_bytes_that_are_no_text() -> None:
    assert seen([]) == [] and seen(["", "\0", "é"]) == [0, 0, 0]
    told = np.frombuffer(b"\xff\xc3 \xf0\x9f +49 30 1234567 \xe2\x80", np.uint8)
    for end in range(len(told) + 1):
        assert scan._compiled(told[:end].copy(), np.array([0, end]), ALL) is not None
