"""Private data, secrets, and what only looks like them: made-up values, right in every check digit that their kind has.

    VALUES   kind -> (how sure a finder can be, how to make one, how a sentence says it)
    DECOYS   kind -> (how to make one, how a sentence says it): nothing private; to find one is a mistake

How sure: `checksum` (a check digit proves it), `pattern` (its form tells), `prefix` (secrets that begin with a mark),
`context` (only the words beside it tell), `name` (only knowledge of names tells). Values are drawn at random and belong
to nobody but by chance.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
DIGITS, UPPER = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOWER = UPPER.lower()
BASE62 = DIGITS + UPPER + LOWER
T = TypeVar("T")


def mix(z: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


class Dice:
    """Draws that follow from a seed and a row, on any machine and under any version of anything."""

    def __init__(self, seed: int, row: int) -> None:
        self._state = mix((seed * GOLDEN + row) & MASK) ^ 0x5DEECE66D

    def draw(self) -> int:
        self._state = (self._state + GOLDEN) & MASK
        return mix(self._state)

    def below(self, n: int) -> int:
        return self.draw() % n

    def between(self, least: int, most: int) -> int:
        return least + self.draw() % (most - least + 1)

    def share(self) -> float:
        return self.draw() / 2**64

    def choice(self, some: Sequence[T]) -> T:
        return some[self.draw() % len(some)]

    def text(self, letters: str, n: int) -> str:
        return "".join(letters[self.draw() % len(letters)] for _ in range(n))

    def digits(self, n: int) -> str:
        return self.text(DIGITS, n)

    def number(self, n: int) -> str:
        """Of n digits, the first of them not 0."""
        return self.text(DIGITS[1:], 1) + self.digits(n - 1)


def luhn(digits: str) -> str:
    """The digit that makes the sum of Luhn's rule a multiple of ten.

    >>> luhn("453201511283036")
    '6'
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        n = int(digit) * (2 - place % 2)
        total += n - 9 if n > 9 else n
    return str(-total % 10)


def weighted(digits: str, weights: Sequence[int], modulus: int) -> int:
    return sum(int(a) * w for a, w in zip(digits, weights, strict=True)) % modulus


FIRST_NAMES = """
Maria James Aylin Piotr Chiara Duc Fatima Lars Ingrid Carlos Mei Oliver Sanne Rafael Amara Yusuf Elena Tom Noor Jakub
Hannah Luca Priya Mateo Sofia Ahmed Claire Bjorn Keiko Zanele
"""
LAST_NAMES = """
Schmidt Okafor Nguyen Rossi Kowalski Yilmaz Andersson Dubois Garcia Tanaka Murphy deVries Novak Silva Haddad Larsen
Fischer Moreau Jansen Petrov Bianchi Walker Ibrahim Costa Lindqvist Weber Quinn Romero Sato Botha
"""
HOUSE_NAMES = "bright stone river north alpen blue iron maple silver harbor cedar delta green polar orchid"
TRADE_NAMES = (
    "freight tools energy books clinic bikes foods optics travel glass motors textiles data labs supply"
)
FIRST, LAST, HOUSES, TRADES = (told.split() for told in (FIRST_NAMES, LAST_NAMES, HOUSE_NAMES, TRADE_NAMES))
ENDS = ("com", "org", "net", "de", "co.uk", "fr", "io", "eu")


def person(dice: Dice) -> str:
    return f"{dice.choice(FIRST)} {dice.choice(LAST)}"


def email(dice: Dice) -> str:
    first, last = dice.choice(FIRST).lower(), dice.choice(LAST).lower()
    name = dice.choice(
        (f"{first}.{last}", f"{first[0]}{last}", f"{last}_{dice.digits(2)}", f"{first}+{dice.choice(TRADES)}")
    )
    return f"{name}@{dice.choice(('', '', 'mail.'))}{dice.choice(HOUSES)}-{dice.choice(TRADES)}.{dice.choice(ENDS)}"


def phone(dice: Dice) -> str:
    area, middle, line = f"{dice.between(201, 989)}", f"{dice.between(200, 999)}", dice.digits(4)
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"({area}) {middle}-{line}",
        lambda: f"+1 {area}-{middle}-{line}",
        lambda: f"+1-{area}-{middle}-{line}",
        lambda: f"+49 {dice.choice(('30', '40', '89', '221', '711'))} {dice.number(7)}",
        lambda: f"+44 20 {dice.number(4)} {dice.digits(4)}",
        lambda: (
            f"+33 {dice.between(1, 9)} {dice.digits(2)} {dice.digits(2)} {dice.digits(2)} {dice.digits(2)}"
        ),
        lambda: f"+31 6 {dice.number(8)}",
        lambda: f"+90 5{dice.digits(2)} {dice.digits(3)} {dice.digits(2)} {dice.digits(2)}",
    )
    return dice.choice(forms)()


def card(dice: Dice) -> str:
    begin, n = dice.choice((("4", 16), ("4", 16), ("5" + str(dice.between(1, 5)), 16), ("37", 15)))
    digits = begin + dice.digits(n - len(begin) - 1)
    digits += luhn(digits)
    between = dice.choice((" ", "-", ""))
    cuts = (0, 4, 10, 15) if n == 15 else (0, 4, 8, 12, 16)
    return between.join(digits[a:b] for a, b in pairwise(cuts))


def iban(dice: Dice) -> str:
    bank = {"DE": 18, "AT": 16, "CH": 17, "ES": 20, "FR": 23, "NL": 10, "GB": 14}
    country = dice.choice(list(bank))
    letters = (
        dice.choice(("ABNA", "INGB", "RABO")) if country == "NL" else dice.choice(("NWBK", "BARC", "LOYD"))
    )
    account = (letters if country in ("NL", "GB") else "") + dice.digits(bank[country])
    return _iban(country, account, dice.choice((True, True, False)))


def _iban(country: str, account: str, spaced: bool, wrong: int = 0) -> str:
    moved = "".join(str(int(c, 36)) for c in account + country + "00")
    check = (98 - int(moved) % 97 + wrong - 1) % 97 + 1 if wrong else 98 - int(moved) % 97
    told = f"{country}{check:02d}{account}"
    return " ".join(told[i : i + 4] for i in range(0, len(told), 4)) if spaced else told


def ipv4(dice: Dice) -> str:
    first = dice.choice([n for n in range(1, 224) if n not in (10, 100, 127, 169, 172, 192, 198, 203)])
    return f"{first}.{dice.below(256)}.{dice.below(256)}.{dice.between(1, 254)}"


def ipv6(dice: Dice) -> str:
    return (
        "2a0"
        + str(dice.between(0, 9))
        + ":"
        + ":".join(f"{dice.between(0x1000, 0xFFFF):x}" for _ in range(7))
    )


def us_ssn(dice: Dice) -> str:
    area = dice.choice([*range(1, 666), *range(667, 900)])
    return f"{area:03d}-{dice.between(1, 99):02d}-{dice.between(1, 9999):04d}"


def de_tax_id(dice: Dice) -> str:
    """Eleven digits; of the first ten one occurs twice, and the last is ISO 7064's Mod 11,10."""
    first = list(DIGITS)
    for place in range(9, 0, -1):
        other = dice.below(place + 1)
        first[place], first[other] = first[other], first[place]
    if first[0] == "0":
        first[0], first[1] = first[1], first[0]
    twice = dice.between(1, 8)
    first[twice + 1] = first[0] if first[0] != first[twice] else first[1]
    product = 10
    for digit in first:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    told = "".join(first) + str((11 - product) % 10)
    return told if dice.below(2) else f"{told[:2]} {told[2:5]} {told[5:8]} {told[8:]}"


def es_dni(dice: Dice) -> str:
    n = dice.between(10_000_000, 99_999_999)
    return f"{n}{'TRWAGMYFPDXBNJZSQVHLCKE'[n % 23]}"


def nl_bsn(dice: Dice) -> str:
    while True:
        digits = dice.number(8)
        if (check := weighted(digits, range(9, 1, -1), 11)) < 10:
            return digits + str(check)


def fr_nir(dice: Dice) -> str:
    department = dice.choice([n for n in range(1, 96) if n != 20])
    digits = f"{dice.between(1, 2)}{dice.between(40, 99)}{dice.between(1, 12):02d}{department:02d}"
    digits += f"{dice.between(1, 989):03d}{dice.between(1, 999):03d}"
    key = f"{97 - int(digits) % 97:02d}"
    return (
        f"{digits[0]} {digits[1:3]} {digits[3:5]} {digits[5:7]} {digits[7:10]} {digits[10:13]} {key}"
        if dice.below(2)
        else digits + key
    )


def pl_pesel(dice: Dice) -> str:
    digits = f"{dice.between(40, 99)}{dice.between(1, 12):02d}{dice.between(1, 28):02d}{dice.digits(4)}"
    return digits + str(-weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), 10) % 10)


def br_cpf(dice: Dice) -> str:
    digits = dice.number(9)
    for n in (10, 11):
        digits += str((11 - weighted(digits, range(n, 1, -1), 11)) % 11 % 10)
    return f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"


def uk_nino(dice: Dice) -> str:
    digits = dice.digits(6)
    told = f"{dice.choice('ABCEGHJKLMPRSTWXYZ')}{dice.choice('ABCEGHJKLMPRSTWXZ')} {digits[:2]} {digits[2:4]} {digits[4:]} {dice.choice('ABCD')}"
    return f"JA{told[2:]}" if told[:2] in ("GB", "KN", "TN", "NT", "ZZ", "BG", "NK") else told


def github_token(dice: Dice) -> str:
    """Its last six letters are the checksum of the thirty before them."""
    body = dice.text(BASE62, 30)
    n, check = zlib.crc32(body.encode()), ""
    for _ in range(6):
        n, rest = divmod(n, 62)
        check = BASE62[rest] + check
    return f"ghp_{body}{check}"


def private_key(dice: Dice) -> str:
    lines = [dice.text(BASE62 + "+/", 64) for _ in range(dice.between(4, 8))]
    kind = dice.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY"))
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])


def web_token(dice: Dice) -> str:
    def part(told: str) -> str:
        return base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")

    claims = f'{{"sub":"{dice.number(9)}","exp":17{dice.digits(8)}}}'
    return f"{part(chr(123) + chr(34) + 'alg' + chr(34) + ':' + chr(34) + 'HS256' + chr(34) + chr(125))}.{part(claims)}.{dice.text(BASE62 + '-_', 43)}"


def password(dice: Dice) -> str:
    return (
        dice.text(LOWER, 3) + dice.choice("!$%*") + dice.digits(3) + dice.text(UPPER, 3) + dice.choice("?#")
    )


Maker = Callable[[Dice], str]
VALUES: dict[str, tuple[str, Maker, tuple[str, ...]]] = {
    "email": ("pattern", email, ("You can write to me at {} if that is easier.", "Please copy {} on the answer, thanks.")),
    "phone": ("pattern", phone, ("Call me on {} after five.", "My new number is {}.")),
    "card": ("checksum", card, ("The card I paid with is {}.", "Please charge {} and send the receipt.")),
    "iban": ("checksum", iban, ("Refund it to {} please.", "Our account is {}, as on the invoice.")),
    "ipv4": ("pattern", ipv4, ("The requests come from {} every night.", "It says connection refused by {}.")),
    "ipv6": ("pattern", ipv6, ("The router shows {} as our address.",)),
    "us_ssn": ("pattern", us_ssn, ("My social security number is {}.", "SSN {} is on the form.")),
    "de_tax_id": ("checksum", de_tax_id, ("Meine Steuer-ID is {}, as you asked.", "The German tax ID is {}.")),
    "es_dni": ("checksum", es_dni, ("My DNI is {}.", "The Spanish identity card says {}.")),
    "nl_bsn": ("checksum", nl_bsn, ("My BSN is {}.", "The Dutch citizen service number (BSN) is {}.")),
    "fr_nir": ("checksum", fr_nir, ("My French social security number is {}.", "Numéro de sécurité sociale: {}.")),
    "pl_pesel": ("checksum", pl_pesel, ("My PESEL is {}.",)),
    "br_cpf": ("checksum", br_cpf, ("My CPF is {}.", "The invoice goes to CPF {}.")),
    "uk_nino": ("pattern", uk_nino, ("My National Insurance number is {}.",)),
    "aws_key": ("prefix", lambda dice: "AKIA" + dice.text(UPPER + "234567", 16), ("The access key is {}.", "It fails with AWS_ACCESS_KEY_ID={} set.")),
    "github_token": ("checksum", github_token, ("I pushed with {} by mistake.", "The build uses the token {}.")),
    "openai_key": ("prefix", lambda dice: "sk-proj-" + dice.text(BASE62, 48), ("The client has {} in its settings.",)),
    "slack_token": ("prefix", lambda dice: f"xoxb-{dice.number(12)}-{dice.number(12)}-{dice.text(BASE62, 24)}", ("The bot's token is {}.",)),
    "stripe_key": ("prefix", lambda dice: "sk_live_" + dice.text(BASE62, 24), ("Payments run with {}.",)),
    "google_key": ("prefix", lambda dice: "AIza" + dice.text(BASE62 + "-_", 35), ("The map is loaded with {}.",)),
    "private_key": ("prefix", private_key, ("This is the key that we use:\n{}\nIt worked yesterday.",)),
    "web_token": ("prefix", web_token, ("The header has Bearer {} in it.",)),
    "password": ("context", password, ("My password: {} does not work.", "I set password={} in the file.")),
    "url_password": ("context", lambda dice: dice.text(BASE62, 14), ("It connects to postgresql://reports:{}@db4.north.internal:5432/sales and hangs.",)),
    "person": ("name", person, ("My name is {} and I ordered twice.", "Ask for {} at the desk.")),
}  # fmt: skip


def isbn(dice: Dice) -> str:
    digits = "978" + dice.digits(9)
    digits += str(-weighted(digits, (1, 3) * 6, 10) % 10)
    return f"{digits[:3]}-{digits[3]}-{digits[4:8]}-{digits[8:12]}-{digits[12]}" if dice.below(2) else digits


def no_card(dice: Dice) -> str:
    digits = "4" + dice.digits(14)
    return digits + str((int(luhn(digits)) + dice.between(1, 9)) % 10)


def no_iban(dice: Dice) -> str:
    return _iban("DE", dice.digits(18), True, wrong=dice.between(1, 90))


def moment(dice: Dice) -> str:
    return f"20{dice.between(10, 29)}-{dice.between(1, 12):02d}-{dice.between(1, 28):02d}T{dice.below(24):02d}:{dice.below(60):02d}:{dice.below(60):02d}Z"


def uuid(dice: Dice) -> str:
    told = dice.text("0123456789abcdef", 32)
    return "-".join((told[:8], told[8:12], "4" + told[13:16], "a" + told[17:20], told[20:]))


DECOYS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "isbn": (isbn, ("The manual has ISBN {}.",)),
    "version": (lambda dice: f"{dice.choice(('v', 'version ', 'release '))}{dice.below(20)}.{dice.below(30)}.{dice.below(99)}.{dice.below(250)}", ("It runs on {} now.",)),
    "uuid": (uuid, ("The request id is {}.",)),
    "part": (lambda dice: f"{dice.text(UPPER, 2)}-{dice.digits(4)}-{dice.digits(4)}-{dice.digits(2)}", ("Part number {} is out of stock.",)),
    "chapter": (lambda dice: f"ATA {dice.between(20, 80)}-{dice.between(10, 99)}-{dice.between(10, 99)}", ("See {} for the procedure.",)),
    "moment": (moment, ("The log stops at {} each time.",)),
    "order": (lambda dice: f"20{dice.between(10, 29)}{dice.between(1, 12):02d}{dice.between(1, 28):02d}-{dice.digits(5)}", ("Order {} has not arrived.",)),
    "local": (lambda dice: dice.choice(("127.0.0.1", "0.0.0.0", "::1", "localhost:8080")), ("It listens on {} only.",)),  # noqa: S104
    "commit": (lambda dice: dice.text("0123456789abcdef", 40), ("It broke with commit {}.",)),
    "place": (lambda dice: f"{dice.below(80)}.{dice.digits(5)}, {dice.below(170)}.{dice.digits(5)}", ("The sensor stands at {}.",)),
    "money": (lambda dice: f"{dice.between(1, 9)},{dice.digits(3)},{dice.digits(3)}.{dice.digits(2)}", ("The total was {} euros.",)),
    "no_card": (no_card, ("The tracking number is {}.",)),
    "no_iban": (no_iban, ("The form refuses {} as mistyped.",)),
    "doi": (lambda dice: f"10.{dice.digits(4)}/j.{dice.text(LOWER, 5)}.{dice.digits(4)}.{dice.digits(2)}.{dice.digits(3)}", ("It is described in doi {}.",)),
    "time": (lambda dice: f"{dice.below(24):02d}:{dice.below(60):02d}:{dice.below(60):02d}.{dice.digits(3)}", ("The step took {} in all.",)),
    "handle": (lambda dice: f"@{dice.choice(FIRST).lower()}{dice.digits(2)}", ("Thanks to {} for the hint.",)),
    "markup": (lambda dice: dice.choice(("a < b and b > c", "Vec<u8>", "AT&T", "x <- 3", "if (i<n && n>0)")), ("We wrote {} in the report.",)),
}  # fmt: skip
