"""GGUF files for what a release holds, made once and kept by digest: a whole model's, or a base's and an adapter's beside it."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import short
from luthier.core.errors import ModelError
from luthier.serving.opening import Opening

FORMATS = {"q8_0": "gguf-q8", "f16": "gguf"}
"""What a person writes -> the form that to_gguf.py writes. f16 is bf16 where the weights are stored so."""
VERSION = 1
PLACE = "cache/engines"
"""Under a store's home."""
_MAKING, _HELD = ".making-", ".held"
_HEAD = "head.safetensors"  # models/head.FILE, named here so that torch stays out


@dataclass(frozen=True)
class Files:
    """`told`: what it is, for a person."""

    model: Path
    adapter: Path | None
    told: str


def files_of(what: Opening, form: str) -> Files:
    """Makes what is missing, which takes seconds for a small model and minutes for a large one. Raises ModelError, MissingPart."""
    from luthier.models import to_gguf, to_gguf_adapter

    refuse_head(what, "llama.cpp")
    if (own := what.gguf.get(FORMATS[form])) is not None:
        return Files(own, None, f"{form}, the package's own file")
    if what.adapter_folder is not None:
        to_gguf_adapter.refuse(what.adapter_folder, what.base_folder)
    base, adapter = what.base_folder, what.adapter_folder
    holder = what.base_digest if adapter is not None else what.digest
    model = _made(
        what.cache / f"{holder}-{form}-v{VERSION}.gguf",
        lambda out: to_gguf.write(base, out, FORMATS[form], {"general.name": short(holder)}),
    )
    if adapter is None:
        return Files(model, None, form)
    beside = _made(
        what.cache / f"{what.digest}-adapter-v{VERSION}.gguf",
        lambda out: to_gguf_adapter.write(adapter, base, out),
    )
    return Files(model, beside, f"{form}, its adapter in fp32 beside it")


def refuse_head(what: Opening, engine: str) -> None:
    """Raises ModelError."""
    for folder in (what.base_folder, what.adapter_folder):
        if folder is not None and (folder / _HEAD).is_file():
            raise ModelError(
                f"this model answers by a head of its own, which {engine} does not know.",
                remedy="Use --engine transformers.",
            )


@contextmanager
def making(cache: Path) -> Iterator[Path]:
    """A folder in `cache` for what is being made, gone at the end. Those of processes that were killed go first: a model is large."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        for left in cache.glob(f"{_MAKING}*"):
            _remove_left(left)
        place = Path(tempfile.mkdtemp(dir=cache, prefix=_MAKING))
        held = (place / _HELD).open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    with held:
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _remove_left(place: Path) -> None:
    """Unless somebody holds it."""
    if not place.is_dir():  # as earlier versions made them
        place.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError, BlockingIOError), (place / _HELD).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)


def _made(path: Path, write: Callable[[Path], None]) -> Path:
    """Two processes that make it at once make the same bytes, and the later rename wins."""
    if not path.is_file():
        with making(path.parent) as place:
            write(place / path.name)
            (place / path.name).replace(path)
    return path
