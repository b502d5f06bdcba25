"""What is generated under a grammar matches it, whatever the weights are: a random model is the hardest case."""

import json
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.models.generate import generate, write
from luthier.models.grammar import Grammar
from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import describe, load, load_tokenizer

REGEXES = [
    "[A-Z]{2}-[0-9]{1,3}",
    "(yes|no)( but .{1,4})?",
    "a{3}b*",
    "[äöü]{1,3}!",
    "(0|[1-9][0-9]?) (km|kg)",
]
SCHEMAS = [
    {"type": "object", "properties": {"queue": {"enum": ["billing", "login"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
     "required": ["queue", "n"], "additionalProperties": False},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 5}]}},
     "required": ["a"], "additionalProperties": False},
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=256)
    return load(folder), Template(load_tokenizer(folder), describe(folder).context)


def prompt_of(template, text="where does it go?"):
    return template.prompt([{"role": "user", "content": text}])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(REGEXES),
    st.sampled_from([0.0, 0.7, 1.5]),
    st.integers(0, 2**32),
    st.integers(1, 24),
)
def test_text_under_an_expression_matches_whole_unless_it_is_cut(tiny, regex, temperature, seed, most):
    model, template = tiny
    steps = list(
        generate(
            model,
            template,
            prompt_of(template),
            max_tokens=most,
            temperature=temperature,
            seed=seed,
            grammar=Grammar("regex", regex),
        )
    )
    text = "".join(step.text_delta for step in steps)
    if steps[-1].finish == "stop":
        assert re.fullmatch(regex, text)
    else:
        assert steps[-1].finish == "length" and len(steps) == most


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(SCHEMAS), st.integers(0, 2**32))
def test_text_under_a_schema_is_valid_and_one_by_one_is_batched(tiny, schema, seed):
    model, template = tiny
    prompts = [prompt_of(template, text) for text in ("a", "the parcel has not arrived", "bb")]
    draws = np.random.default_rng(seed).random((3, 2, 96))
    grammar = Grammar.of_schema(schema)
    told = write(model, template, prompts, 96, copies=2, temperature=1.0, draws_PGN=draws, grammar=grammar)
    for mine in told:
        for one in mine:
            assert one.finish == "length" or jsonschema.validate(json.loads(one.text), schema) is None
            assert 0 < one.sure <= 1
    greedy = [one.text for [one] in write(model, template, prompts, 96, grammar=grammar)]
    alone = [
        "".join(step.text_delta for step in generate(model, template, ids, max_tokens=96, grammar=grammar))
        for ids in prompts
    ]
    assert greedy == alone


def test_how_sure_an_answer_is_is_what_its_steps_say(tiny):
    model, template = tiny
    ids = prompt_of(template)
    steps = list(generate(model, template, ids, max_tokens=9))
    [[one]] = write(model, template, [ids], 9)
    assert one.text == "".join(step.text_delta for step in steps)
    assert one.logprob == pytest.approx(np.mean([step.logprob for step in steps]), abs=1e-5)
    assert (one.finish, one.tokens) == (steps[-1].finish, len(steps))


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        (Grammar("regex", "a("), "unclosed group"),
        (Grammar("regex", "a(?=b)"), "look-ahead"),
        (Grammar.of_schema({"type": "objekt"}), "Invalid type: objekt"),
        (Grammar.of_schema({"not": {"type": "string"}}), r'Unimplemented keys: \["not"\]'),
        (Grammar.of_schema({"$ref": "http://x.y/z"}), "not present"),
        (Grammar.of_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Grammar.of_schema(True), "object schema"),
        (Grammar.of_schema({"x-guidance": {"whitespace_flexible": False}}), "x-guidance"),
        (Grammar("regex", "a" * 200_000), "more than 100,000 characters"),
    ],
)
def test_what_cannot_be_held_to_is_refused(grammar, told):
    with pytest.raises(SpecError, match=told):
        grammar.check()


@pytest.mark.parametrize(
    "grammar", [*(Grammar("regex", one) for one in REGEXES), *map(Grammar.of_schema, SCHEMAS)]
)
def test_what_can_be_held_to_is_not(grammar):
    grammar.check()
