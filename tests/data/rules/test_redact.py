"""redact: what it masks, and what tries to get past it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core import plugin
from luthier.core.errors import DataError, SpecError
from luthier.data.private import KINDS, pseudonyms
from luthier.data.rules.redact import Redact

from ..private.corpus import Made, chats
from ..private.ruled import batch_of, keeps_laws, record, records, run

KEY = "a key of 32 bytes, for tests only"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEST_KEY", KEY)
    return "${TEST_KEY}"


def masked(text: str, wish: Any = None) -> str:
    return run("redact", batch_of(record(text=text)), wish).texts()[0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("mail jo@firm.com, or 'A.B+c@mail.co.uk'.", "mail [EMAIL_1], or '[EMAIL_2]'."),
        ("müller@bücher.de и иван@почта.рф", "[EMAIL_1] и [EMAIL_2]"),
        ("?to=jo%40firm.com&x=1, mu\u0308ller@x.de", "?to=[EMAIL_1]&x=1, [EMAIL_2]"),
        ("phone [PHONE:12345678], password: [KEY:0a1b2c3d]", "phone [PHONE:12345678], password: [KEY:0a1b2c3d]"),
        ("[A_4111111111111111] [4111111111111111]", "[A_4111111111111111] [[CARD_1]]"),
        ("host 1.2.3.4, 8.8.8.8, and 5.102.3.4", "host [IP_1], [IP_2], and [IP_3]"),
        ("token = Esm2Fold.from_pretrained, token_transformer = EsmFold2DiffusionTransformer", "token = Esm2Fold.from_pretrained, token_transformer = EsmFold2DiffusionTransformer"),
        ("ssh root@10.1.2.3", "ssh root@[IP_1]"),
        ("PWD=/home/user12345678 password=hunter2hunter2", "PWD=/home/user12345678 password=[KEY_1]"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZDEyMzQ1Ng==", "Authorization: Basic [KEY_1]"),
        ("logo@2x.png, git@github.com:o/r.git, a@b", "logo@2x.png, git@github.com:o/r.git, a@b"),
        ("+49 (0)30 1234567, +1 201-555-0123, +33 1 23 45 67 89", "[PHONE_1], [PHONE_2], [PHONE_3]"),
        ("(201) 555-0123 or 201.555.0199", "[PHONE_1] or [PHONE_2]"),
        ("call me at 0171 1234567 2 times", "call me at [PHONE_1] 2 times"),
        ("0171 1234567 is order 0171 1234567", "0171 1234567 is order 0171 1234567"),
        ("01 23 45 67 89", "[PHONE_1]"),
        ("手机13812345678。", "手机[PHONE_1]。"),
        ("4111 1111 1111 1111 5500000000000004 378282246310005", "[CARD_1] [CARD_2] [CARD_3]"),
        ("4111 1111 1111 1112, 1234567812345670", "4111 1111 1111 1112, 1234567812345670"),
        ("DE89 3704 0044 0532 0130 00 and gb82west12345698765432", "[IBAN_1] and [IBAN_2]"),
        ("DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("10.20.30.40:80, 2a00:1450:4001:81b::200e", "[IP_1]:80, [IP_2]"),
        ("from:2a00::1: refused, [2a00::1]:443", "from:[IP_1]: refused, [[IP_1]]:443"),
        ("127.0.0.1 v1.2.3.4 version 1.2.3.4 ==1.2.3.4 192.0.2.7 1.2.3.4.5 (2.1.8.2) OID 2.5.29.19", "127.0.0.1 v1.2.3.4 version 1.2.3.4 ==1.2.3.4 192.0.2.7 1.2.3.4.5 (2.1.8.2) OID 2.5.29.19"),
        ("std::abc, 12:30:45, aa:bb:cc:dd:ee:ff, ::1", "std::abc, 12:30:45, aa:bb:cc:dd:ee:ff, ::1"),
        ("AKIAIOSFODNN7EXAMPLE", "[KEY_1]"),
        ("postgres://app:S3cr3t@db.firm.com/x", "postgres://app:[KEY_1]@db.firm.com/x"),
        ("postgres://app:${PASSWORD}@db.firm.com/x", "postgres://app:${PASSWORD}@db.firm.com/x"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[KEY_1]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY----- bye", "[KEY_1] bye"),
        ('api_key = "9f8a7b6c5d4e3f2a1b0c"', 'api_key = "[KEY_1]"'),
        ("password: Sup3rS3cret!", "password: [KEY_1]"),
        ("a token of respect, the password must have letters", "a token of respect, the password must have letters"),
        ("sk-this-is-only-an-example", "sk-this-is-only-an-example"),
        ("SSN 078-05-1120", "SSN [NATIONAL_ID_1]"),
        ("DNI 12345678Z, RSSMRA85T10A562S, 529.982.247-25", "DNI [NATIONAL_ID_1], [NATIONAL_ID_2], [NATIONAL_ID_3]"),
        ("NHS number 943 476 5919; 943 476 5919", "NHS number [NATIONAL_ID_1]; [NATIONAL_ID_1]"),
        ("943 476 5919", "943 476 5919"),
        ("HKID A123456(3), S1234567D", "HKID [NATIONAL_ID_1], [NATIONAL_ID_2]"),
        ("ISBN 9783161484100, P/N 12345678Z, 550e8400-e29b-41d4-a716-446655440000", "ISBN 9783161484100, P/N 12345678Z, 550e8400-e29b-41d4-a716-446655440000"),
    ],
)  # fmt: skip
def test_redact(text: str, want: str) -> None:
    assert masked(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "４１１１ １１１１ １１１１ １１１１",  # full-width digits
        "41\u200b11 1111 1111\u2060 11\u00ad11",  # invisible characters inside
        "j\u200bo@fi\u200crm.com",
        "ｊｏ＠ｆｉｒｍ．ｃｏｍ",
        "٤١١١ ١١١١ ١١١١ ١١١١",  # Arabic digits
        "4111\u20101111\u20111111\u20121111",  # other hyphens
        "4111\u00a01111\u202f1111\u20091111",  # other blanks
        "DE89\u200b3704 0044 0532 0130 00",
        "\U000e0041jo@firm.com",  # a tag character before
        "𝟒𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏",
        "1,4111111111111111,x",
        "?card=4111111111111111&x=1",
        "(4111111111111111)",
        "4111111111111111/12/25",
        "4111111111111111@example.com",
        "电话13812345678和4111111111111111。",
        "call:+4930123456",
    ],
)
def test_no_disguise_of_digits_or_blanks_hides_them(text: str) -> None:
    got = masked(text)
    assert "[" in got and not any(ch.isdigit() for ch in got.replace("_1]", "").replace("_2]", "").replace("/12/25", "").lstrip("1,").rstrip("&x=1"))  # fmt: skip


def test_what_is_not_found_is_known() -> None:
    """These stand in the docs as not found."""
    for text in (
        "name at example dot com",
        "jo (at) firm (dot) com",
        "my name is Jo",
        "12 Long Street",
        "the word is hunter2",
    ):
        assert masked(text) == text


def test_the_same_value_has_one_number_in_every_turn_the_label_and_the_rejected_answer() -> None:
    done = run(
        "redact",
        batch_of(
            record(
                [("system", "for a@b.de"), ("user", "c@d.de 4111111111111111"), ("assistant", "A@B.de")],
                label="a@b.de",
                rejected="c@d.de and 4111-1111-1111-1111",
            ),
            record("c@d.de"),
        ),
    )
    assert done.texts(0) == ["for [EMAIL_1]", "[EMAIL_2] [CARD_1]", "[EMAIL_1]", "[EMAIL_2] and [CARD_1]"]
    assert done.texts(1) == ["[EMAIL_1]"]
    assert done.batch["label"].to_pylist() == ["[EMAIL_1]", None]
    assert done.changed == ["email, card", "email"]
    assert done.counts == {
        "email": [4, 1],
        "card": [2, 0],
    }  # the label is not counted again: it is the answer


def test_a_value_that_is_sure_once_is_found_everywhere_in_its_record() -> None:
    done = run(
        "redact", batch_of(record([("user", "phone: 0171-1234567"), ("assistant", "so 0171 1234567?")]))
    )
    assert done.texts() == ["phone: [PHONE_1]", "so [PHONE_1]?"]
    assert masked("so 0171 1234567?") == "so 0171 1234567?"


def test_numbers_that_stand_there_already_are_not_given_again() -> None:
    assert masked("[EMAIL_3] and a@b.de") == "[EMAIL_3] and [EMAIL_4]"


def test_checked_beats_pattern_and_longer_beats_shorter() -> None:
    assert masked("+4111111111111111") == "+[CARD_1]"  # a card, not a Swiss telephone
    assert masked("x@10.20.30.40.com") == "[EMAIL_1]"
    block = "-----BEGIN PRIVATE KEY-----\n4111111111111111\n-----END PRIVATE KEY-----"
    assert masked(block) == "[KEY_1]"


def test_pseudonyms_are_the_same_in_every_record_and_depend_on_the_key(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"do": "pseudonymise", "key": key}
    batch = batch_of(record("mail Jo@firm.com"), record(text="jo@firm.com, x@firm.com"))
    one = run("redact", batch, wish)
    name = one.texts(0)[0].removeprefix("mail ")
    assert one.texts(1)[0].startswith(f"{name}, [EMAIL:") and len(name) == len("[EMAIL:12345678]")
    monkeypatch.setenv("TEST_KEY", KEY + "!")
    assert name not in run("redact", batch, wish).texts(0)[0]
    assert pseudonyms.key_mark(key) not in name


def test_pseudonyms_keep_apart_what_two_kinds_have_in_common(key: str) -> None:
    secret = pseudonyms.key_of(key)
    assert secret.name("phone", "1") != secret.name("card", "1")
    assert KEY not in repr(secret) and KEY not in str(vars(pseudonyms))


@pytest.mark.parametrize("value", [None, "", "short"])
def test_a_key_that_is_missing_or_short_is_named_and_never_shown(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_KEY", value)
    with pytest.raises(SpecError, match="NO_KEY") as caught:
        run("redact", batch_of(record("a@b.de")), {"do": "pseudonymise", "key": "${NO_KEY}"})
    assert "short" not in str(caught.value).replace("too short", "")


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"do": "pseudonymise"}, "pseudonymise needs a key"),
        ({"key": "${K}"}, "key is for pseudonyms"),
        ({"do": "pseudonymise", "key": "hunter2-is-my-key"}, "key must refer to an environment variable"),
        ({"ner": "spacy"}, "there is no ner called 'spacy'; none is installed"),
        ({"what": []}, "at least 1"),
        ({"what": ["emails"]}, "'email'"),
    ],
)
def test_settings_that_cannot_be_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Redact.model_validate(wish)
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_words_for_several_kinds_are_written_out() -> None:
    assert Redact.model_validate("all").what == list(KINDS) == Redact().what
    assert Redact.model_validate(["secrets", "ip"]).what == ["ip", "key"]
    assert Redact.model_validate("pii") == Redact.model_validate("personal")
    assert Redact.model_validate({"what": ["iban", "card", "iban"]}).plain()["what"] == ["card", "iban"]
    assert masked("a@b.de 4111111111111111", "secrets") == "a@b.de 4111111111111111"


def test_drop_says_how_many_and_never_what() -> None:
    done = run(
        "redact", batch_of(record("a@b.de c@d.de 4111111111111111"), record("nothing")), {"do": "drop"}
    )
    assert done.removed == ["holds 2 email, 1 card", None]
    assert done.counts == {"email": [2, 0], "card": [1, 0]}
    assert done.texts() == ["a@b.de c@d.de 4111111111111111"]


def test_a_plugin_finds_names_and_they_go_everywhere_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def people(texts: list[str]) -> list[list[tuple[int, int, str]]]:
        return [[(11, 17, "person")] if text.startswith("My name is ") else [] for text in texts]

    monkeypatch.setitem(plugin.BUILT_IN["ner"], "people", "luthier.core.plugin:people")
    monkeypatch.setattr(plugin, "people", people, raising=False)
    done = run(
        "redact",
        batch_of(
            record([("user", "My name is Jo Doe, jo@d.de"), ("assistant", "Hello Jo Doe!")]), record("Jo Doe")
        ),
        {"what": "email", "ner": "people"} | {"what": ["email"]},
    )
    assert done.texts(0) == ["My name is [PERSON_1], [EMAIL_1]", "Hello [PERSON_1]!"]
    assert done.texts(1) == ["Jo Doe"]
    assert done.counts == {"person": [2, 0], "email": [1, 0]}
    for bad in ([(0, 99, "person")], [(0, 1, "Per son")]):
        monkeypatch.setattr(plugin, "people", lambda texts, bad=bad: [bad for _ in texts])
        with pytest.raises(DataError, match="ner 'people' gave the span"):
            run("redact", batch_of(record("ab")), {"ner": "people"})


def test_a_private_group_has_one_name_in_all_records_and_stays_a_group_of_its_own() -> None:
    rows = [
        record("a", group=group) for group in ("jo@d.de", "Jo@D.de", "bo@d.de", "c7", None, "c7 (jo@d.de)")
    ]
    for wish in ({}, {"do": "drop"}):
        done = run("redact", batch_of(*rows), wish)
        jo, also_jo, bo, *others = done.batch["group"].to_pylist()
        assert jo == also_jo and jo != bo and re.fullmatch(r"\[EMAIL:[0-9a-f]{8}\]", jo)
        assert others == ["c7", None, f"c7 ({jo})"]
        assert done.counts == {"groups": [1, 1, 1, 0, 0, 1]} and done.removed == [None] * 6
    assert run("redact", done.batch).batch == done.batch  # a name is no private data
    assert run("redact", batch_of(*rows), {"what": ["card"]}).batch["group"].to_pylist()[0] == "jo@d.de"


def test_what_is_kept_beside_a_row_is_masked_like_a_group() -> None:
    rows = [
        record("a", kept='{"owner": "jo@d.de", "region": "north"}'),
        record("b", kept='{"region": "north"}'),
    ]
    done = run("redact", batch_of(*rows), {})
    one, other = done.batch["kept"].to_pylist()
    assert re.fullmatch(r'\{"owner": "\[EMAIL:[0-9a-f]{8}\]", "region": "north"\}', one)
    assert other == '{"region": "north"}'
    assert run("redact", done.batch).batch == done.batch


def test_the_key_of_pseudonyms_names_groups_too(key: str) -> None:
    wish = {"do": "pseudonymise", "key": key}
    done = run("redact", batch_of(record("jo@d.de", group="jo@d.de")), wish)
    assert done.batch["group"].to_pylist() == done.texts(0) and done.changed == ["email, group"]
    assert run("redact", batch_of(record("", group="jo@d.de"))).batch["group"] != done.batch["group"]


def test_the_version_of_a_plugin_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    def people(texts: list[str]) -> list[list[tuple[int, int, str]]]:
        return [[] for _ in texts]

    monkeypatch.setitem(plugin.BUILT_IN["ner"], "people", "luthier.core.plugin:people")
    monkeypatch.setattr(plugin, "people", people, raising=False)
    rule = plugin.load("rule", "redact")
    wish = rule.spec(ner="people")
    with pytest.raises(SpecError, match="'people' does not say which version it is"):
        rule.mark(wish)
    people.version = "2.1"  # type: ignore[attr-defined]
    assert rule.mark(wish) == "people 2.1" and rule.mark(rule.spec()) is None


def test_nothing_private_is_left_in_any_file_of_a_dataset(prepare: Any, jsonl: Any) -> None:
    """The report, the removed rows and their previews included, also where a rule before redact removes or edits."""
    secrets = ["jo@firm.com", "4111 1111 1111 1111", "ghp_" + "a1B2" * 9, "078-05-1120"]
    rows = [
        {
            "prompt": f"  {i}  {secrets[i % 4]} asks",
            "completion": f"for  {secrets[i % 3]}",
            "customer": f"{i}@firm.com",
        }
        for i in range(60)
    ]
    rows += [{"prompt": f"{secrets[0]} {i}", "completion": "", "customer": "x"} for i in range(5)]
    jsonl(rows)
    quality = ["normalize", "drop_empty", "redact", {"length": {"max": 25}}, "deduplicate"]
    mapped = {"user": "prompt", "assistant": "completion", "group": "customer"}
    done = prepare({"sources": [{"files": "rows.jsonl", "map": mapped}], "rules": {"quality": quality}})
    report = done.rule("redact")
    assert report["changed"] == 60 and set(report["counts"]) == {
        "email",
        "card",
        "key",
        "national_id",
        "groups",
    }
    everything = [row for name in ("train", "validation", "test", "removed") for row in done.split(name)]
    told = (
        repr(everything)
        + repr(done.rules)
        + repr(done.facts)
        + repr([vars(event) for event in done.at.events])
    )
    assert [secret for secret in [*secrets, "@firm.com"] if secret in told] == []
    assert "[EMAIL_1]" in told


def test_every_planted_value_with_a_check_is_found_and_little_else() -> None:
    rows, planted, negatives = chats(2000, seed=5)
    assert negatives >= 10 * len(planted)
    done = run("redact", batch_of(*[record(list(row)) for row in rows]))
    missed = [(kind, text) for row, kind, text in planted if text in "\n".join(done.texts(row))]
    assert missed == []
    spans = sum(sum(of_rows) for of_rows in done.counts.values())
    assert len(planted) / spans >= 0.97


pieces = st.sampled_from(
    [
        "a@b.de", "jo@firm.com", "+49 30 1234567", "0171 1234567", "4111 1111 1111 1111", "378282246310005", "DE89370400440532013000",
        "10.1.2.3", "1.2.3.4", "078-05-1120", "12345678Z", "943 476 5919", "AKIAIOSFODNN7EXAMPLE", "password: Sup3rS3cret!", "phone ", "call ",
        "NHS", "order", "version", "v", "@", "+", "-", "/", ".", " ", "(", ")", ":", "\u200b", "1", "４", "[EMAIL_1]", "x", "\n", "://u:p@h", "é",
        "201-555-0123", "4 4 4", "2345 6789 0123", "00", "eyJ", "sk-", "[EMAIL:12345678]", "[CARD:98765432] ",
    ]
)  # fmt: skip
soup = st.lists(pieces, max_size=12).map("".join)


@given(
    st.lists(
        st.builds(lambda a, b: record([("user", a), ("assistant", b)], label=b), soup, soup)
        | records.map(lambda r: record(**r)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_laws(rows: list[dict[str, Any]]) -> None:
    keeps_laws("redact", rows)
    keeps_laws("redact", rows, {"do": "drop"})


@given(st.lists(soup.map(lambda text: record(text=text)), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_laws_of_pseudonyms(rows: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEY", KEY)
        keeps_laws("redact", rows, {"do": "pseudonymise", "key": "${TEST_KEY}"})


@given(
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
    st.sampled_from(
        ["", "see", "Grüße", "日本", "ok!", "👩", "\u0301", "— and"]
    ),  # nothing that makes it a paragraph or version
    st.sampled_from([" ", "\n", " (", ", ", ": "]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_planted_is_never_left(seed: int, kind: str, before: str, gap: str) -> None:
    value = getattr(Made(seed), kind)()
    assert value not in masked(f"{before}{gap}{value}{gap.strip() or ' '}")


HARD = {
    "digits": "1" * 100_000,
    "pairs": "1 " * 50_000,
    "groups of four": "4111 " * 20_000,
    "dots": "1." * 50_000,
    "letters": "a" * 100_000,
    "addresses": "a.b-" * 25_000 + "@",
    "at signs": "@" * 100_000,
    "a@": "a@" * 50_000,
    "colons": "a:" * 50_000,
    "urls": "://a:" * 20_000,
    "blocks": "-----BEGIN PRIVATE KEY-----" * 3_000,
    "jwt": "eyJhbGciOiJ9." * 7_000,
    "passwords": "password=" * 10_000,
    "tokens": "token token_" * 8_000,
    "plus": "+1 201 " * 14_000,
    "ids": "A1B2" * 25_000,
    "brackets": "(1)" * 30_000,
    "zero-width": "1\u200b" * 50_000,
    "words": "phone call tel " * 6_000 + "1234567",
    "ibans": "DE89 " * 20_000,
}


@pytest.mark.parametrize("name", HARD)
def test_time_is_linear_in_the_text(name: str) -> None:
    """Eight times the text takes at most 8 * 3 times as long; what is quadratic would take 64 times."""
    took = []
    for share in (8, 1):
        rows = batch_of(record(text=HARD[name][: len(HARD[name]) // share]))
        best = 1e9
        for _ in range(2):
            start = time.process_time()
            run("redact", rows)
            best = min(best, time.process_time() - start)
        took.append(best)
    assert took[1] < 24 * took[0] + 0.1, f"{took}"


def test_another_key_is_another_dataset_and_a_missing_one_is_told_at_once(tmp_path, monkeypatch):
    from luthier.core.errors import SpecError
    from luthier.core.testing import FakeContext
    from luthier.data.connectors import fingerprints
    from luthier.data.spec import DataSpec

    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    wish = {"redact": {"what": ["email"], "do": "pseudonymise", "key": "${PII_KEY}"}}
    data = DataSpec.model_validate({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": [wish]}})

    def marks():
        return list(fingerprints(data, tmp_path, FakeContext(tmp_path)))

    monkeypatch.setenv("PII_KEY", "k" * 20)
    one = marks()
    assert one == marks() and len(one) == 2 and "k" * 20 not in str(one)
    monkeypatch.setenv("PII_KEY", "q" * 20)
    assert marks()[0] == one[0] and marks()[1][1] != one[1][1]
    monkeypatch.delenv("PII_KEY")
    with pytest.raises(SpecError, match="PII_KEY"):
        marks()
