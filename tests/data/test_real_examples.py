"""The makers of the three real data sets, on a few made-up files; what they fetch is only needed to make the real data."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import struct
import sys
import tarfile
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from luthier.app.app import App

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(folder: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    spec = importlib.util.spec_from_file_location(
        f"{folder}_{name}".replace("-", "_"), EXAMPLES / folder / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def number(n: int) -> bytes:
    return struct.pack(">i", n)


def text(told: str | None) -> bytes:
    return number(0x00040009) + (number(-1) if told is None else number(len(told.encode())) + told.encode())


def strings(*told: str | None) -> bytes:
    return number(16) + number(len(told)) + b"".join(map(text, told))


def pairs(**values: bytes) -> bytes:
    """Tags as symbols, as R writes attributes."""
    return b"".join(number(0x402) + number(1) + text(tag) + value for tag, value in values.items()) + number(
        254
    )


def serialised(item: bytes) -> bytes:
    head = b"X\n" + number(3) + number(0x040200) + number(0x030500) + number(5) + b"UTF-8"
    return head + item


def with_attributes(item: bytes, **values: bytes) -> bytes:
    """R marks what has attributes in the first four bytes, and writes them after the values."""
    kind = struct.unpack(">i", item[:4])[0]
    return number(kind | 0x200) + item[4:] + pairs(**values)


def test_a_table_of_r_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("food-reviews", "r_data", monkeypatch)
    factor = with_attributes(
        number(13) + number(3) + number(2) + number(1) + number(-(2**31)), levels=strings("no", "yes")
    )
    frame = number(19) + number(2) + strings("good", None, "süß") + factor
    piece = zlib.compress(serialised(with_attributes(frame, names=strings("review", "score"))))
    (tmp_path / "Rdata.rdb").write_bytes(b"before" + number(len(piece)) + piece)
    place = number(13) + number(2) + number(6) + number(4 + len(piece))
    variables = with_attributes(number(19) + number(1) + place, names=strings("reviews"))
    index = with_attributes(number(19) + number(1) + variables, names=strings("variables"))
    (tmp_path / "Rdata.rdx").write_bytes(gzip.compress(serialised(index)))
    assert module.names(tmp_path) == ["reviews"]
    assert module.table(tmp_path, "reviews") == [
        {"review": "good", "score": "yes"},
        {"review": None, "score": "no"},
        {"review": "süß", "score": None},
    ]
    with pytest.raises(KeyError):
        module.table(tmp_path, "nothing")


def test_what_is_no_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("food-reviews", "r_data", monkeypatch)
    with pytest.raises(ValueError, match="not R's binary form"):
        module.Reader(b"A\n")
    with pytest.raises(ValueError, match="an item of type 6"):
        module.Reader(serialised(number(6))).item()


def test_descriptions_are_joined_to_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("debian-descriptions", "make_data", monkeypatch)
    long = " It does many things that nobody else does,\n and it does them better than all the others did before.\n .\n Use it.\n"
    (tmp_path / "a_Packages").write_text(
        "Package: tool\nSource: tools (1.2)\nSection: contrib/utils\nDescription-md5: aa\nTag: x::y,\n z::w\n\n"
        "Package: other\nSection: utils\nDescription-md5: bb\n\nPackage: rare\nSection: games\nDescription-md5: cc\n"
    )
    (tmp_path / "a_Translation-en").write_text(
        f"Package: tool\nDescription-md5: aa\nDescription-en: does things\n{long}\n"
        f"Package: other\nDescription-md5: bb\nDescription-en: too short\n no\n\n"
        f"Package: rare\nDescription-md5: cc\nDescription-en: plays\n{long}\n"
        f"Package: tool\nDescription-md5: older\nDescription-en: another\n{long}"
    )
    rows = list(module.rows(tmp_path))
    assert [(row["package"], row["source"], row["section"], row["synopsis"]) for row in rows] == [
        ("rare", "rare", "games", "plays"),
        ("tool", "tools", "utils", "does things"),
    ]
    assert rows[1]["description"].endswith("before.\n\nUse it.")
    assert len(module.choose(rows, 1, None)) == 1 and len(module.choose(rows, 2, 1)) == 1


def package(path: Path, mails: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, told in mails.items():
            content = json.dumps({"id": "1", "text": told.decode("latin-1")}).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_mails_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("spam-mail", "make_data", monkeypatch)
    plain = b"From x\nSubject: Re: [ILUG] Disks\nContent-Type: text/plain\n\nIt is  broken.\n\n"
    mixed = (
        b"Subject: disks\nContent-Type: multipart/alternative; boundary=B\n\n--B\nContent-Type: text/html\n\n<p>hi</p>\n"
        b"--B\nContent-Type: text/plain; charset=nonsense\n\nhi\n--B--\n"
    )
    made = package(
        tmp_path / "p.tgz",
        {
            "package/data/spam-1/2.json": b"Subject: Win\nContent-Type: text/html\n\n<b>WIN</b>",
            "package/data/easy-ham-1/1.json": plain,
            "package/data/easy-ham-1/3.json": mixed,
            "package/data/easy-ham-1/4.json": b"Subject: nothing\n\n",
            "package/data/file_list.json": b"",
        },
    )
    rows = list(module.rows(made))
    assert [(row["text"], row["label"], row["group"]) for row in rows] == [
        ("It is  broken.", "ham", "easy-ham-1"),
        ("hi", "ham", "easy-ham-1"),
        ("<b>WIN</b>", "spam", "spam-1"),
    ]
    assert rows[0]["thread"] == rows[1]["thread"] != rows[2]["thread"]


def test_heads_of_mails_become_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("mail-headers", "make_data", monkeypatch)
    head = (
        b"Received: by x\nFrom: =?iso-8859-1?Q?Andr=E9?= <a@Example.org>\nDate: Thu, 22 Aug 2002 18:26:25 +0700 (ICT)\n"
        b"Subject: [l] Re: =?utf-8?b?w6TDtg==?=\nList-Id: <l.example.org>\n\nbody"
    )
    made = package(
        tmp_path / "p.tgz",
        {"package/data/easy-ham-1/1.json": head, "package/data/easy-ham-1/2.json": b"From: nobody\n\nx"},
    )
    [row] = module.rows(made)
    assert json.loads(row["json"]) == {
        "sender": "André",
        "domain": "example.org",
        "date": "2002-08-22T18:26:25+07:00",
        "subject": "[l] Re: äö",
        "reply": True,
    }
    assert row["list"] == "<l.example.org>" and "Received" not in row["text"] and "body" not in row["text"]


@pytest.mark.parametrize(
    "page",
    [
        "food-reviews/recipe",
        "debian-descriptions/recipe",
        "debian-descriptions/synopsis",
        "spam-mail/recipe",
        "mail-headers/recipe",
    ],
)
def test_the_recipes_are_accepted(tmp_path: Path, page: str) -> None:
    assert App(tmp_path / "home", {}).recipes.read(EXAMPLES / f"{page}.yaml", ()).recipe.data.sources


@pytest.mark.parametrize("name", ["food-reviews", "debian-descriptions", "spam-mail", "mail-headers"])
def test_a_machine_without_the_client_is_told_what_to_do(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script(name, "make_data", monkeypatch)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match=r"is not here\.\n  → "):
        module.fetched(tmp_path)
