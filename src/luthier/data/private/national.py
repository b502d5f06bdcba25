"""Numbers that states give to people, one row each: how they are written, how they are checked, what they are called.

A layout is how digits are grouped ("3-2-4"); a pattern is for those with letters. A layout that ends in "?" is too weak
to stand alone (nine digits with one check digit hold by chance once in ten) and counts only where its name is near.
Written from the states' own descriptions; tests compare with another implementation.

Not here: numbers of companies, passports and driving licences (they have no check that one can know).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .checks import article, is_date, luhn, mod_11_10, verhoeff, weighted


@dataclass(frozen=True)
class National:
    """`check` takes digits and letters without what stands between, in upper case; `names` is a regular expression."""

    country: str
    names: str
    check: Callable[[str], bool]
    layouts: str = ""
    pattern: str | None = None
    needs_name: bool = False
    checked: bool = True


def _us(d: str) -> bool:
    return d[:3] not in ("000", "666") and d[0] != "9" and d[3:5] != "00" and d[5:] != "0000"


def _de(d: str) -> bool:
    repeats = sorted(d[:10].count(digit) for digit in set(d[:10]))
    once = repeats[:-1] == [1] * (len(repeats) - 1)
    triple = repeats[-1] == 3 and any(digit * 3 in d[:10] for digit in set(d[:10]))
    return d[0] != "0" and once and repeats[-1] in (2, 3) and not triple and mod_11_10(d)


def _fr(d: str) -> bool:
    month = int(d[3:5])
    if not (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) or d[0] not in "12":
        return False
    number = d[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(d[13:])


def _es(d: str) -> bool:
    number = d[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == d[-1]


_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2 + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def _it(d: str) -> bool:
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in d[1:15:2])
    return chr(65 + (even + sum(_ODD[c] for c in d[0:15:2])) % 26) == d[15]


def _nl(d: str) -> bool:
    return int(d) > 0 and weighted(d, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _be(d: str) -> bool:
    month = int(d[2:4]) % 20
    return (
        is_date(2000, month, int(d[4:6]))
        and int(d[2:4]) < 60
        and int(d[9:]) in (97 - int(d[:9]) % 97, 97 - int("2" + d[:9]) % 97 if d[:2] < "50" else -1)
    )


def _se(d: str) -> bool:
    if len(d) == 12 and d[:2] not in ("18", "19", "20"):
        return False
    d = d[-10:]
    return is_date(2000, int(d[2:4]), (int(d[4:6]) - 1) % 60 + 1) and int(d[4:6]) <= 91 and luhn(d)


def _fi(d: str) -> bool:
    day, month = int(d[:2]), int(d[2:4])
    number = d[:6] + d[-4:-1]
    return (
        is_date(2000, month, day)
        and 2 <= int(d[-4:-1]) <= 899
        and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number) % 31] == d[-1]
    )


def _pl(d: str) -> bool:
    month = int(d[2:4])
    year = (1900 if month <= 12 else 2000) + int(d[:2])
    return (
        month <= 32
        and is_date(year, month % 20, int(d[4:6]))
        and (weighted(d, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1))) % 10 == 0
    )


def _br(d: str) -> bool:
    if len(set(d)) == 1:
        return False
    first = -weighted(d, range(10, 1, -1)) % 11 % 10
    second = -weighted(d, range(11, 1, -1)) % 11 % 10
    return d[9:] == f"{first}{second}"


_REGIONS = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 91".split()  # noqa: SIM905
)


def _cn(d: str) -> bool:
    return (
        d[:2] in _REGIONS
        and d[6:8] in ("19", "20")
        and is_date(int(d[6:10]), int(d[10:12]), int(d[12:14]))
        and "10X98765432"[weighted(d, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)) % 11] == d[17]
    )


def _in(d: str) -> bool:
    return d[0] not in "01" and d != d[::-1] and verhoeff(d)


def _nhs(d: str) -> bool:
    return weighted(d, range(10, 1, -1)) % 11 == -int(d[9]) % 11 and len(set(d)) > 1


def _nino(d: str) -> bool:
    return d[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def _ch(d: str) -> bool:
    return d.startswith("756") and article(d)


def _no(d: str) -> bool:
    day, month = (int(d[:2]) - 1) % 40 + 1, (int(d[2:4]) - 1) % 40 + 1
    return (
        is_date(2000, month, day)
        and weighted(d, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and weighted(d, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def _dk(d: str) -> bool:
    return is_date(2000, int(d[2:4]), int(d[:2]))


def _pt(d: str) -> bool:
    rest = weighted(d, range(9, 1, -1)) % 11
    return d[0] in "123" and int(d[8]) == (0 if rest < 2 else 11 - rest)


def _at(d: str) -> bool:
    return (
        d[0] != "0"
        and is_date(2000, (int(d[6:8]) - 1) % 12 + 1, int(d[4:6]))
        and int(d[6:8]) <= 15
        and weighted(d, (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)) % 11 == int(d[3])
    )


def _ca(d: str) -> bool:
    return d[0] not in "08" and luhn(d)


def _au(d: str) -> bool:
    return int(d) > 0 and weighted(d, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _za(d: str) -> bool:
    return is_date(2000, int(d[2:4]), int(d[4:6])) and d[10] in "012" and luhn(d)


def _kr(d: str) -> bool:
    return (
        d[6] in "12345678"
        and is_date(2000, int(d[2:4]), int(d[4:6]))
        and (11 - weighted(d, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10 == int(d[12])
    )


def _tr(d: str) -> bool:
    odd, even = sum(map(int, d[0:9:2])), sum(map(int, d[1:8:2]))
    return d[0] != "0" and (odd * 7 - even) % 10 == int(d[9]) and sum(map(int, d[:10])) % 10 == int(d[10])


def _ro(d: str) -> bool:
    county = int(d[7:9])
    if d[0] not in "12345678" or not is_date(2000, int(d[3:5]), int(d[5:7])):
        return False
    rest = weighted(d, (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return (1 <= county <= 48 or county in (51, 52, 70, 80, 81, 82, 83)) and int(d[12]) == (
        1 if rest == 10 else rest
    )


def _cz(d: str) -> bool:
    month = int(d[2:4]) % 50
    month = month - 20 if month > 20 else month
    fits = int(d) % 11 == 0 or (int(d[:9]) % 11 == 10 and d[9] == "0")
    return is_date(2000, month, int(d[4:6])) and fits


def _bg(d: str) -> bool:
    return (
        is_date(2000, int(d[2:4]) % 20, int(d[4:6]))
        and int(d[2:4]) < 60
        and weighted(d, (2, 4, 8, 5, 10, 9, 7, 3, 6)) % 11 % 10 == int(d[9])
    )


def _baltic(d: str) -> bool:
    check = weighted(d, (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)) % 11
    if check == 10:
        check = weighted(d, (3, 4, 5, 6, 7, 8, 9, 1, 2, 3)) % 11 % 10
    return d[0] in "12345678" and is_date(2000, int(d[3:5]), int(d[5:7])) and check == int(d[10])


def _cl(d: str) -> bool:
    check = 11 - sum(int(c) * (2 + n % 6) for n, c in enumerate(reversed(d[:-1]))) % 11
    return int(d[:-1]) >= 1_000_000 and d[-1] == {11: "0", 10: "K"}.get(check, str(check))


def _ar(d: str) -> bool:
    check = 11 - weighted(d, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return d[:2] in ("20", "23", "24", "27") and int(d[10]) == {11: 0, 10: 9}.get(check, check)


def _jp(d: str) -> bool:
    rest = weighted(d, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return int(d[11]) == (0 if rest <= 1 else 11 - rest)


def _th(d: str) -> bool:
    return d[0] != "0" and (11 - weighted(d, range(13, 1, -1)) % 11) % 10 == int(d[12])


def _il(d: str) -> bool:
    return int(d) > 0 and luhn(d)


def _ie(d: str) -> bool:
    total = weighted(d, (8, 7, 6, 5, 4, 3, 2)) + (9 * ((ord(d[8]) - 64) % 23) if len(d) == 9 else 0)
    return "WABCDEFGHIJKLMNOPQRSTUV"[total % 23] == d[7]


def _sg(d: str) -> bool:
    total = weighted(d[1:8], (2, 7, 6, 5, 4, 3, 2)) + (4 if d[0] in "TG" else 0)
    return ("JZIHGFEDCBA" if d[0] in "ST" else "XWUTRQPNMLK")[total % 11] == d[8]


def _hk(d: str) -> bool:
    letters = [ord(c) - 55 for c in d[:-7]]
    letters = [36, *letters] if len(letters) == 1 else letters
    last = 10 if d[-1] == "A" else int(d[-1])
    return (weighted(d[-7:-1], range(7, 1, -1)) + letters[0] * 9 + letters[1] * 8 + last) % 11 == 0


_TW = "ABCDEFGHJKLMNPQRSTUVXYWZIO"  # in the order of their values, which begin at 10


def _tw(d: str) -> bool:
    value = _TW.index(d[0]) + 10
    return (value // 10 + value % 10 * 9 + weighted(d[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


_MX = "0123456789ABCDEFGHIJKLMN\u00d1OPQRSTUVWXYZ"


def _mx(d: str) -> bool:
    total = sum(_MX.index(c) * (18 - n) for n, c in enumerate(d[:17]))
    return is_date(2000, int(d[6:8]), int(d[8:10])) and -total % 10 == int(d[17])


NATIONAL = (
    National("US", r"ssn|social.security|soc\.? ?sec", _us, "3-2-4, 3 2 4?, 9?", checked=False),
    National("DE", r"steuer|idnr|\btin\b", _de, "11, 2 3 3 3"),
    National("FR", r"\bnir\b|s[ée]curit[ée] sociale|insee|num[ée]ro de s[ée]cu", _fr, "15, 13 2, 1 2 2 2 3 3 2"),
    National("FR", r"\bnir\b|s[ée]curit[ée] sociale|insee", _fr,
             pattern=r"[12] ?[0-9]{2} ?[0-9]{2} ?2[AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    National("ES", r"\bdni\b|\bnif\b|\bnie\b", _es,
             pattern=r"(?:[0-9]{8}|[0-9]{2}\.[0-9]{3}\.[0-9]{3}|[XYZ][- ]?[0-9]{7})[- ]?[A-HJ-NP-TV-Z]"),
    National("IT", r"codice fiscale|\bc\.?f\.?\b", _it,
             pattern=r"[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"),
    National("NL", r"\bbsn\b|burgerservice|\bsofi-?(?:nummer)?\b", _nl, "9?, 3 3 3?, 4 2 3?, 4.2.3?, 3.3.3?"),
    National("BE", r"rijksregister|registre national|\binsz\b|\bniss\b", _be, "11, 2.2.2-3.2, 2.2.2.3.2, 6-3-2, 6 3 2?, 2 2 2 3 2?"),
    National("SE", r"personn(?:umme)?r|samordningsn", _se, "6-4, 8-4, 12, 10?"),
    National("FI", r"henkil[öo]tunnus|hetu|personbeteckning", _fi, pattern=r"[0-9]{6}[-+ABCDEFUVWXY][0-9]{3}[0-9A-FHJ-NPR-Y]"),
    National("PL", r"pesel", _pl, "11"),
    National("BR", r"\bcpf\b", _br, "3.3.3-2, 3.3.3.2?, 9-2, 3 3 3 2?, 11?"),
    National("CN", r"身份证|公民身份", _cn, "18, 6 8 4", pattern=r"[1-9][0-9]{16}X"),
    National("IN", r"aadhaa?r|uidai|आधार", _in, "4 4 4, 4-4-4, 12?"),
    National("GB", r"\bnhs\b", _nhs, "3 3 4?, 3-3-4?, 10?"),
    National("GB", r"\bnino?\b|national insurance|\bni (?:no|number)", _nino, checked=False,
             pattern=r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] [0-9]{2} [0-9]{2} [0-9]{2} [A-D]"),
    National("GB", r"\bnino?\b|national insurance|\bni (?:no|number)", _nino, checked=False, needs_name=True,
             pattern=r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][0-9]{6}[A-D]"),
    National("CH", r"\bahv|\bavs\b", _ch, "3.4.4.2, 13, 3 4 4 2?"),
    National("NO", r"f[øo]dselsn|personnummer|d-nummer", _no, "11, 6 5"),
    National("DK", r"\bcpr\b|personnummer", _dk, "6-4?, 10?", checked=False),
    National("PT", r"\bnif\b|contribuinte", _pt, "9?, 3 3 3?"),
    National("AT", r"\bsvnr\b|sozialversicherung|\bsv[- ]?nummer", _at, "4 6?, 4-6?, 10?"),
    National("CA", r"\bsin (?:no|num|#)|\bsin:|social insurance", _ca, "3-3-3?, 3 3 3?, 9?"),
    National("AU", r"\btfn\b|tax file", _au, "9?, 3 3 3?"),
    National("ZA", r"\bid\b", _za, "13, 6 4 3, 6 4 2 1"),
    National("KR", r"주민등록|resident registration|\brrn\b", _kr, "6-7, 13?"),
    National("TR", r"\btckn\b|kimlik|\bt\.?c\.?\b", _tr, "11?"),
    National("RO", r"\bcnp\b", _ro, "13"),
    National("CZ", r"rodn[éeá]", _cz, "6/4, 10?"),
    National("BG", r"\begn\b|егн", _bg, "10?"),
    National("HR", r"\boib\b", mod_11_10, "11?"),
    National("EE/LT", r"isikukood|asmens kodas", _baltic, "11"),
    National("CL", r"\brut\b", _cl, "2.3.3-1, 1.3.3-1, 8-1?, 7-1?"),
    National("CL", r"\brut\b", _cl, pattern=r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[Kk]"),
    National("AR", r"\bcui[lt]\b", _ar, "2-8-1, 11?"),
    National("JP", r"マイナンバー|個人番号|my ?number", _jp, "4 4 4?, 4-4-4?, 12?"),
    National("TH", r"บัตรประชาชน|thai id", _th, "1-4-5-2-1, 1 4 5 2 1, 13?"),
    National("IL", r"teudat|תעודת|ת\.ז", _il, "9?"),
    National("IE", r"\bpps\b|\bppsn\b", _ie, pattern=r"[0-9]{7}[A-W][A-IW]?", needs_name=True),
    National("SG", r"\bnric\b|\bfin\b", _sg, pattern=r"[STFG][0-9]{7}[A-Z]"),
    National("HK", r"\bhkid\b|身份證", _hk, pattern=r"[A-Z]{1,2}[0-9]{6}\([0-9A]\)"),
    National("TW", r"身分證|身份證|roc id", _tw, pattern=r"[A-Z][1289][0-9]{8}", needs_name=True),
    National("MX", r"\bcurp\b", _mx, pattern=r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]"),
)  # fmt: skip

ANY_NAME = (
    r"national id|id card|identity card|ausweis|citizen (?:id|no|num|service)"
    r"|(?:identity|identification|insurance|personal|tax|id) (?:id\b|no\b|nr\b|num)"
)
"""What people call any of them."""
