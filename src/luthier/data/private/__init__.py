"""What is private in a text, where it stands, and what to write in its place. Nothing here needs a network or a model.

    text ─▶ readable ─▶ candidates ──────────────────────────────▶ settle ─▶ spans ─▶ masks
            (odd forms   email, ip     find                        (checked beats      pseudonyms
             of digits,  card, phone   numbers, phones, cards       pattern, longer
             invisible   national ids  national, checks             beats shorter)
             characters) keys          secrets

    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle
    settle(candidates("mail to jo@firm.com", frozenset({"email"})))     # one span, [8, 19)

Not here: names of people and postal addresses, which need a model (a plug-in of kind "ner"), and the rule itself
(rules/redact).
"""

from collections.abc import Iterable

KINDS = ("email", "phone", "card", "iban", "ip", "key", "national_id")
"""What can be found, in the order in which a tie is decided and things are listed."""

WORDS = {
    "all": KINDS,
    "personal": tuple(kind for kind in KINDS if kind != "key"),
    "pii": tuple(kind for kind in KINDS if kind != "key"),
    "secrets": ("key",),
}
"""Words for several kinds at once; `pii` is what many call `personal`."""


def kinds_of(words: Iterable[str]) -> list[str]:
    """The kinds that these words name, in the order of KINDS.

    >>> kinds_of(["secrets", "email"])
    ['email', 'key']
    """
    wanted = {kind for word in words for kind in WORDS.get(word, (word,))}
    return [kind for kind in KINDS if kind in wanted]
