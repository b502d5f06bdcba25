"""Datasets in the forms of the Hugging Face hub: an id of the hub at one commit, a clone of it, or a folder of `save_to_disk`.

    which files       hub_files: what state.json, dataset_dict.json or the head of README.md say, else names of files
    what is inside    files: they are JSON Lines, CSV, Parquet or Arrow, read as such, each a part
    labels            numbers of a ClassLabel become its names, as dataset_info.json or README.md give them

The package `datasets` is not needed, and no code of a dataset is ever run: a dataset that is a script is refused. Without
`dataset:` in a recipe nothing here reaches a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, missing_part
from luthier.core.spec import Spec, references

from .database import holds_secret
from .files import FilesConnector
from .found import shown, unresolved
from .hub_files import Chosen, Folder, choose
from .protocol import Block, Estimate, Head, Part, Secret

if TYPE_CHECKING:
    from luthier.data.spec import SourceSpec

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSpec(Spec):
    dataset: str | None = None
    """A dataset's id on the hub: owner/name. The token is HF_TOKEN's, the hub HF_ENDPOINT's."""
    path: str | None = None
    """In place of `dataset`, a folder or URL: a clone of one, or what `save_to_disk` left."""
    revision: str = "main"
    """The branch, tag or commit of `dataset`; it is pinned to a commit when the run begins."""
    config: str | None = None
    """Which of the dataset's configurations (subsets); needed where it has several and none is its default."""
    split: str | list[str] = "train"
    """Which of its splits are read."""
    files: str | list[str] | None = None
    """Patterns of data files within it, in place of what it says of itself: data/2026-*.parquet"""

    @model_validator(mode="after")
    def _can_be(self) -> HubSpec:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("write either dataset: (an id of the hub) or path: (a folder), and one of them")
        if self.dataset is not None and not _ID.fullmatch(self.dataset):
            raise ValueError(f"{self.dataset!r} is no id of the hub; write owner/name, or path: for a folder")
        if self.path is not None and self.revision != "main":
            raise ValueError("revision belongs to dataset:; a folder is what it is")
        if self.files is not None and self.config is not None:
            raise ValueError("files: names the files already; leave config: out")
        if self.split == []:
            raise ValueError("split names none; write for example split: train")
        if self.path is not None and holds_secret(self.path):
            raise ValueError(
                "a secret is written in the URL; put it in an environment variable and write ${NAME}"
            )
        return self

    @property
    def splits(self) -> list[str]:
        return [self.split] if isinstance(self.split, str) else self.split

    @property
    def default_name(self) -> str:
        return self.dataset or (self.path or "").rstrip("/").rpartition("/")[2] or "hub"


class HubConnector:
    """Rows of a dataset of the hub, or of a folder that looks like one."""

    spec = HubSpec

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, HubSpec)
        self._source, self._wish, self._base, self._secret = source, source.settings, base, secret
        self._place = source.name or source.settings.default_name
        self._pin: Mapping[str, Any] | None = None
        self._reading: FilesConnector | None = None
        self._passed_bytes = 0

    # what moves

    def pinned(self) -> dict[str, Any]:
        """The commit; nothing for a folder."""
        return {"revision": self._commit} if self._wish.dataset is not None else {}

    def pin(self, what: Mapping[str, Any]) -> None:
        self._pin = what

    @cached_property
    def _commit(self) -> str:
        assert self._wish.dataset is not None
        if self._pin or _COMMIT.fullmatch(self._wish.revision):
            return str(self._pin["revision"] if self._pin else self._wish.revision)
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise self._missing() from None
        try:
            found = HfApi().dataset_info(self._wish.dataset, revision=self._wish.revision)
        except Exception as error:  # the library's own family, and its client's; all mean the same here
            raise self._unreachable(error) from None
        return str(found.sha)

    @cached_property
    def _chosen(self) -> Chosen:
        wish = self._wish
        try:
            folder = Folder.at(
                self._root(), self._base, self._secret, self._place, hub=wish.dataset is not None
            )
            return choose(
                folder, wish.config, wish.splits, [wish.files] if isinstance(wish.files, str) else wish.files
            )
        except ImportError:
            raise self._missing() from None
        except (DataError, AssertionError):
            raise
        except Exception as error:
            raise self._unreachable(error) from None

    def _root(self) -> str:
        if self._wish.dataset is not None:
            return f"hf://datasets/{self._wish.dataset}@{self._commit}"
        return str(self._wish.path)

    @cached_property
    def _files(self) -> FilesConnector:
        return self._reader([f"{self._root().rstrip('/')}/{name}" for name in self._chosen.names])

    def _reader(self, files: list[str]) -> FilesConnector:
        from luthier.data.spec import SourceSpec

        more = {"map": self._source.map.plain()} if self._source.map is not None else {}
        return FilesConnector(SourceSpec.model_validate({"files": files, **more}), self._base, self._secret)

    # protocol.Connector

    def head(self, n: int) -> Head:
        found = self._files.head(n)
        labels = self._chosen.labels
        rows = [
            {
                name: _named(cell, labels[name], name, self._place) if name in labels else cell
                for name, cell in row.items()
            }
            for row in found.rows
        ]
        return Head(found.columns, rows, "hub")

    def parts(self) -> list[Part]:
        return [
            Part(
                {**part.at, "place": f"{self._place}/{name}", "labels": self._chosen.labels}, part.size_bytes
            )
            for part, name in zip(self._files.parts(), self._chosen.names, strict=True)
        ]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        labels = part.at["labels"]
        self._reading = self._reader([part.at["pattern"]])
        for block in self._reading.read(part, columns):
            cells = {
                name: _all_named(cells, labels[name], name, block.place) if name in labels else cells
                for name, cells in block.columns.items()
            }
            yield Block(cells, block.place, block.lines, block.names, block.bad)

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        self._passed_bytes, any_rows = 0, False
        for part in self.parts():
            for block in self.read(part, columns):
                any_rows |= len(block) + len(block.bad) > 0
                yield block
            self._passed_bytes += part.size_bytes
            self._reading = None
        if not any_rows:
            raise DataError(f"{self._place}: there are no rows in it.", remedy="Choose another split:.")

    def done_bytes(self) -> int:
        return self._passed_bytes + (self._reading.done_bytes() if self._reading is not None else 0)

    def estimate(self) -> Estimate:
        return self._files.estimate()

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        """Of a dataset of the hub, its commit and the chosen files; of a folder, what its files hold."""
        chosen = self._chosen
        what = [self._wish.dataset, self._commit] if self._wish.dataset else [self._files.fingerprint(cache)]
        return digest_of(["hub", what, chosen.names, chosen.labels])

    # faults

    def _missing(self) -> Exception:
        return missing_part("huggingface_hub", "hub", f"reading {self._place}")

    def _unreachable(self, error: Exception) -> DataError:
        told = unresolved(" ".join(str(error).split()), references(self._wish.path or ""), self._secret)
        reason = shown(told)[:300].rstrip(".")
        kind = type(error).__name__
        if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"):
            reason = {
                "RepositoryNotFoundError": "there is no such dataset, or the token may not read it",
                "RevisionNotFoundError": f"there is no revision {self._wish.revision!r}",
                "GatedRepoError": "its terms must be accepted on the hub first",
            }[kind]
        return DataError(
            f"{self._place}: cannot be read: {reason}.",
            remedy="Check the id, HF_TOKEN, HF_ENDPOINT and the network; without one, clone it and write path: FOLDER.",
        )


def _named(cell: Any, names: Sequence[str], column: str, place: str) -> Any:
    """A ClassLabel's name; -1 stands for no label."""
    if cell is None or cell == -1 or not isinstance(cell, int):
        return None if cell == -1 else cell
    if not 0 <= cell < len(names):
        raise DataError(
            f"{place}: {column!r} holds {cell}, and the dataset names {len(names)} labels.",
            remedy="Correct dataset_info.json or README.md of the dataset.",
        )
    return names[cell]


def _all_named(cells: Any, names: Sequence[str], column: str, place: str) -> list[Any]:
    plain = cells if isinstance(cells, list) else cells.to_pylist()
    return [_named(cell, names, column, place) for cell in plain]
