"""Which files of a dataset of the hub are its data, by what stands beside them: never by running anything of it.

    state.json                     a folder of Dataset.save_to_disk
    dataset_dict.json              one of DatasetDict.save_to_disk, a folder for each split
    README.md, `configs:`          a repository that says so
    names of files and folders     any other: train, validation and test in their names, as the hub itself does it

What these say is data of a stranger: names that lead out of the folder, or that would be read as patterns or variables, are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import Any

from luthier.core.errors import DataError, SpecError, did_you_mean
from luthier.core.spec import read_yaml

from .files import COMPRESSION, SUFFIXES
from .found import shown
from .protocol import Secret

LARGEST_JSON = 16_000_000
LFS = b"version https://git-lfs"
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
DATA = ("jsonl", "csv", "tsv", "parquet", "arrow")
BESIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json")


@dataclass(frozen=True)
class Chosen:
    """Files in reading order, by their paths within the dataset, and the labels' names of each column that has some."""

    names: list[str]
    labels: dict[str, list[str]]


@dataclass(frozen=True)
class Folder:
    """Where a dataset lies, and what files are in it."""

    system: Any
    root: str
    place: str
    names: list[str]
    called: str

    @classmethod
    def at(cls, address: str, base: Path, secret: Secret, place: str, *, hub: bool) -> Folder:
        from fsspec.core import url_to_fs

        written = secret(address)
        system, root = url_to_fs(written if "://" in written else str(base / Path(written).expanduser()))
        root = root.rstrip("/")
        local = "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)
        if not hub and not system.isdir(root):
            raise DataError(
                f"{place}: there is no folder {address}.", remedy=f"Relative paths start at {base}"
            )
        names = []
        for path in sorted(system.find(root)):
            name = str(path)[len(root) :].lstrip("/")
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if local:
                _refuse_links(path, root, place)
            names.append(name)
        called = PurePosixPath(address.partition("@")[0] if hub else root).name
        return cls(system, root, place, names, called)

    def text(self, name: str, most: int = LARGEST_JSON) -> str:
        with self.system.open(f"{self.root}/{name}", "rb") as stream:
            found = stream.read(most + 1)
        if len(found) > most:
            raise DataError(
                f"{self.place}: {name} is longer than {most:,} bytes.",
                remedy="Name the data files with files:.",
            )
        return str(found.decode("utf-8", "replace"))

    def json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self.text(name))
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.place}: {name} is not readable: {str(error)[:200]}.",
                remedy="Save the dataset again, or name files:.",
            ) from None
        return found


def choose(
    folder: Folder, config: str | None, splits: Sequence[str], patterns: Sequence[str] | None
) -> Chosen:
    """Raises DataError when nothing is meant, too much, or something that would have to be run."""
    head = _readme(folder) if "README.md" in folder.names else {}
    if patterns is not None:
        names, within = [name for one in patterns for name in _matched(folder, one)], ""
    elif "state.json" in folder.names:
        names, within = _saved(folder, ""), ""
    elif "dataset_dict.json" in folder.names:
        told = [str(one) for one in folder.json("dataset_dict.json").get("splits", [])]
        names = [name for one in _wanted(folder, splits, told) for name in _saved(folder, f"{one}/")]
        within = f"{splits[0]}/"
    else:
        _refuse_script(folder, head)
        names, within = _of_repository(folder, head, config, splits), ""
    if not names:
        raise DataError(
            f"{folder.place}: there are no data files in it.",
            remedy="Name them with files:, for example files: data/*.parquet",
        )
    for name in names:
        _check(folder, name)
    return Chosen(list(dict.fromkeys(names)), _labels(folder, head, config, within))


def _saved(folder: Folder, within: str) -> list[str]:
    state = folder.json(f"{within}state.json")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{folder.place}: the dataset was saved with a selection of rows beside its files.",
            remedy="Save it again with a newer version of datasets, or call flatten_indices() first.",
        )
    told = [str(one.get("filename")) for one in state.get("_data_files", []) if isinstance(one, dict)]
    if odd := next((name for name in told if f"{within}{name}" not in folder.names), None):
        raise DataError(
            f"{folder.place}: {within}state.json names {shown(odd)[:100]!r}, which is not beside it.",
            remedy="Save it again.",
        )
    return [f"{within}{name}" for name in told]


def _refuse_script(folder: Folder, head: Mapping[str, Any]) -> None:
    script = f"{folder.called}.py"
    loose = [name for name in folder.names if name.endswith(".py") and "/" not in name]
    data = [name for name in folder.names if _format(name)]
    if script in folder.names or (loose and not data and not head.get("configs")):
        raise DataError(
            f"{folder.place}: this dataset is a script ({script if script in folder.names else loose[0]}), and code of a dataset is never run.",
            remedy="Run it where you trust it and save its rows as Parquet; or, if data files lie beside it, name them with files:.",
        )


def _of_repository(
    folder: Folder, head: Mapping[str, Any], config: str | None, splits: Sequence[str]
) -> list[str]:
    configs = [one for one in head.get("configs") or [] if isinstance(one, Mapping) and one.get("data_files")]
    if configs:
        return _by_config(folder, _config(folder, configs, config), splits)
    if config is not None:
        raise DataError(
            f"{folder.place}: it has no configurations, and so none called {config!r}.",
            remedy="Leave config: out.",
        )
    data = [name for name in folder.names if _format(name)]
    sides: dict[str, list[str]] = {}
    for name in data:
        if (side := _side(name)) is not None:
            sides.setdefault(side, []).append(name)
    chosen = [n for one in _wanted(folder, splits, list(sides)) for n in sides[one]] if sides else data
    if len(formats := {_format(name) for name in chosen}) > 1:
        raise DataError(
            f"{folder.place}: its data files have several formats ({', '.join(sorted(map(str, formats)))}).",
            remedy="Say which: files: '**/*.parquet'",
        )
    return chosen


def _config(folder: Folder, configs: Sequence[Mapping[str, Any]], wanted: str | None) -> Mapping[str, Any]:
    named = {str(one.get("config_name", "default")): one for one in configs}
    default = next((name for name, one in named.items() if one.get("default") is True), "default")
    name = wanted or (default if default in named else next(iter(named)) if len(named) == 1 else "")
    if name not in named:
        told = did_you_mean(wanted, list(named)) if wanted else f"it has: {', '.join(named)[:300]}"
        raise DataError(
            f"{folder.place}: {f'there is no configuration {wanted!r}' if wanted else 'it has several configurations'}.",
            remedy=f"Name one with config:; {told}",
        )
    return named[name]


def _by_config(folder: Folder, config: Mapping[str, Any], splits: Sequence[str]) -> list[str]:
    told = config["data_files"]
    under = f"{str(config['data_dir']).strip('/')}/" if config.get("data_dir") else ""
    if isinstance(told, str) or (isinstance(told, list) and all(isinstance(one, str) for one in told)):
        told = [{"split": "train", "path": told}]
    if isinstance(told, Mapping):
        told = [{"split": split, "path": path} for split, path in told.items()]
    by_split: dict[str, list[str]] = {}
    for one in told if isinstance(told, list) else []:
        if isinstance(one, Mapping) and "path" in one:
            paths = one["path"] if isinstance(one["path"], list) else [one["path"]]
            by_split.setdefault(str(one.get("split", "train")), []).extend(f"{under}{path}" for path in paths)
    wanted = _wanted(folder, splits, list(by_split))
    return [name for split in wanted for pattern in by_split[split] for name in _matched(folder, pattern)]


def _wanted(folder: Folder, splits: Sequence[str], there: Sequence[str]) -> list[str]:
    if missing := next((one for one in splits if one not in there), None):
        raise DataError(
            f"{folder.place}: there is no split {missing!r}.",
            remedy=f"It has {', '.join(there) or 'none'}; name one with split:",
        )
    return list(splits)


def _matched(folder: Folder, pattern: str) -> list[str]:
    if "://" in pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        raise _outside(folder, pattern)
    plain = pattern.removeprefix("./")
    either = [plain, plain.replace("**/", "")] if "**/" in plain else [plain]
    meant = [re.compile(translate(one)) for one in either]
    found = [name for name in folder.names if any(one.match(name) for one in meant) and name not in BESIDE]
    if not found:
        raise DataError(
            f"{folder.place}: no file of it is meant by {shown(pattern)[:100]!r}.",
            remedy="Name the data files with files:.",
        )
    return found


def _check(folder: Folder, name: str) -> None:
    if ".." in name.split("/") or name.startswith("/") or "\0" in name:
        raise _outside(folder, name)
    if any(sign in name for sign in ("*", "?", "[", "${")):
        raise DataError(
            f"{folder.place}: the file name {shown(name)[:100]!r} would be read as a pattern.",
            remedy="Rename the file.",
        )
    if _format(name) is None:
        raise DataError(
            f"{folder.place}: {shown(name)[:100]} is no data file that is read here.",
            remedy=f"Known: {', '.join(DATA)}",
        )
    path = f"{folder.root}/{name}"
    if (folder.system.size(path) or 0) < 1024:
        with folder.system.open(path, "rb") as stream:
            if stream.read(len(LFS)) == LFS:
                raise DataError(
                    f"{folder.place}: {name} is a pointer to a file, and not the file: the clone is without its large files.",
                    remedy="Run `git lfs pull` in it.",
                )


def _outside(folder: Folder, name: str) -> DataError:
    return DataError(
        f"{folder.place}: the dataset names a file that lies outside of it: {shown(name)[:200]}.",
        remedy="Do not use it unless you know why it does; name the right files with files:.",
    )


def _refuse_links(path: str, root: str, place: str) -> None:
    """No link may lead out, but from a snapshot of the hub's own cache into that dataset's blobs."""
    real, home = os.path.realpath(path), os.path.realpath(root)
    if os.path.basename(os.path.dirname(home)) == "snapshots":
        home = os.path.dirname(os.path.dirname(home))
    if not real.startswith(home + os.sep):
        raise DataError(
            f"{place}: {shown(path[len(root) :].lstrip('/'))[:200]} is a link that leads outside of the dataset.",
            remedy="Do not use it unless you know why it does; put the file itself there.",
        )


def _format(name: str) -> str | None:
    path = PurePosixPath(name.lower())
    if path.name in BESIDE:
        return None
    suffix = path.suffixes[-2] if len(path.suffixes) > 1 and path.suffix in COMPRESSION else path.suffix
    found = SUFFIXES.get(suffix)
    return found if found in DATA else None


def _side(name: str) -> str | None:
    """
    >>> [_side(name) for name in ("data/train-00000-of-1.parquet", "dev.jsonl", "tests/a.csv", "latest.csv")]
    ['train', 'validation', None, None]
    """
    words = re.split(r"[^A-Za-z]+", name.lower())
    return next((side for side, known in SPLITS.items() if any(word in known for word in words)), None)


# what stands beside the data


def _readme(folder: Folder) -> dict[str, Any]:
    text = folder.text("README.md").replace("\r\n", "\n")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        found = read_yaml(text[4:].partition("\n---")[0] + "\n", "README.md").value
    except SpecError as error:
        raise DataError(
            f"{folder.place}: the head of README.md is not readable: {error.message[:200]}",
            remedy="Correct it, or name the data files with files: and remove README.md from the clone.",
        ) from None
    return found if isinstance(found, dict) else {}


def _labels(folder: Folder, head: Mapping[str, Any], config: str | None, within: str) -> dict[str, list[str]]:
    """Names of ClassLabel columns."""
    if f"{within}dataset_info.json" in folder.names:
        told = folder.json(f"{within}dataset_info.json").get("features")
        features = told if isinstance(told, dict) else {}
        return {
            str(name): [str(one) for one in kind["names"]]
            for name, kind in features.items()
            if isinstance(kind, dict)
            and kind.get("_type") == "ClassLabel"
            and isinstance(kind.get("names"), list)
        }
    infos = head.get("dataset_info")
    several = [one for one in (infos if isinstance(infos, list) else [infos]) if isinstance(one, dict)]
    info = next((one for one in several if config in (None, one.get("config_name"))), {})
    found = {}
    for one in info.get("features") or []:
        kind = one.get("dtype") if isinstance(one, dict) else None
        told = kind.get("class_label") if isinstance(kind, dict) else None
        names = told.get("names") if isinstance(told, dict) else None
        if isinstance(names, dict) and all(str(key).isdigit() for key in names):
            found[str(one["name"])] = [
                str(names[key]) for key in sorted(names, key=lambda key: int(str(key)))
            ]
        elif isinstance(names, list):
            found[str(one["name"])] = [str(name) for name in names]
    return found
