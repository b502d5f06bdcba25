"""licence: expressions, what they allow, which rows go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.data.rules.licence import EXCEPTIONS, LICENCES, Licence, choices, is_allowed, licence_name

from ..private.ruled import batch_of, keeps_laws, record, records, run


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("MIT", [{"MIT"}]),
        ("mit or ISC", [{"MIT"}, {"ISC"}]),
        ("MIT AND ISC OR Zlib", [{"MIT", "ISC"}, {"Zlib"}]),  # AND binds first
        ("MIT AND (ISC OR Zlib)", [{"MIT", "ISC"}, {"MIT", "Zlib"}]),
        ("GPL-2.0-only WITH classpath-exception-2.0", [{"GPL-2.0-only WITH Classpath-exception-2.0"}]),
        ("GPL-2.0 AND LGPL-2.1+", [{"GPL-2.0-only", "LGPL-2.1-or-later"}]),
        ("Apache-2.0+", [{"Apache-2.0+"}]),
        ("((MIT))", [{"MIT"}]),
    ],
)
def test_choices(expression: str, want: list[set[str]]) -> None:
    assert choices(expression) == want


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "ends where a licence's name is expected"),
        ("MIT AND", "ends where"),
        ("AND MIT", "has 'AND' where"),
        ("(MIT", "lacks a closing bracket"),
        ("MIT)", "goes on with ')'"),
        ("MIT ISC", "goes on with 'ISC'"),
        ("Apache 2.0", "there is no licence 'Apache'"),
        ("Apache-2", "did you mean 'Apache-2.0'"),
        ("Our-Terms", "LicenseRef-NAME"),
        ("MIT WITH Classpath", "there is no exception 'Classpath'"),
        ("MIT WITH", "there is no exception ''"),
        ("(" * 50 + "MIT" + ")" * 50, "more than 40 brackets"),
        ("MIT " * 400, "at most 1000"),
        (" AND ".join(f"(MIT OR {name})" for name in LICENCES[:12]), "more than 256 choices"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        choices(expression)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("licence", "allow", "want"),
    [
        ("MIT", ["MIT"], True),
        ("MIT", ["ISC OR MIT"], True),
        ("MIT OR SSPL-1.0", ["MIT"], True),
        ("MIT AND SSPL-1.0", ["MIT"], False),
        ("MIT AND ISC", ["MIT", "ISC"], True),
        ("MIT AND ISC", ["MIT AND ISC"], True),
        ("MIT", ["MIT AND ISC"], False),
        ("MIT AND ISC AND Zlib", ["MIT AND ISC", "Zlib"], True),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"], True),
        ("GPL-2.0-only", ["GPL-2.0-only WITH Classpath-exception-2.0"], False),
        ("GPL-2.0-or-later", ["GPL-2.0-only"], True),
        ("GPL-2.0-only", ["GPL-2.0-or-later"], False),
        ("Apache-2.0+", ["Apache-2.0"], True),
        ("LicenseRef-Ours", ["LicenseRef-Ours"], True),
        ("LicenseRef-Ours", ["LicenseRef-ours"], False),
        ("NONE", ["MIT"], False),
    ],
)
def test_is_allowed(licence: str, allow: list[str], want: bool) -> None:
    assert is_allowed(licence, allow) is want


def test_rows_go_by_their_source() -> None:
    rows = [record("a", source=name) for name in ("ours", "theirs", "found", "ours")]
    wish = {"allow": ["MIT", "CC-BY-4.0"], "sources": {"ours": "CC-BY-4.0", "theirs": "CC-BY-NC-4.0"}}
    done = keeps_laws("licence", rows, wish)
    assert done.removed == [
        None,
        "the source 'theirs' is under CC-BY-NC-4.0, which is not allowed",
        "the licence of the source 'found' is not known",
        None,
    ]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"allow": ["MIT"]}, "sources"),
        ({"allow": [], "sources": {"a": "MIT"}}, "at least 1"),
        ({"allow": ["MTI"], "sources": {"a": "MIT"}}, "there is no licence 'MTI'"),
        ({"allow": ["MIT"], "sources": {"a": "MTI"}}, "the licence of 'a': there is no licence 'MTI'"),
        ({"allow": ["NONE"], "sources": {"a": "MIT"}}, "says that there is no licence"),
    ],
)
def test_settings_that_cannot_be_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Licence.model_validate(wish)
    assert told in str(caught.value)


@given(
    st.lists(
        st.sampled_from(
            ["MIT", "ISC", "AND", "OR", "WITH", "(", ")", "GPL-2.0+", "x", "LLVM-exception", "+"]
        ),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_with_a_reason(tokens: list[str]) -> None:
    expression = " ".join(tokens)
    try:
        found = choices(expression)
    except ValueError as error:
        assert str(error)
        return
    assert found and all(found)
    # What is allowed by itself is allowed, and an AND of all choices is no easier than a choice.
    assert is_allowed(expression, [expression])


@given(st.lists(records.map(lambda told: record(**told)), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_laws(rows: list[dict[str, Any]]) -> None:
    keeps_laws("licence", rows, {"allow": ["MIT"], "sources": {"t": "MIT"}})
    keeps_laws("licence", rows, {"allow": ["MIT"], "sources": {"u": "MIT"}})


def test_the_list_is_of_names_that_spdx_knows() -> None:
    spdx = pytest.importorskip("packaging.licenses._spdx", reason="packaging has no list of licences")
    for name in LICENCES:
        assert spdx.LICENSES[name.lower()]["id"] == name
        assert licence_name(name.lower()) == name
    assert all(spdx.EXCEPTIONS[name.lower()]["id"] == name for name in EXCEPTIONS)
    assert len(set(LICENCES)) == len(LICENCES)


def test_an_empty_batch() -> None:
    wish = {"allow": ["MIT"], "sources": {"t": "MIT"}}
    assert run("licence", batch_of(record("a")).slice(0, 0), wish).removed == []
