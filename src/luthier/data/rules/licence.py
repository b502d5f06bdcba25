"""licence: only rows of sources whose licence is on the list. A source whose licence nobody wrote down is not on it.

    allow: [MIT, Apache-2.0, CC-BY-4.0]        sources: {manuals: CC-BY-4.0, forum: MIT OR GPL-3.0-only}

A licence is an SPDX expression (SPDX 3.0, annex on licence expressions): names joined by AND (all hold), OR (one may be
chosen) and WITH (an exception, which only permits more). A source is allowed when, for one choice, everything that holds is
covered by what is allowed; an entry of `allow` with AND covers those names together only.

Not here: what a licence says, and licences of single rows (a filter on a column does that).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from luthier.core.errors import did_you_mean
from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    from luthier.data.opened import Opened

Choice = frozenset[str]
"""Names that hold together. Where an expression leaves a choice there are several."""
MOST_CHOICES = 256
LONGEST = 1000


class Licence(Spec):
    allow: list[str] = Field(min_length=1)
    """The licences that may be used, as SPDX names or expressions such as `Apache-2.0 OR MIT`."""
    sources: dict[str, str] = Field(min_length=1)
    """The licence of each source by the source's name; rows of other sources are removed, as theirs is not known."""

    @field_validator("allow", mode="after")
    @classmethod
    def _allowed(cls, value: list[str]) -> list[str]:
        for one in value:
            if any(name in ("NONE", "NOASSERTION") for choice in choices(one) for name in choice):
                raise ValueError(
                    f"{one!r} says that there is no licence, or none that is known; leave it out"
                )
        return value

    @field_validator("sources", mode="after")
    @classmethod
    def _licences(cls, value: dict[str, str]) -> dict[str, str]:
        for name, licence in value.items():
            try:
                choices(licence)
            except ValueError as error:
                raise ValueError(f"the licence of {name!r}: {error}") from None
        return value


def _run(rows: Opened, settings: Licence) -> Said:
    import pyarrow.compute as pc

    names = rows.column("source")
    why = {name: refusal(name, settings) for name in pc.unique(names).to_pylist()}
    told = {row: why[name] for row, name in enumerate(names.to_pylist()) if why[name]}
    return Said(removed=rows.reasons({row: str(reason) for row, reason in told.items()}))


def refusal(source: str | None, settings: Licence) -> str | None:
    """Why rows of this source must go, or None."""
    licence = settings.sources.get(source or "")
    if licence is None:
        return f"the licence of the source {source!r} is not known"
    if is_allowed(licence, settings.allow):
        return None
    return f"the source {source!r} is under {licence}, which is not allowed"


def is_allowed(licence: str, allow: list[str]) -> bool:
    """
    >>> is_allowed("MIT OR GPL-3.0-only", ["MIT"]), is_allowed("MIT AND GPL-3.0-only", ["MIT"])
    (True, False)
    >>> is_allowed("MIT AND BSD-3-Clause", ["BSD-3-Clause AND MIT"]), is_allowed("MIT", ["MIT AND BSD-3-Clause"])
    (True, False)
    >>> is_allowed("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"]), is_allowed("NOASSERTION", ["MIT"])
    (True, False)
    """
    granted = [choice for entry in allow for choice in choices(entry)]
    for wanted in choices(licence):
        covered = {name for name in wanted if any(choice <= _forms(name) for choice in granted)}
        covered |= {name for choice in granted if choice <= wanted for name in choice}
        if covered == wanted:
            return True
    return False


def _forms(name: str) -> Choice:
    """The names that grant as much: without an exception, and of several versions the one that is named."""
    bare = name.partition(" WITH ")[0]
    one = bare.removesuffix("+").removesuffix("-or-later")
    return frozenset({name, bare} | ({one, f"{one}-only"} if one != bare else set()))


def choices(expression: str) -> list[Choice]:
    """What may be chosen, each as the names that then hold. Raises ValueError with the place or the nearest names.

    >>> [sorted(choice) for choice in choices("(mit OR Zlib) AND ISC")]
    [['ISC', 'MIT'], ['ISC', 'Zlib']]
    """
    if len(expression) > LONGEST:
        raise ValueError(f"a licence of {len(expression)} characters; at most {LONGEST} are read")
    parser = _Parser(expression)
    found = parser.either()
    if parser.word is not None:
        raise ValueError(f"{expression!r} goes on with {parser.word!r} where AND, OR or the end is expected")
    return found


class _Parser:
    """Recursive descent: either := both (OR both)*, both := one (AND one)*, one := "(" either ")" | name [WITH name]."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._tokens = re.findall(r"[()]|[^\s()]+", expression)
        self._at = self._depth = 0

    @property
    def word(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *words: str) -> bool:
        taken = self.word is not None and self.word.upper() in words
        self._at += taken
        return taken

    def either(self) -> list[Choice]:
        found = self._both()
        while self._take("OR"):
            found = self._few([*found, *self._both()])
        return found

    def _both(self) -> list[Choice]:
        found = self._one()
        while self._take("AND"):
            more = self._one()
            found = self._few([a | b for a in found for b in more])
        return found

    def _one(self) -> list[Choice]:
        if self._take("("):
            self._depth += 1
            if self._depth > 40:
                raise ValueError(f"{self.expression[:60]!r}... has more than 40 brackets inside each other")
            found = self.either()
            if not self._take(")"):
                raise ValueError(f"{self.expression!r} lacks a closing bracket")
            self._depth -= 1
            return found
        word = self.word
        if word is None or word in "()" or word.upper() in ("AND", "OR", "WITH"):
            there = "ends" if word is None else f"has {word!r}"
            raise ValueError(
                f"{self.expression!r} {there} where a licence's name is expected, as in 'MIT OR ISC'"
            )
        self._at += 1
        name = licence_name(word)
        if self._take("WITH"):
            exception, self._at = self.word, self._at + 1
            name = f"{name} WITH {_exception_name(exception or '')}"
        return [frozenset([name])]

    def _few(self, found: list[Choice]) -> list[Choice]:
        found = list(dict.fromkeys(found))
        if len(found) > MOST_CHOICES:
            raise ValueError(
                f"{self.expression[:60]!r}... leaves more than {MOST_CHOICES} choices; write it shorter"
            )
        return found


def licence_name(token: str) -> str:
    """The name as SPDX spells it. Raises ValueError for one that is not known.

    >>> licence_name("apache-2.0"), licence_name("GPL-2.0+"), licence_name("LicenseRef-Our-Terms")
    ('Apache-2.0', 'GPL-2.0-or-later', 'LicenseRef-Our-Terms')
    """
    if re.fullmatch(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+", token) or token in (
        "NONE",
        "NOASSERTION",
    ):
        return token
    plus = token.endswith("+")
    known = _spelling()
    name = _OLD.get(token.lower()) or known.get(token.lower())
    if name is None and plus:
        name = _OLD.get(token[:-1].lower()) or known.get(token[:-1].lower())
        if name is not None:
            later = name.removesuffix("-only") + "-or-later"
            return later if later in LICENCES else name + "+"
    if name is None:
        near = did_you_mean(token, list(LICENCES))
        hint = (
            near
            if near.startswith("did")
            else "write its SPDX name, or LicenseRef-NAME for terms of your own"
        )
        raise ValueError(f"there is no licence {token!r} in the list; {hint}")
    return name


def _exception_name(token: str) -> str:
    for name in EXCEPTIONS:
        if name.lower() == token.lower():
            return name
    raise ValueError(f"there is no exception {token!r} in the list; {did_you_mean(token, list(EXCEPTIONS))}")


@lru_cache(maxsize=1)
def _spelling() -> dict[str, str]:
    return {name.lower(): name for name in LICENCES}


# Names of the SPDX License List that data and code are often under.
LICENCES = tuple(
    """
    0BSD AAL AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AGPL-1.0-only AGPL-1.0-or-later AGPL-3.0-only AGPL-3.0-or-later
    APSL-2.0 Apache-1.0 Apache-1.1 Apache-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-2.0 BSD-1-Clause BSD-2-Clause
    BSD-2-Clause-Patent BSD-3-Clause BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-4-Clause BSD-4-Clause-UC BSD-Protection
    BSD-Source-Code BSL-1.0 BUSL-1.1 BlueOak-1.0.0 C-UDA-1.0 CAL-1.0 CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-3.0-US
    CC-BY-4.0 CC-BY-NC-1.0 CC-BY-NC-2.0 CC-BY-NC-2.5 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-2.0 CC-BY-NC-ND-2.5
    CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-2.5 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CC-BY-ND-2.0
    CC-BY-ND-2.5 CC-BY-ND-3.0 CC-BY-ND-4.0 CC-BY-SA-1.0 CC-BY-SA-2.0 CC-BY-SA-2.5 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-PDDC
    CC0-1.0 CDDL-1.0 CDDL-1.1 CDLA-Permissive-1.0 CDLA-Permissive-2.0 CDLA-Sharing-1.0 CECILL-2.0 CECILL-2.1 CECILL-B
    CECILL-C CERN-OHL-P-2.0 CERN-OHL-S-2.0 CERN-OHL-W-2.0 CPAL-1.0 CPL-1.0 CUA-OPL-1.0 DL-DE-BY-2.0 DL-DE-ZERO-2.0 ECL-2.0
    EFL-2.0 EPL-1.0 EPL-2.0 EUPL-1.0 EUPL-1.1 EUPL-1.2 Elastic-2.0 Entessa FSFAP FTL GFDL-1.1-only GFDL-1.1-or-later
    GFDL-1.2-only GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later GPL-1.0-only GPL-1.0-or-later GPL-2.0-only
    GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND HPND-sell-variant ICU IJG IPA IPL-1.0 ISC ImageMagick Info-ZIP
    JSON LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later LGPLLR LPL-1.02
    LPPL-1.3c Libpng MIT MIT-0 MIT-CMU MIT-Modern-Variant MIT-advertising MPL-1.0 MPL-1.1 MPL-2.0
    MPL-2.0-no-copyleft-exception MS-PL MS-RL MulanPSL-1.0 MulanPSL-2.0 Multics NAIST-2003 NASA-1.3 NCSA NLOD-1.0 NLOD-2.0
    NPL-1.1 NTP Naumen O-UDA-1.0 OCLC-2.0 ODC-By-1.0 ODbL-1.0 OFL-1.0 OFL-1.1 OGC-1.0 OGL-Canada-2.0 OGL-UK-1.0
    OGL-UK-2.0 OGL-UK-3.0 OLDAP-2.8 OML OSET-PL-2.1 OSL-1.0 OSL-2.0 OSL-2.1 OSL-3.0 OpenSSL PDDL-1.0 PHP-3.0 PHP-3.01
    PSF-2.0 PostgreSQL Python-2.0 Python-2.0.1 QPL-1.0 RPL-1.5 RPSL-1.0 RSCPL Ruby SGI-B-2.0 SISSL SMLNJ SSPL-1.0 Sleepycat
    SPL-1.0 UCL-1.0 UPL-1.0 Unicode-3.0 Unicode-DFS-2015 Unicode-DFS-2016 Unlicense VSL-1.0 Vim W3C W3C-19980720
    W3C-20150513 WTFPL Watcom-1.0 X11 XFree86-1.1 Xnet ZPL-2.0 ZPL-2.1 Zend-2.0 Zlib bzip2-1.0.6 curl etalab-2.0
    libpng-2.0 libtiff zlib-acknowledgement
    """.split()  # noqa: SIM905
)
EXCEPTIONS = tuple(
    """
    Autoconf-exception-2.0 Autoconf-exception-3.0 Bison-exception-2.2 Bootloader-exception Classpath-exception-2.0
    FLTK-exception Font-exception-2.0 GCC-exception-2.0 GCC-exception-3.1 GPL-3.0-linking-exception LLVM-exception
    LGPL-3.0-linking-exception Libtool-exception Linux-syscall-note OCCT-exception-1.0 OCaml-LGPL-linking-exception
    OpenJDK-assembly-exception-1.0 PS-or-PDF-font-exception-20170817 Qt-GPL-exception-1.0 Qt-LGPL-exception-1.1
    Swift-exception Universal-FOSS-exception-1.0 WxWindows-exception-3.1 u-boot-exception-2.0
    """.split()  # noqa: SIM905
)
_OLD = {name.removesuffix("-only").lower(): name for name in LICENCES if name.endswith("-only")}
"""Names that SPDX has given up: GPL-2.0 is GPL-2.0-only today."""

licence = RowRule("licence", 1, Licence, "Keeps only rows of sources whose licence is allowed.", _run)
