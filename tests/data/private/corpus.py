"""Made-up chats with private data planted in a known number of places, and with ten times as many things that look like it.

rows, planted = chats(2000, seed=1)      rows: (role, content) lists; planted: (row, kind, text)
"""

from __future__ import annotations

import random
import string
import uuid
from itertools import accumulate

from luthier.data.private import checks

Row = list[tuple[str, str]]


class Made:
    """One of each kind, valid; what it writes differs in form."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def digits(self, n: int) -> str:
        return "".join(self.random.choices(string.digits, k=n))

    def pick(self, *of: str) -> str:
        return self.random.choice(of)

    def email(self) -> str:
        name = "".join(self.random.choices(string.ascii_lowercase, k=self.random.randint(3, 9)))
        return self.pick(
            f"{name}@example.com", f"{name.title()}.{name}@mail.firm.co.uk", f"{name}+x9@sub-domain.de"
        )

    def card(self) -> str:
        prefix, length = self.random.choice(
            [("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3528", 16), ("4", 19)]
        )
        body = prefix + self.digits(length - len(prefix) - 1)
        full = next(body + d for d in string.digits if checks.luhn(body + d))
        if length == 15:
            return self.pick(full, f"{full[:4]} {full[4:10]} {full[10:]}")
        return self.pick(
            full,
            " ".join(full[i : i + 4] for i in range(0, length, 4)),
            "-".join(full[i : i + 4] for i in range(0, length, 4)),
        )

    def iban(self) -> str:
        country = self.pick("DE", "FR", "GB", "NL", "ES", "CH", "NO", "MT")
        n = checks.IBAN_LENGTHS[country] - 4
        body = ("ABCD" if country in ("GB", "NL", "MT") else self.digits(4)) + self.digits(n - 4)
        check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
        full = f"{country}{check:02}{body}"
        return self.pick(full, " ".join(full[i : i + 4] for i in range(0, len(full), 4)))

    def ip(self) -> str:
        if self.random.random() < 0.2:
            return f"2a00:1450:{self.random.randint(4096, 65535):x}::{self.random.randint(4096, 65535):x}"
        return f"{self.random.choice([10, 85, 141, 192])}.{self.random.randint(1, 250)}.{self.random.randint(1, 250)}.{self.random.randint(1, 250)}"

    def phone(self) -> str:
        return self.pick(
            f"+49 {self.pick('30', '171', '89')} {self.random.randint(1000000, 9999999)}",
            f"+1 {self.random.randint(201, 210)}-{self.random.randint(320, 410)}-{self.digits(4)}",
            f"({self.random.randint(212, 310)}) {self.random.randint(320, 410)}-{self.digits(4)}",
            f"+33 {self.random.randint(1, 7)} {self.digits(2)} {self.digits(2)} {self.digits(2)} {self.digits(2)}",
        )

    def key(self) -> str:
        letters = string.ascii_letters + string.digits
        some = "".join(self.random.choices(letters, k=40))
        return self.pick(
            "AKIA" + "".join(self.random.choices(string.ascii_uppercase, k=16)),
            "ghp_" + some[:36],
            "sk-proj-" + some,
            "glpat-" + some[:20],
        )

    def national_id(self) -> str:
        kind = self.pick("us", "de", "es", "br", "se", "pl")
        if kind == "us":
            return f"{self.random.randint(100, 665)}-{self.random.randint(10, 99)}-{self.random.randint(1000, 9999)}"
        if kind == "es":
            n = self.digits(8)
            return n + "TRWAGMYFPDXBNJZSQVHLCKE"[int(n) % 23]
        if kind == "br":
            body = self.digits(9)
            for low in (10, 11):
                body += str(-checks.weighted(body, range(low, 1, -1)) % 11 % 10)
            return f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"
        date = f"{self.random.randint(40, 99)}{self.random.randint(1, 12):02}{self.random.randint(1, 28):02}"
        if kind == "se":
            body = date + self.digits(3)
            return next(f"{date}-{body[6:]}{d}" for d in string.digits if checks.luhn(body + d))
        if kind == "pl":
            body = date + self.digits(4)
            return next(
                body + d
                for d in string.digits
                if checks.weighted(body + d, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0
            )
        while True:  # ten digits of which one stands there twice, and a check digit
            some = self.random.sample(string.digits, 9)
            body = [*some, some[0]]
            self.random.shuffle(body)
            if body[0] != "0":
                return next("".join(body) + d for d in string.digits if checks.mod_11_10("".join(body) + d))

    def negative(self) -> str:
        """What no one should find."""
        r = self.random
        isbn = "978" + self.digits(9)
        isbn += str(-checks.weighted(isbn, (1, 3) * 6) % 10)
        return r.choice(
            [
                lambda: f"ISBN {isbn}",
                lambda: f"ISBN {isbn[:3]}-{isbn[3]}-{isbn[4:6]}-{isbn[6:12]}-{isbn[12]}",
                lambda: isbn,
                lambda: str(uuid.UUID(int=r.getrandbits(128), version=4)),
                lambda: f"v{r.randint(0, 20)}.{r.randint(0, 20)}.{r.randint(0, 20)}.{r.randint(0, 200)}",
                lambda: f"version {r.randint(0, 20)}.{r.randint(0, 20)}.{r.randint(0, 20)}.{r.randint(0, 200)}",
                lambda: f"part {r.choice('ABCD')}{self.digits(3)}-{self.digits(5)}-{self.digits(3)}",
                lambda: f"P/N {self.digits(4)}-{self.digits(6)}-{self.digits(2)}",
                lambda: f"ATA {r.randint(5, 80):02}-{r.randint(0, 60):02}-{r.randint(0, 60):02}",
                lambda: f"ATA chapter {r.randint(5, 80):02}-{r.randint(0, 60):02}-{r.randint(0, 60):02}-{self.digits(3)}",
                lambda: f"20{r.randint(10, 25)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}T{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}Z",
                lambda: f"20{r.randint(10, 25)}-{r.randint(1, 12):02}-{r.randint(1, 28):02} {r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}.{self.digits(6)}",
                lambda: f"{r.randint(1, 28):02}.{r.randint(1, 12):02}.20{r.randint(10, 25)} {r.randint(0, 23):02}:{r.randint(0, 59):02}",
                lambda: f"{r.randint(1_500_000_000, 1_800_000_000)}",
                lambda: f"{r.randint(1_500_000_000_000, 1_800_000_000_000)}",
                lambda: f"{r.getrandbits(128):032x}",
                lambda: f"{r.getrandbits(160):040x}",
                lambda: f"sha256:{r.getrandbits(256):064x}",
                lambda: f"order {self.digits(3)}-{self.digits(7)}-{self.digits(7)}",
                lambda: f"order number {self.digits(10)}",
                lambda: f"invoice {self.digits(8)}",
                lambda: f"{r.randint(1, 999)},{self.digits(3)},{self.digits(3)}.{self.digits(2)} EUR",
                lambda: f"{r.randint(10, 900)} {self.digits(3)} {self.digits(3)} km",
                lambda: f"127.0.0.1:{r.randint(1000, 9999)}",
                lambda: f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}",
                lambda: f"aa:bb:{r.getrandbits(8):02x}:{r.getrandbits(8):02x}:{r.getrandbits(8):02x}:0f",
                lambda: f"0x{r.getrandbits(64):016x}",
                lambda: f"{r.random():.12f}",
                lambda: f"logo@2x.png and @user{self.digits(3)}",
                lambda: f"MSN {self.digits(5)}, S/N {self.digits(10)}",
            ]
        )()  # fmt: skip


def words(random_: random.Random, cumulative: list[float], vocabulary: list[str], n: int) -> list[str]:
    some = random_.choices(vocabulary, cum_weights=cumulative, k=n)
    return [w + ("." if i % 12 == 11 else "," if i % 7 == 5 else "") for i, w in enumerate(some)]


def chats(
    n: int, seed: int, share: float = 0.06, negatives: float = 0.6
) -> tuple[list[Row], list[tuple[int, str, str]], int]:
    """(rows of about 1.1 KB, what was planted, how many negatives there are)"""
    made = Made(seed)
    r = made.random
    vocabulary = ["".join(r.choices("etaoinshrdlucmfwypvbgk", k=r.randint(2, 10))) for _ in range(30_000)]
    cumulative = list(accumulate(1 / (i + 5) for i in range(30_000)))
    rows: list[Row] = []
    planted = []
    count = 0
    for row in range(n):
        turns = [
            words(r, cumulative, vocabulary, r.randint(40, 140)),
            words(r, cumulative, vocabulary, r.randint(30, 110)),
        ]
        if r.random() < negatives:
            for _ in range(r.randint(1, 2)):
                turn = r.choice(turns)
                turn.insert(r.randrange(len(turn)), made.negative() + r.choice(["", ".", ","]))
                count += 1
        if r.random() < share:
            kind = r.choice(["email", "card", "iban", "ip", "phone", "key", "national_id"])
            text = getattr(made, kind)()
            turn = r.choice(turns)
            turn.insert(r.randrange(len(turn)), text + r.choice(["", ".", ","]))
            planted.append((row, kind, text))
        rows.append([("user", " ".join(turns[0])), ("assistant", " ".join(turns[1]))])
    return rows, planted, count
