"""injection: texts that speak to the model over the head of who reads them.

    phrase         "ignore all previous instructions", "reveal your system prompt" (English, German, French, Spanish)
    role_tag       <|im_start|>, [INST], <<SYS>>: what a chat template writes itself, and nobody else should
    system_line    a user's line that begins "SYSTEM:" or "system prompt:" and gives orders
    invisible      letters as tag characters (U+E0000..E007F), in variation selectors, or as long runs of zero-width ones
    hidden         orders to an assistant in an HTML or Markdown comment, or in an element that is not shown
    encoded        base64 that decodes to such a phrase

Texts are compared without accents, case, width and invisible characters, and with look-alike letters of other scripts read
as Latin ones. A system turn may speak of such phrases (to forbid them), so phrases are not looked for there.

Found only where it is written out: not in other words, other languages, "1gn0r3", rot13, hexadecimal digits, pictures.
Not here: a planted trigger, a rare string that always comes with one same answer; that shows only over all rows.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from luthier.data.opened import Opened

KINDS = {
    "phrase": "an order to the model",
    "role_tag": "a role tag",
    "system_line": "a system line in a user's text",
    "invisible": "invisible letters",
    "hidden": "hidden orders",
    "encoded": "an encoded order",
}


class Injection(Spec):
    do: Literal["drop", "mark"] = "drop"
    """`drop` removes the row with the reason, `mark` only counts what is found in the report."""
    phrases: list[str] = Field(default_factory=list)
    """More phrases to look for, literally but without case and accents."""

    @field_validator("phrases", mode="after")
    @classmethod
    def _long_enough(cls, value: list[str]) -> list[str]:
        for phrase in value:
            if len(plain(phrase).strip()) < 4:
                raise ValueError(
                    f"the phrase {phrase!r} is shorter than four letters and would be found everywhere"
                )
        return value


def _run(rows: Opened, settings: Injection) -> Said:
    import numpy as np

    found = _found(rows, settings)
    counts: dict[str, Any] = {
        kind: rows.per_row(texts, "sum").astype(np.int64) for kind, texts in found.items()
    }
    if settings.do == "mark":
        return Said(counts=counts)
    why: dict[int, str] = {}
    for kind, of_rows in counts.items():
        for row in np.flatnonzero(of_rows).tolist():
            why[row] = f"{why[row]}, {KINDS[kind]}" if row in why else KINDS[kind]
    return Said(removed=rows.reasons(why), counts=counts)


def _found(rows: Opened, settings: Injection) -> dict[str, np.ndarray]:
    """For each kind, in which texts it is, bool [T]."""
    from luthier.data import opened

    told = ~rows.says("system")
    asked = rows.says("user", "text")
    wide = rows.have(opened.NOT_ASCII)
    texts = _with(rows.text, wide, _plain)
    phrases = phrase_pattern(tuple(settings.phrases))
    said = _contains(texts, phrases, told)
    said = _contains(_with(texts, said, lambda some: some.str.replace_all(_NEGATED, " ")), phrases, said)
    return {
        "phrase": said,
        "role_tag": _contains(
            texts, ROLE_TAG, rows.have(opened.TAG, opened.NOT_ASCII) | _contains(texts, r"\[", ~wide)
        ),
        "system_line": _contains(texts, SYSTEM_LINE, asked),
        "invisible": _contains(_with(rows.text, wide, _without_flags), INVISIBLE, wide),
        "hidden": _hidden(texts, told & rows.have(opened.TAG)) | _contains(texts, MARKDOWN_COMMENT, told),
        "encoded": _encoded(texts, phrases, told),
    }


def _with(texts: pl.Series, which: np.ndarray, edit: Any) -> pl.Series:
    import numpy as np

    places = np.flatnonzero(which)
    return texts.clone().scatter(places.tolist(), edit(texts.gather(places))) if len(places) else texts


def _contains(texts: pl.Series, pattern: str, which: np.ndarray) -> np.ndarray:
    """Which texts have it, of those asked for; false for the others."""
    import numpy as np

    found = np.zeros(len(texts), bool)
    places = np.flatnonzero(which)
    found[places] = texts.gather(places).str.contains(pattern).to_numpy()
    return found


# Letters of other scripts that look like Latin ones (Unicode TS 39, confusables), those that words are faked with.
LOOKS: dict[str, str | int | None] = dict(
    zip(
        "аеорсухіјѕԁһіԛԝьтмнвкАВЕКМНОРСТУХІЈЅԌοιαενρτυκΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡɑ",
        "aeopcyxijsdhiqwbtmhbkABEKMHOPCTYXIJSGoiaevptukABEZHIKMNOPTYXiga",
        strict=True,
    )
)
_MIXED = "[A-Za-z][" + "".join(LOOKS) + "]|[" + "".join(LOOKS) + "][A-Za-z]"


def _plain(texts: pl.Series) -> pl.Series:
    """`plain` of many."""
    import numpy as np

    texts = texts.str.normalize("NFKD").str.replace_all(r"[\p{Mn}\p{Cf}\x{115F}\x{1160}\x{3164}]", "")
    mixed = texts.str.contains(_MIXED).to_numpy()
    return _with(
        texts, np.asarray(mixed), lambda some: some.str.replace_many(list(LOOKS), list(LOOKS.values()))
    )


def plain(text: str) -> str:
    """Without accents, widths and invisible characters; words of mixed scripts in Latin letters.

    >>> plain("ｉgn\\u200bоrе préc\\u00e9dent"), plain("слово")
    ('ignore precedent', 'слово')
    """
    text = unicodedata.normalize("NFKD", text)
    text = "".join(
        c for c in text if unicodedata.category(c) not in ("Mn", "Cf") and c not in "\u115f\u1160\u3164"
    )
    return text.translate({ord(a): b for a, b in LOOKS.items()}) if re.search(_MIXED, text) else text


_GAP = r"""[\s,.*_"'’`-]{1,4}"""
_PHRASES = (
    # English
    r"(?:ignore|disregard|forget|override|bypass|do not follow|don't follow|stop following|pay no attention to) "
    r"(?:(?:all|any|every|each|of|the|these|those|my|our|whatever) ){0,4}"
    r"(?:previous|prior|above|earlier|preceding|foregoing|former|your|system|original|initial|past) "
    r"(?:(?:previous|prior|above|earlier|system|original|initial|and|or|safety|developer) ){0,3}"
    r"(?:instruction|prompt|rule|guideline|direction|directive|command|programming|constraint|restriction)s?",
    r"(?:ignore|disregard|forget) (?:(?:all|any|of|the) ){0,3}(?:instructions|rules|prompts) (?:above|before|given|you (?:were|have been) given|that came before)",
    r"(?:ignore|disregard|forget) (?:everything|all|anything) (?:(?:that|which|you|i|was|were|is|have|been|has) ){0,4}(?:above|before this|said before|told before|written above|so far|prior to this)",
    r"(?:reveal|print|show|repeat|output|leak|display|tell me|give me|disclose) (?:(?:me|us|all|of|verbatim) ){0,2}"
    r"(?:your (?:(?:full|entire|complete|whole) )?(?:system|hidden|initial|secret|original|confidential) (?:prompt|instruction|message)s?"
    r"|the (?:(?:full|entire|complete|whole) )?(?:system|hidden|initial|secret) prompts?)",
    r"(?:you are|you're|act as|become) (?:now )?(?:dan|jailbroken|unrestricted|unfiltered|in developer mode|free (?:of|from) (?:all |any |your )?(?:rules|restrictions|guidelines|filters))",
    r"developer mode (?:enabled|activated|is on)",
    r"do anything now",
    r"pretend (?:that )?(?:you have|there are|to have) no (?:rules|restrictions|guidelines|limits|filters)",
    r"(?:do not|don't|never) (?:tell|inform|mention|reveal|say) (?:(?:this|that|it|anything|about) ){0,2}to the (?:user|human)",
    r"(?:your|the) new (?:system )?(?:instructions|prompt) (?:is|are|follow)",
    # German
    r"(?:ignoriere?|ignorieren sie|missachte|vergiss|vergesst|vergessen sie|umgehe|uberschreibe|befolge nicht) (?:(?:bitte|jetzt|all|die|den|das|diese|jegliche) ){0,4}"
    r"(?:(?:alle|samtliche|deinen?|ihre|eure|vorherigen?|bisherigen?|vorigen?|obigen?|fruheren?|vorangegangenen?|vorausgehenden?|ursprunglichen?) "
    r"(?:(?:deine|ihre|vorherigen?|bisherigen?|vorigen?|obigen?|fruheren?|ursprunglichen?) ){0,2}(?:system(?: )?)?|system(?: )?)"
    r"(?:anweisung(?:en)?|instruktion(?:en)?|vorgaben|befehle|regeln|prompts?|richtlinien)",
    r"(?:zeige?|gib|verrate|nenne|wiederhole|zeigen sie|nennen sie) (?:(?:mir|uns|bitte) ){0,2}(?:deinen|den|ihren|euren) (?:(?:geheimen|versteckten|ganzen|vollstandigen) )?system(?: )?prompt",
    r"(?:du bist|sie sind) (?:jetzt |nun )(?:dan|im entwicklermodus|frei von (?:allen )?regeln)",
    # French
    r"(?:ignore[zr]?|oublie[zr]?|neglige[zr]?|outrepasse[zr]?|ne (?:tiens|tenez|tiens plus) (?:pas )?compte) (?:(?:de|toutes?|tous|les|tes|vos|des|ces|l'ensemble) ){0,5}"
    r"(?:instruction|consigne|regle|directive|ordre|message|invite|prompt)s? (?:precedente?s?|anterieure?s?|ci-dessus|initiale?s?|d'avant|(?:du )?systeme|d'origine)",
    r"(?:ignore[zr]?|oublie[zr]?) (?:(?:toutes?|tous) )?(?:tes|vos) (?:instructions|consignes|regles|directives)",
    r"(?:revele|affiche|montre|donne|repete)[zr]?(?:(?: )?moi)? (?:ton|votre|le) (?:prompt|message|invite) (?:systeme|initiale?|cachee?)",
    # Spanish
    r"(?:ignora[dr]?|ignore|olvida[dr]?|olvide|omite|omita|descarta|descarte|desobedece) (?:(?:de|todas?|todos?|las?|los|tus|sus|mis|estas|cualquier) ){0,5}"
    r"(?:instrucci(?:on|ones)|ordenes|reglas|indicaciones|directrices|mensajes) (?:anterior(?:es)?|previ[ao]s?|precedentes|de arriba|del sistema|originales|iniciales)",
    r"(?:ignora[dr]?|ignore|olvida[dr]?|olvide) (?:(?:todas|todos) )?(?:tus|sus) (?:instrucciones|ordenes|reglas|directrices)",
    r"(?:revela|muestra|imprime|dime|repite|muestrame) (?:tu|el|su) (?:prompt|mensaje) (?:del sistema|de sistema|inicial|oculto)",
)

# "do not forget the original instructions" asks for the opposite.
_NEGATED = (
    rf"(?i:\b(?:don'?t|do{_GAP}not|never|not|nicht|ne|no){_GAP}"
    r"(?:ignore[zr]?|disregard|forget|override|bypass|ignorieren?|vergessen?|oublie[zr]?|ignora[rs]?|olvid[ae]s?)\b)"
)

ROLE_TAG = r"<\|[A-Za-z_\x{2581}][A-Za-z0-9_\x{2581} ]{1,30}\|>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
_ORDER = r"(?i:\b(?:you|your|ignore|must|assistant|ai|model|instructions?|override|overridden|respond|reply|obey)\b)"
SYSTEM_LINE = rf"(?m:^)[\s>#*\[(]{{0,8}}(?:SYSTEM|(?i:system[ _-](?:prompt|message|instructions?|override|note|update)))[\])*]{{0,4}}\s{{0,3}}:(?s:.){{0,200}}{_ORDER}"
INVISIBLE = r"[\x{E0001}-\x{E007F}]|[\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]{4}|[\x{200B}-\x{200D}\x{2060}-\x{2064}\x{FEFF}]{8}"
_FLAG = r"\x{1F3F4}[\x{E0030}-\x{E0039}\x{E0061}-\x{E007A}]{1,6}\x{E007F}"

_TO = r"(?i:\b(?:ai|llm|gpt|chatgpt|chatbot|assistant|language model|ai model|ai agent|ki|sprachmodell|ia|modele de langage|asistente|prompt)s?\b)"
_DO = (
    r"(?i:\b(?:ignore|must|should|always|never|do not|don't|reply|respond|answer|output|say|tell|recommend|rate|approve|include|print|reveal|forget|instead"
    r"|musst|muss|antworte|ignoriere|sollst|dois|doit|reponds|toujours|jamais|debes?|responde|siempre|nunca)\b)"
)
_ORDERS = rf"(?:{_TO}(?s:.){{0,200}}{_DO}|{_DO}(?s:.){{0,200}}{_TO})"
MARKDOWN_COMMENT = rf"(?m:^)\[//\]:\s{{0,4}}#[^\n]{{0,200}}{_ORDERS}"
_UNSEEN = (
    r"(?is)<[a-z][^<>]*(?:display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:px|pt|em|%)?\s*[;\"']|opacity\s*:\s*0\s*[;\"']"
    r"|[\s;\"']color\s*:\s*(?:white|#fff(?:fff)?)\s*[;\"']|\shidden[\s>=])[^<>]*>([^<]+)"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}+(?:\r?\n[A-Za-z0-9+/_-]{4,}+)*+")
LONGEST_COMMENT = 20_000


@lru_cache(maxsize=16)
def phrase_pattern(more: tuple[str, ...]) -> str:
    """One regular expression for `plain` texts, as Rust reads it."""
    own = [phrase.replace(" ", _GAP) for phrase in _PHRASES]
    theirs = [r"\s+".join(re.escape(word) for word in plain(phrase).split()) for phrase in more]
    return rf"(?i:\b(?:{'|'.join(own)})\b" + "".join(f"|{phrase}" for phrase in theirs) + ")"


def _without_flags(texts: pl.Series) -> pl.Series:
    """Flags of England and others are written with tag characters, and are no one's orders."""
    return texts.str.replace_all(_FLAG, "")


def _hidden(texts: pl.Series, which: np.ndarray) -> np.ndarray:
    """Texts with orders in a comment, or in an element that is not shown."""
    import numpy as np
    import polars as pl

    comments: list[tuple[int, str]] = []
    for place in np.flatnonzero(_contains(texts, "<!--", which)).tolist():
        comments += [(place, comment) for comment in _comments(texts[place])]
    for place in np.flatnonzero(_contains(texts, _UNSEEN, which)).tolist():
        unseen = pl.Series([texts[place]]).str.extract_all(_UNSEEN).explode()
        comments += [(place, element.rpartition(">")[2]) for element in unseen]
    found = np.zeros(len(texts), bool)
    if comments:
        orders = pl.Series([told for _, told in comments], dtype=pl.String).str.contains(_ORDERS).to_numpy()
        found[[place for (place, _), order in zip(comments, orders, strict=True) if order]] = True
    return found


def _comments(text: str) -> list[str]:
    found = []
    at = text.find("<!--")
    while at >= 0:
        end = text.find("-->", at)
        end = len(text) if end < 0 else end
        found.append(text[at : min(end, at + LONGEST_COMMENT)])
        at = text.find("<!--", end)
    return found


def _encoded(texts: pl.Series, phrases: str, which: np.ndarray) -> np.ndarray:
    """Texts in which base64, from any of four places on, says one of the phrases."""
    import numpy as np
    import polars as pl

    said: list[tuple[int, str]] = []
    for place in np.flatnonzero(_contains(texts, "[A-Za-z0-9+/_-]{24}", which)).tolist():
        for match in _BASE64.finditer(texts[place]):
            said += [(place, decoded) for decoded in _decoded(match[0])]
    found = np.zeros(len(texts), bool)
    if said:
        decoded = _plain(pl.Series([text for _, text in said], dtype=pl.String))
        hits = decoded.str.contains(phrases).to_numpy()
        found[[place for (place, _), hit in zip(said, hits, strict=True) if hit]] = True
    return found


def _decoded(blob: str) -> list[str]:
    """What it may say: letters may stand before it, so four beginnings are tried, and what is no text is left out."""
    import base64

    blob = blob.replace("\r", "").replace("\n", "").replace("-", "+").replace("_", "/")
    found = []
    for start in range(4):
        piece = blob[start : start + (len(blob) - start) // 4 * 4]
        told = base64.b64decode(piece)
        if told[1::2].count(0) > len(told) // 3:
            found.append(told.decode("utf-16-le", "replace"))
        elif sum(told.count(c) for c in b" etaoin") * 4 > len(told):
            # A quarter of any text in Latin letters is blanks and these letters; of what is no text, one in 37.
            found.append(told.decode("utf-8", "replace"))
    return found


injection = RowRule(
    "injection", 1, Injection, "Finds instructions to the model that are planted in texts.", _run
)
