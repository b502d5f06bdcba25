"""What was read as Latin-1 is repaired; what is right stays, whatever its language."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.testing import HOSTILE, batch_of, obeys, run

# Own sentences with what each language has of letters that could be taken for traces.
RIGHT = {
    "German": "„Größe“ – das heißt: Übermäßig süße Äpfel kosten 3 € (ca. 5 £); Straße, Maß, Fuß … ÄÖÜ ÜÖÄ. 20 °C, §5, 2×3 ±1.",
    "French": "Voilà… « L’été, à Noël, où l’œuvre naïve a coûté 12 € » — ÇA, C’EST DÉJÀ MARQUÉ… Àéî, ÊTRE OU NE PAS ÊTRE™ ?",
    "Spanish": "¿Qué pasó mañana? ¡Ñandú, pingüino y cigüeña! Nº 5, 1.ª, «así» — AÑO NUEVO, CORAZÓN…",
    "Portuguese": "AMANHÃ À NOITE, CORAÇÃO E PÃO À VENDA; São João não está às três: “ações”, Ã, ã, õ… ÃO, ÕES.",
    "Vietnamese": "Tiếng Việt: Đất nước tôi, “Âm nhạc” và cà phê sữa đá; Ăn quả nhớ kẻ trồng cây… ÂU CƠ, Ô, Ơ, Ư, Á À Ả Ã Ạ.",
    "Polish": "Zażółć gęślą jaźń — „Święta” w Łodzi; ŻÓŁĆ, ŹRÓDŁO… ó™",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy… ŽLUŤOUČKÝ KŮŇ – „Ťuk“.",
    "Swedish": "Åsa åt räksmörgås på Ön… ÅÄÖ Åö; «Æ Ø Å» – Ærø, Ål",
    "Turkish": "Öğüt: “İyi günler”, ÇÖĞÜŞ ıŞık, Â, â î û, hâlâ…",
    "Icelandic": "Það er Ægir; ÞÓR OG ÐAÐI… „Góðan“ Ýmir",
    "Romanian": "Știință și țară – „Împărat”, Â, ÎN CÂMPIE… ă â î",
    "Greek": "Καλημέρα κόσμε… «Ώρα» – 5 €",
    "Russian": "Съешь ещё этих мягких французских булок… «Ёлка» — №5",
    "Japanese": "日本語の文章です。「括弧」とカタカナ、ﾊﾝｶｸ…〜＋５€",
    "Chinese": "中文文本——“引号”、《书名》……１２３",
    "Arabic": "هذا نصٌّ عربيّ، «اقتباس» …",
    "Hindi": "यह हिन्दी का वाक्य है — “उद्धरण”…",
    "emoji": "👩‍💻 ok ✓ 🇩🇪 ™ © ® ½ µ ¼ ß × ÷ ¬ ¦ · º ª",
    "code": "x = 'Ä'; y = \"ö\" # ±×÷ ¬p ∧ q → r ≤ s ≠ t … λx. x²",
}


@pytest.mark.parametrize("language", RIGHT)
def test_right_text_stays_in_one_piece_and_in_pieces(language: str) -> None:
    text = RIGHT[language]
    pieces = [text, text.upper(), text.lower(), *text.split()]
    done = run("mojibake", batch_of(*pieces))
    assert done.changed == [None] * len(pieces)


@pytest.mark.parametrize("language", RIGHT)
@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252"])
def test_what_was_misread_is_read_again(language: str, encoding: str) -> None:
    import ftfy.bad_codecs  # noqa: F401  brings the sloppy encoding, in which all bytes are something

    text = RIGHT[language]
    broken = text.encode().decode(encoding)
    done = run("mojibake", batch_of(broken, f"mixed with plain words, {broken}, in a longer text"))
    assert done.texts == [[text], [f"mixed with plain words, {text}, in a longer text"]]
    assert done.changed == ["UTF-8 read as Latin-1"] * 2


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("cafÃ© â€œquotedâ€\x9d itâ€™s", "café “quoted” it’s"),
        ("Ã¢â‚¬â„¢", "’"),  # twice
        ("Ã  la carte", "à la carte"),  # its no-break space had become a plain one
        ("20Â°C, Â£5", "20°C, £5"),
        ("plain ASCII", "plain ASCII"),
        ("", ""),
    ],
)
def test_repairs(text: str, want: str) -> None:
    assert run("mojibake", batch_of(text)).texts == [[want]]


def test_every_text_and_the_label_are_repaired() -> None:
    done = run(
        "mojibake",
        batch_of(
            [("user", "schÃ¶n"), ("assistant", "GrÃ¶ÃŸe"), ("rejected", "cafÃ©")],
            [("user", "ö"), ("assistant", "ä")],
        ),
    )
    assert done.texts == [["schön", "Größe", "café"], ["ö", "ä"]]
    assert done.batch["label"].to_pylist() == ["Größe", "ä"]
    assert done.counts == {"UTF-8 read as Latin-1": 3}


misread = st.text(max_size=12).map(lambda text: text.encode().decode("latin-1"))


@given(
    st.lists(
        misread | st.text(max_size=12) | st.text("ÃÂâ€™ \xa0©éà\x83…", max_size=12), min_size=1, max_size=4
    )
)
@settings(max_examples=150, deadline=None)
def test_laws(texts: list[str]) -> None:
    obeys("mojibake", [*texts, [("user", texts[0]), ("assistant", texts[-1])]])


def test_hostile_texts() -> None:
    obeys("mojibake", [*HOSTILE, "Ã©" * 300_000, "é… " * 200_000])
