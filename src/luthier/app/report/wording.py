"""Numbers and text as people read them.

`visible` is the page's guard: nothing is printed that has not been through it. Characters that steer the display
(control characters, direction overrides, characters without width) are shown by their number, so a row of data
looks like what it is. Escaping for HTML is not here; the template and the charts do it.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from luthier.core.units import Money, show_bytes, show_seconds
from luthier.evaluation.spec import METRICS
from luthier.evaluation.systems import described

MINUS = "−"
LONGEST = 700

_SHORT = {"base_3shot": "base, 3 examples", "tfidf": "TF-IDF"}
_LOOKS = ("tuned", "base", "base_3shot", "tfidf")

# Joiners are part of how some scripts and emoji are written.
_JOINERS = "\u200c\u200d"


def system(name: str) -> str:
    """What a system is called in tables.

    >>> system("tuned"), system("base_3shot"), system("gpt")
    ('tuned', 'base, 3 examples', 'gpt')
    """
    return _SHORT.get(name, name)


def system_long(name: str) -> str:
    """What a system is called inside a sentence.

    >>> system_long("base"), system_long("production"), system_long("router@2")
    ('the base model', 'the release in use', 'router@2')
    """
    return described(name)


def look(name: str) -> str:
    """The colour and shape of a system: its own, or that of all others."""
    return name if name in _LOOKS else "other"


def visible(text: str) -> str:
    """`text` with everything that steers the display written out.

    >>> visible("a\\u202eb\\x00c\\n"), visible("caf\\u00e9 \\u05d0")
    ('a⟨U+202E⟩b⟨U+0000⟩c\\n', 'café א')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _harmless(c) else f"⟨U+{ord(c):04X}⟩" for c in text)


def _harmless(char: str) -> bool:
    if char in "\n\t" or char in _JOINERS:
        return True
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


def clip(text: str, longest: int = LONGEST) -> str:
    """The beginning of a long text, with what is left out counted.

    >>> clip("abcdefgh", 5)
    'abcde … (3 more characters)'
    """
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def shorten(text: str, longest: int) -> str:
    """A label that must fit.

    >>> shorten("apache-2.0", 6), shorten("mit", 6)
    ('apach…', 'mit')
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def signed(value: float, decimals: int = 2) -> str:
    """
    >>> signed(0.614), signed(-0.0312, 3), signed(0.001)
    ('+0.61', '−0.031', '0.00')
    """
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+") + text


def number(value: float) -> str:
    """A measured number without false digits.

    >>> number(1234567.0), number(42), number(3.14159), number(0.000213), number(-2.5)
    ('1,234,567', '42', '3.142', '0.000213', '−2.5')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: MINUS + "∞"}.get(value, "not a number")
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 or size == int(size) else f"{size:.4g}"
    if "e" in text and size >= 1e-9:
        text = f"{size:.{2 - math.floor(math.log10(size))}f}"
    return MINUS + text if value < 0 else text


def score(metric: str, value: float | None, decimals: int = 3) -> str:
    """A metric's value: shares with fixed decimals, perplexity and errors by their size.

    >>> score("macro_f1", 0.8312), score("perplexity", 1234.6), score("perplexity", 2.3456), score("macro_f1", None)
    ('0.831', '1,235', '2.35', 'not measured')
    >>> score("mae", 0.01234)
    '0.0123'
    """
    if value is None or not math.isfinite(value):
        return "not measured" if value is None else number(value)
    if metric in METRICS and not METRICS[metric].share:
        size = abs(value)
        text = (
            f"{size:,.0f}"
            if size >= 100
            else f"{size:.1f}"
            if size >= 10
            else f"{size:.2f}"
            if size >= 1
            else f"{size:.3g}"
        )
        return MINUS + text if value < 0 else text
    return f"{value:.{decimals}f}".replace("-", MINUS)


def spoken(metric: str) -> str:
    """What a metric is called inside a sentence."""
    return {"macro_f1": "macro-F1", "precision_macro": "macro precision", "recall_macro": "macro recall"}.get(metric, title(metric))  # fmt: skip


def title(metric: str) -> str:
    """What a metric is called; its own key for one that the table does not know."""
    return METRICS[metric].title if metric in METRICS else shorten(metric, 40)


def higher_is_better(metric: str) -> bool:
    return METRICS[metric].higher_is_better if metric in METRICS else True


def percent(share: float) -> str:
    """
    >>> percent(0.95), percent(0.123), percent(-0.08)
    ('95 %', '12 %', '−8 %')
    """
    return f"{abs(share) * 100:.0f} %" if share >= 0 else f"{MINUS}{abs(share) * 100:.0f} %"


def money(value: Any) -> str:
    """From [amount, currency].

    >>> money([0.0313, "USD"]), money([0.000021, "USD"]), money(None)
    ('0.03 USD', '0.000021 USD', 'not known')
    """
    return str(Money(float(value[0]), str(value[1]))) if value else "not known"


def money_exactly(value: Any) -> str:
    """With three digits where cents would hide a difference.

    >>> money_exactly([0.02514, "USD"]), money_exactly([12.5, "EUR"])
    ('0.0251 USD', '12.50 EUR')
    """
    small = value and 0.001 <= value[0] < 1
    return f"{value[0]:.3g} {value[1]}" if small else money(value)


def seconds(value: float | None) -> str:
    return "not known" if value is None else show_seconds(value)


def size(value: float | None) -> str:
    return "not known" if value is None else show_bytes(value)


def join(words: list[str]) -> str:
    """
    >>> join(["a"]), join(["a", "b"]), join(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def settings(spec: Any) -> str:
    """A part's settings in one line, without those that are not set.

    >>> settings({"kind": "lora", "rank": 16, "alpha": None, "dora": False}), settings(None)
    ('rank: 16, dora: false', '')
    """
    if not isinstance(spec, dict):
        return "" if spec is None else str(spec)
    told = {key: value for key, value in spec.items() if value is not None and key != "kind"}
    return ", ".join(f"{key}: {_setting(value)}" for key, value in told.items())


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{settings(value)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_setting, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
