"""Each step alone: what it changes, what it leaves, and that it never fails on any text."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.outputs.chain import Chain
from luthier.outputs.spec import AnsweringSpec
from luthier.outputs.step import About
from luthier.outputs.steps.snap import distance

LABELS = ("billing", "log in", "Returns & refunds")
ASKED = About(
    (
        ("system", "Answer from these:\n[1] Opening hours.\n[2] Returns. See DOC-12."),
        ("user", "I am jo@firm.com. 3. why?"),
    ),
    LABELS,
)


def chain(*steps):
    return Chain(AnsweringSpec.model_validate({"answers": list(steps)}).answers)


def run(step, text, about=ASKED):
    return chain(step).run(text, about)


@pytest.mark.parametrize(
    ("text", "expected", "note"),
    [
        ('{"a": 1}', '{"a": 1}', None),
        (' [1, 2]\n', "[1, 2]", None),
        ("42", "42", None),
        ('```json\n{"a": [1,\n2]}\n```', '{"a": [1,\n2]}', "code fence"),
        ('Sure:\n```\n{"a": "`x`"}\n```\nok?', '{"a": "`x`"}', "code fence"),
        ('see [1]: {"a": {"b": []}} and {"c": 2}', '{"a": {"b": []}}', "text around it"),
        ("no json", None, None),
        ("{'a': 1}", None, None),
        ('{"a": NaN}', None, None),
        ('{"a": 1, "a": 2}', None, None),
    ],
)  # fmt: skip
def test_json_is_found_and_read_strictly(text, expected, note):
    found = run("json", text)
    assert (found.text if found.refusal is None else None) == expected
    assert found.passed[0].notes == ((note,) if note else ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'a': 1}", '{"a":1}'),
        ('Here: {"a": [1, 2', '{"a":[1,2]}'),
        ('```json\n{"a": True,}\n```', '{"a":true}'),
        ("nothing to mend", None),
    ],
)
def test_a_repair_is_made_only_when_it_is_asked_and_is_counted(text, expected):
    assert run("json", text).refusal == "json: the answer holds no JSON."
    found = run({"json": {"repair": True}}, text)
    assert (found.text if found.refusal is None else None) == expected
    if expected:
        assert found.passed[0].notes == ("repaired",)
    assert run({"json": {"otherwise": "keep"}}, text).text == text


SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def test_a_schema_refuses_or_keeps():
    step = {"schema": {"schema": SCHEMA}}
    assert run(step, '{"city": "Bonn"}').text == '{"city": "Bonn"}'
    assert (
        run(step, "{}").refusal
        == "schema: the answer does not meet the schema: 'city' is a required property."
    )
    assert "is not JSON" in run(step, "Bonn").refusal
    assert run({"schema": {"schema": SCHEMA, "otherwise": "keep"}}, "{}").passed[0].notes == (
        "against the schema",
    )


def test_files_are_read_once_and_the_task_gives_what_is_auto():
    wish = AnsweringSpec.model_validate(
        {
            "answers": [{"schema": {"schema": "s.json"}}, {"banned": {"file": "w.txt"}}, "snap"],
            "constrain": {"json_schema": "auto"},
        }
    )
    files = {"s.json": json.dumps(SCHEMA), "w.txt": "# names\nAcme Corp\n\nfoo\n"}
    told = wish.inlined(files.__getitem__).bound({"kind": "extract", "labels": ["a", "b"], "schema": SCHEMA})
    assert told.answers[0].settings.schema_ == told.constrain.json_schema == SCHEMA
    assert (told.answers[1].settings.words, told.answers[1].settings.file) == (["Acme Corp", "foo"], None)
    assert AnsweringSpec.model_validate(told.plain()) == told  # a package holds all of it
    with pytest.raises(SpecError, match="this chat task has none"):
        wish.bound({"kind": "chat", "labels": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("billing", "billing"),
        (" **Billing!** ", "billing"),
        ("LOG-IN", "log in"),
        ("returns &  refunds.", "Returns & refunds"),
        ("biling", "billing"),  # one edit of two
        ("blling", "billing"),
        ("bllnng", "billing"),
        ("blnng", None),  # three
        ("lgin", "log in"),
        ("it is billing", None),
        ("", None),
    ],
)
def test_snap_takes_the_nearest_label(text, expected):
    found = run("snap", text)
    assert (found.text if found.refusal is None else None) == expected


def test_snap_refuses_what_is_ambiguous_and_finds_inside_only_when_asked():
    step = {"snap": {"labels": ["mailing 1", "mailing 2"]}}
    assert run(step, "mailing").refusal == "snap: the answer may be 'mailing 1' or 'mailing 2'."
    assert run(step, "mailing 2!").text == "mailing 2"
    inside = {"snap": {"inside": True}}
    assert run(inside, "I think it is billing.").text == "billing"
    assert run(inside, "billing or log in").refusal.startswith("snap: the answer may be")
    assert run({"snap": {"edits": 0}}, "biling").refusal == "snap: the answer is none of the labels."
    assert run({"snap": {"otherwise": "keep"}}, "zzz").text == "zzz"


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.integers(0, 4))
def test_the_bounded_distance_is_levenshteins(a, b, most):
    plain = levenshtein(a, b)
    assert distance(a, b, most) == (plain if plain <= most else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on March 5, 2024", "on 2024-03-05"),
        ("5. März 2024 und 1er février 2023", "2024-03-05 und 2023-02-01"),
        ("the 3rd, 2 de mayo de 2021", "the 3rd, 2021-05-02"),
        ("2024/3/5", "2024-03-05"),
        ("25/12/2024, 12.25.2024, 07.07.2024", "2024-12-25, 2024-12-25, 2024-07-07"),
        ("05/03/2024", "05/03/2024"),
        ("31/02/2024, 2024-13-01, 1/2/24", "31/02/2024, 2024-13-01, 1/2/24"),
        ("1,234,567.89 1.234.567,89 1'234'567.5 1\u202f234", "1234567.89 1234567.89 1234567.5 1234"),
        ("1,234 1.234 3,5 3.14", "1,234 1.234 3,5 3.14"),
        ("192.168.100.200 v1.2.3 12,34,567", "192.168.100.200 v1.2.3 12,34,567"),
        ("555 123 456", "555 123 456"),
        (
            '{"n": "1,234,567.0", "d": ["5 May 2020"], "k": 1.5}',
            '{"n":"1234567.0","d":["2020-05-05"],"k":1.5}',
        ),
    ],
)
def test_only_what_has_one_reading_is_normalised(text, expected):
    assert run("normalize", text).text == expected


def test_normalize_does_what_it_is_told():
    assert run({"normalize": {"order": "day_first"}}, "05/03/2024").text == "2024-03-05"
    assert run({"normalize": {"order": "month_first"}}, "05/03/2024").text == "2024-05-03"
    assert run({"normalize": {"decimal": ","}}, "1.234 3,5").text == "1234 3.5"
    assert run({"normalize": {"decimal": "."}}, "1,234 3.5").text == "1234 3.5"
    assert run({"normalize": {"units": True}}, "12 kilometres, 3 KG, 5 percent").text == "12 km, 3 kg, 5 %"
    assert run({"normalize": {"fields": ["due"]}}, '{"due": "5 May 2020", "id": "5 May 2020"}').text == (
        '{"due":"2020-05-05","id":"5 May 2020"}'
    )


def test_private_data_is_masked_unless_the_user_said_it():
    text = "Mail jo@firm.com or ann@firm.com, IBAN DE89 3704 0044 0532 0130 00."
    assert run({"redact": "pii"}, text).text == "Mail [EMAIL_1] or [EMAIL_2], IBAN [IBAN_1]."
    kept = run({"redact": {"what": ["email"], "keep_said": True}}, text)
    assert kept.text == "Mail jo@firm.com or [EMAIL_1], IBAN DE89 3704 0044 0532 0130 00."
    assert run({"redact": {"do": "refuse"}}, text).refusal == "redact: the answer holds private data."
    assert run("redact", "nothing here").text == "nothing here"


def test_a_refusal_quotes_no_private_data_that_another_step_takes_out():
    """jsonschema quotes what it refuses, and a client is told the refusal."""
    schema = {"schema": {"schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
    text = '{"n": "ann@firm.com"}'
    assert "ann@firm.com" in (run(schema, text).refusal or "")
    for step in ("redact", {"redact": {"do": "refuse"}}):
        refusal = chain(schema, step).run(text, ASKED).refusal or ""
        assert refusal.startswith("schema: ") and "ann@firm.com" not in refusal and "[EMAIL_1]" in refusal


def test_banned_words_in_any_form():
    step = {"banned": {"words": ["Acme Corp"], "patterns": ["(?i)secret-[0-9]+"]}}
    for text in ("acme  corp", "ＡCME Corp", "my Secret-12"):
        assert run(step, text).refusal == "banned: the answer holds something that is banned."
    assert run(step, "acmecorp, secret-").text == "acmecorp, secret-"
    mask = {"banned": {"words": ["acme"], "do": "mask", "mask": "$1"}}
    assert run(mask, "Acme and ACME").text == "$1 and $1"
    assert run(mask, "ａｃｍｅ").refusal  # cannot be placed in the text, so it is not given
    assert run({"banned": {"insults": True}}, "you idiot").refusal


def test_an_expression_that_explodes_elsewhere_takes_no_time():
    step = {"banned": {"patterns": ["(a+)+b"]}}
    begun = time.monotonic()
    assert run(step, "a" * 50_000).refusal is None
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Within 30 days [2][7].", "Within 30 days [2]."),
        ("As said [1, 9; 2].", "As said [1, 2]."),
        ("Why [3] and [4]?", "Why [3] and?"),
        ("[sic] it [EMAIL_1] is [here](http://x.y) [5](http://x.y)", None),
        ('{"pages": [1, 9], "t": "x [9]"}', '{"pages":[1,9],"t":"x"}'),
        ("See 【9】 or DOC-12 or DOC-13.", "See or DOC-12 or DOC-13."),
    ],
)
def test_citations_of_what_was_not_there_go(text, expected):
    assert run("citations", text).text == (expected or text)


def test_named_sources_are_citations_too():
    step = {"citations": {"pattern": "DOC-[0-9]+"}}
    assert run(step, "See DOC-12, not DOC-13.").text == "See DOC-12, not."
    refuse = {"citations": {"otherwise": "refuse"}}
    assert run(refuse, "x [8]").refusal == "citations: the answer cites a source that it was not given."
    assert run(refuse, "x [1]").text == "x [1]"


EVERY = [
    "json", {"json": {"repair": True}}, {"schema": {"schema": SCHEMA, "otherwise": "keep"}}, "snap", {"snap": {"inside": True}},
    {"normalize": {"units": True, "decimal": ",", "order": "day_first"}}, "redact", {"redact": {"keep_said": True}},
    {"banned": {"insults": True, "words": ["x"], "do": "mask"}}, "citations", {"citations": {"pattern": "D[0-9]"}},
]  # fmt: skip
PIECES = st.lists(
    st.sampled_from(["{", "}", "[", "]", '"', ":", ",", "1", "12.3", "a@b.de", "```", "json", " ", "\n", "\\", "[1]", "May 2024", "D1", "\ud800"]),
    max_size=14,
).map("".join)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EVERY), st.text(max_size=40) | PIECES)
def test_no_step_fails_and_each_is_done_after_once(step, text):
    found = run(step, text)
    if found.refusal is None and step != "citations" and "banned" not in str(step):
        assert run(step, found.text).text == found.text


@pytest.mark.parametrize("step", ["json", "normalize", "citations", "redact", "snap"])
@pytest.mark.parametrize("piece", ["[", "{", '{"a":', "1,", "a@", "[1,", "```", "1.", " 5 may 20", "[1; "])
def test_hostile_texts_take_no_time(step, piece):
    begun = time.monotonic()
    run(step, piece * (20_000 // len(piece)))
    assert time.monotonic() - begun < 20  # on a slow, shared core; what explodes takes minutes


def test_every_step_says_what_it_is():
    for name in plugin.BUILT_IN["answer_step"]:
        step = plugin.load("answer_step", name)
        assert (step.name, step.version) == (name, 1)
        assert step.about.endswith(".")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("answers: [jsn]", "did you mean 'json'"),
        ("answers: [{snap: {edit: 1}}]", "did you mean 'edits'"),
        ("answers: [{banned: {patterns: ['a(?=b)']}}]", "look-ahead"),
        ("answers: [{banned: {patterns: ['a*']}}]", "matches the empty text"),
        ("answers: [banned]", "nothing is banned"),
        ("answers: [{banned: {words: [x], do: mask, mask: x}}]", "the mask itself is banned"),
        ("answers: [{snap: {labels: [a]}}]", "at least two labels"),
        ("answers: [{normalize: {dates: false, numbers: false}}]", "leave the step out"),
        ("answers: [{schema: {schema: {type: 7}}}]", "no JSON Schema"),
    ],
)
def test_what_is_written_wrongly(text, told):
    with pytest.raises(SpecError, match=told):
        parse(AnsweringSpec, read_yaml(text, "recipe.yaml"))
