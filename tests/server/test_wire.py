"""Laws of reading a body: any bytes give a value or a refusal, never another exception; good JSON survives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.server.body import strict_json
from luthier.server.errors import ApiError
from luthier.server.wire import UNSUPPORTED, ChatBody, parse

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_json_comes_back_as_it_was(value):
    assert strict_json(json.dumps(value).encode()) == value
    assert strict_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(
    st.binary(max_size=200)
    | st.text(st.characters(), max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_read_or_refused(body):
    try:
        strict_json(body)
    except ApiError as error:
        assert (error.status, error.code) == (400, "invalid_json")


fields = sorted({*ChatBody.model_fields, *UNSUPPORTED, "nonsense"})
message = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "tool", 3]),
        "content": plain,
        "refusal": plain,
        "name": plain,
    },
)
bodies = st.dictionaries(st.sampled_from(fields), plain, max_size=5) | st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(message, max_size=3)},
    optional={name: plain for name in fields if name not in ("model", "messages")},
)


def test_what_may_be_left_out_may_be_null():
    optional = [name for name in ChatBody.model_fields if name not in ("model", "messages", "x_luthier")]
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    for name in optional:
        assert parse({**body, name: None}).request(0).messages, name


@given(bodies)
def test_any_body_is_understood_or_refused_with_a_name(value):
    try:
        body = parse(value)
    except ApiError as error:
        assert error.status == 400
        json.loads(error.body)
        assert len(error.message) <= 400
    else:
        request = body.request(0)
        assert request.messages
        assert request.top_p is not None


def test_every_answer_of_a_seeded_request_has_its_own_seed():
    body = parse({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 7, "n": 8})
    seeds = [body.request(i).seed for i in range(8)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [body.request(i).seed for i in range(8)]
    assert parse({"model": "m", "messages": [{"role": "user", "content": "x"}]}).request(3).seed is None


def test_every_field_says_what_it_is():
    undocumented = [name for name, field in ChatBody.model_fields.items() if not field.description]
    assert undocumented == []
    assert not set(UNSUPPORTED) & set(ChatBody.model_fields)


@pytest.mark.parametrize("name", ["temprature", "max_token"])
def test_a_misspelt_field_gets_a_suggestion(name):
    with pytest.raises(ApiError, match="did you mean"):
        parse({"model": "m", "messages": [{"role": "user", "content": "x"}], name: 1})
