"""What is done to a good row: small edits that make a near duplicate, and the junk that real data is full of.

    edited    3 to 10 % of the words replaced, left out or put in, one by one or as a phrase
    folded    the same words in other case or with other blanks
    JUNK      kind -> how a row gets it

Rows are lists of turns; each turn is (role, sentences). Junk may change anything, so it gives finished messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from sentences import Sentences, words
from values import Dice

Turn = tuple[str, list[str]]
Messages = list[tuple[str, str]]
LEAST_EDITED, MOST_EDITED = 0.03, 0.10
SHINGLE = 3


def plain(turns: Sequence[Turn]) -> Messages:
    return [(role, " ".join(texts)) for role, texts in turns]


def shingles(messages: Messages) -> set[tuple[str, ...]]:
    """Three words in a row of what user and assistant say, in no case across two turns; all of a row's words where it has
    fewer. System messages are left out: many rows share them."""
    told = [words(text) for role, text in messages if role != "system"]
    found: set[tuple[str, ...]] = set()
    for one in told:
        found.update(zip(one, one[1:], one[2:], strict=False))
    return found or {tuple(word for one in told for word in one)}


def jaccard(one: Messages, other: Messages) -> float:
    """Of the word 3-shingles of both.

    >>> jaccard([("user", "a b c d")], [("user", "A b c, e")])
    0.3333333333333333
    """
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def edited(messages: Messages, vocabulary: Sequence[str], dice: Dice) -> Messages:
    """The system message stays as it is."""
    first = [one for one in messages if one[0] == "system"]
    messages = messages[len(first) :]
    told = [text.split(" ") for _, text in messages]
    n = sum(map(len, told))
    share = LEAST_EDITED + (MOST_EDITED - LEAST_EDITED) * dice.share()
    wanted = max(1, round(share * n))
    run = 1 if dice.below(2) else wanted  # one by one, or as one phrase
    while wanted > 0:
        some = told[_weighted([len(one) for one in told], dice)]
        at = dice.below(len(some))
        for place in range(at, min(at + min(run, wanted), len(some))):
            some[place] = _edit(some[place], vocabulary, dice)
            wanted -= 1
        run = min(run, wanted)
    return [
        *first,
        *((role, " ".join(filter(None, some))) for (role, _), some in zip(messages, told, strict=True)),
    ]


def _edit(word: str, vocabulary: Sequence[str], dice: Dice) -> str:
    kind, other = dice.below(100), dice.choice(vocabulary)
    if kind < 15 and word:
        return ""
    return f"{word} {other}" if kind < 30 else other


def _weighted(sizes: Sequence[int], dice: Dice) -> int:
    at = dice.below(sum(sizes))
    for place, size in enumerate(sizes):
        if at < size:
            return place
        at -= size
    raise AssertionError("below the sum")


def folded(messages: Messages, dice: Dice) -> Messages:
    r"""
    >>> folded([("user", "Good day")], Dice(0, 0))
    [('user', '  Good day\n')]
    """
    how: Callable[[str], str] = dice.choice(
        (_upper, str.lower, lambda text: text.replace(" ", "  "), lambda text: f"  {text}\n", lambda text: text.replace(". ", ".\n"))
    )  # fmt: skip
    return [(role, how(text)) for role, text in messages]


def _upper(text: str) -> str:
    """Letters that have no single capital, as ß, would be other letters when they are small again."""
    return text.upper() if text.isascii() else text.lower()


def mojibake(turns: Sequence[Turn], _pool: Sentences, _dice: Dice) -> Messages:
    """UTF-8 that somebody read as Windows-1252. Typographic signs are put in first, so that there is something to break."""
    return [(role, read_wrongly(text)) for role, text in spelled(plain(turns))]


def spelled(messages: Messages) -> Messages:
    """With the signs that a word processor writes.

    >>> spelled([("user", "It's a cafe - open")])
    [('user', 'It’s a café – open')]
    """
    signs = (("'", "’"), (" - ", " – "), ("cafe", "café"))
    told = []
    for role, text in messages:
        for sign, other in signs:
            text = text.replace(sign, other)
        told.append((role, text.replace(". ", ".\u00a0", 1)))
    return told


def read_wrongly(text: str) -> str:
    """
    >>> read_wrongly("It’s a café")
    'Itâ€™s a cafÃ©'
    """
    return "".join(_byte(b) for b in text.encode())


def _byte(value: int) -> str:
    one = bytes([value])
    try:
        return one.decode("cp1252")
    except UnicodeDecodeError:  # five bytes that it has no letter for
        return one.decode("latin-1")


def html(turns: Sequence[Turn], _pool: Sentences, dice: Dice) -> Messages:
    """Pieces of a page, with its tags and entities."""
    forms = (
        lambda texts: "<p>" + "</p>\n<p>".join(texts) + "</p>",
        lambda texts: "<div class=\"post\">" + "<br/>".join(texts) + "</div>",
        lambda texts: "<ul><li>" + "</li><li>".join(texts) + "</li></ul>",
        lambda texts: "<style>p {color: red}</style><span style='font-size:12px'>" + "&nbsp;".join(texts) + "</span>",
        lambda texts: "<script>track(1);</script>" + " ".join(f"<b>{text}</b>" for text in texts),
        lambda texts: "<i>" + " ".join(texts).replace("'", "&#39;").replace('"', "&quot;").replace(", ", ",&nbsp;") + "</i><br>",
        lambda texts: f"<a href=\"/page?id={dice.digits(3)}&amp;x=1\">{texts[0]}</a> " + " ".join(texts[1:]),
    )  # fmt: skip
    form = dice.choice(forms)
    return [(role, form(texts) if role != "system" else texts[0]) for role, texts in turns]


def control(turns: Sequence[Turn], _pool: Sentences, dice: Dice) -> Messages:
    """Characters that nobody sees or wants, in the middle of words."""
    signs = ("\x00", "\x07", "\x1b[31m", "\u200b", "\ufeff", "\u202e", "\x08", "\u00ad")

    def spoilt(text: str) -> str:
        for _ in range(dice.between(1, 6)):
            at = dice.below(len(text))
            text = text[:at] + dice.choice(signs) + text[at:]
        return text

    return [(role, spoilt(text)) for role, text in plain(turns)]


def repetition(turns: Sequence[Turn], _pool: Sentences, dice: Dice) -> Messages:
    """An answer that goes round in circles: a sentence, a line, a few words or one word, again and again."""
    role, texts = turns[-1]
    sentence = texts[0]
    few = " ".join(sentence.split()[: dice.between(2, 5)])
    forms = (
        " ".join([sentence] * dice.between(8, 20)),
        "\n".join([sentence] * dice.between(8, 20)),
        " ".join([few] * dice.between(20, 60)),
        sentence + " " + " ".join([sentence.split()[0]] * dice.between(40, 120)),
        sentence + " " + dice.choice("!?ao") * dice.between(80, 400),
    )
    return [*plain(turns[:-1]), (role, dice.choice(forms))]


def symbols(turns: Sequence[Turn], _pool: Sentences, dice: Dice) -> Messages:
    """An answer that is no text but signs."""
    role, _ = turns[-1]
    signs = dice.choice(("~^#|_{}[]<>=+*/%$\\;:", "▓▒░█■□◆●"))
    return [*plain(turns[:-1]), (role, dice.text(signs, dice.between(120, 400)))]


def language(turns: Sequence[Turn], pool: Sentences, dice: Dice) -> Messages:
    """All of it in French or in Spanish."""
    theirs = dice.choice((pool.french, pool.spanish))
    return [(role, " ".join(dice.choice(theirs) for _ in texts)) for role, texts in turns if role != "system"]


def empty(turns: Sequence[Turn], _pool: Sentences, dice: Dice) -> Messages:
    told = plain(turns)
    places = [place for place, (role, _) in enumerate(told) if role != "system"]
    place = dice.choice(places)
    told[place] = (told[place][0], dice.choice(("", "   ", "\n\n\t", "\u00a0")))
    return told


def order(turns: Sequence[Turn], pool: Sentences, dice: Dice) -> Messages:
    """Somebody speaks out of turn. The last form has no answer, so that it cannot even be read as a conversation."""
    told = [one for one in plain(turns) if one[0] != "system"]
    user, assistant = told[0], told[1]
    extra = ("user", dice.choice(pool.chat))
    forms: tuple[Messages, ...] = (
        [assistant, user, *told[1:]],
        [user, extra, *told[1:]],
        [user, assistant, ("assistant", dice.choice(pool.english)), *told[2:]],
        [*told, extra],
    )
    return dice.choice(forms)


JUNK: dict[str, Callable[[Sequence[Turn], Sentences, Dice], Messages]] = {
    one.__name__: one for one in (mojibake, html, control, repetition, symbols, language, empty, order)
}


def place(texts: list[str], sentence: str, dice: Dice) -> None:
    """Put a sentence between others, before them or after."""
    texts.insert(dice.below(len(texts) + 1), sentence)


def consecutive(text: str, least: int, dice: Dice) -> str:
    """At least so many words in a row of a text that has them."""
    told = text.split()
    n = dice.between(least, min(len(told), 3 * least))
    at = dice.below(len(told) - n + 1)
    return " ".join(told[at : at + n])


def boundaries(shares: Sequence[tuple[str, int]]) -> Iterator[tuple[int, int, str]]:
    """(from, below, name) of consecutive shares.

    >>> list(boundaries([("a", 2), ("b", 3)]))
    [(0, 2, 'a'), (2, 5, 'b')]
    """
    ends = [0]
    for _, share in shares:
        ends.append(ends[-1] + share)
    for (low, high), (name, _) in zip(pairwise(ends), shares, strict=True):
        yield low, high, name
