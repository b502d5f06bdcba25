"""A checkpoint is a transaction: written beside, fsynced, hashed, and only then given its name.

    checkpoints/
      checkpoint-000007/
        weights.safetensors      what moves
        optimizer.safetensors    its moments
        state.json               step, history, the machine
        manifest.json            SHA-256 and size of each; written last
      .partial-...               being written when a process died; swept away at the next start

Going on takes the newest checkpoint whose every byte verifies; a damaged one is passed over and told. A checkpoint
names the others it `needs` (the best weights so far lie in one of them), and counts only if they verify too.

Not here: what is in the state. No pickle, so no file here can run anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import canonical, digest_of
from luthier.core.testing import fault
from luthier.store.files import explained, fsync_folder, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
KEEP = 2
MANIFEST, STATE, WEIGHTS, OPTIMIZER = (
    "manifest.json",
    "state.json",
    "weights.safetensors",
    "optimizer.safetensors",
)


class Damaged(Exception):
    """This checkpoint cannot be used; the text says why."""


@dataclass(frozen=True)
class Checkpoint:
    """One that verified."""

    folder: Path
    state: Mapping[str, Any]
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    def weights(self) -> dict[str, Tensor]:
        return _load(self.folder / WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        return _load(self.folder / OPTIMIZER)


class Checkpoints:
    """The checkpoints of one piece of work. `identity` says which: those of another are not gone on from. Of several
    processes only one `writes`."""

    def __init__(self, folder: Path, identity: str, writes: bool = True) -> None:
        self.folder = folder
        self.identity = identity
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".partial-*") if writes else ():
                shutil.rmtree(left)
            for left in folder.glob(".removed-*") if writes else ():
                shutil.rmtree(left)

    def next_name(self) -> str:
        """The name that the next `save` gives."""
        taken = self._names()
        return f"checkpoint-{int(taken[-1].rpartition('-')[2]) + 1 if taken else 1:06d}"

    def save(
        self,
        state: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        needs: Iterable[str] = (),
    ) -> tuple[str, int]:
        """Write one and make it durable; returns its name and size in bytes. Raises StoreError, with all earlier
        checkpoints as they were. Then removes what is neither among the newest nor needed by them."""
        from .tensors import pieces

        name = self.next_name()
        partial = self.folder / f".partial-{name}"
        with explained(self.folder):
            try:
                partial.mkdir()
                files = {
                    WEIGHTS: _write(partial / WEIGHTS, pieces(weights)),
                    OPTIMIZER: _write(partial / OPTIMIZER, pieces(optimizer)),
                    STATE: _write(partial / STATE, [canonical(state)]),
                }
                others = sorted(set(needs) - {name})
                manifest = {"format": FORMAT, "identity": self.identity, "name": name, "needs": others}
                manifest |= {"files": files}
                _write(partial / MANIFEST, [canonical({**manifest, "digest": digest_of(manifest)})])
                fsync_folder(partial)
                fault("checkpoint.rename")
                os.rename(partial, self.folder / name)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            fsync_folder(self.folder)
            fault("checkpoint.renamed")
            self._prune()
        return name, sum(file["bytes"] for file in files.values())

    def newest(self, on_damage: Callable[[str, str], Any]) -> Checkpoint | None:
        """The newest one that verifies, with all it needs; `on_damage(name, why)` hears of each that does not."""
        for name in reversed(self._names()):
            try:
                found = self.open(name)
                for other in found.needs:
                    self.open(other)
            except Damaged as why:
                on_damage(name, str(why))
            else:
                return found
        return None

    def open(self, name: str) -> Checkpoint:
        """Verify every byte. Raises Damaged."""
        folder = self.folder / name
        manifest = self._manifest(folder)
        for file, told in manifest["files"].items():
            path = folder / file
            if not path.is_file():
                raise Damaged(f"{name}/{file} is missing")
            with explained(folder):
                size, sha256 = path.stat().st_size, sha256_of(path)
            if size != told["bytes"]:
                raise Damaged(f"{name}/{file} has {size:,} bytes instead of {told['bytes']:,}")
            if sha256 != told["sha256"]:
                raise Damaged(f"{name}/{file} does not have the bytes that were written (SHA-256 differs)")
        return Checkpoint(folder, json.loads((folder / STATE).read_bytes()), tuple(manifest["needs"]))

    def _manifest(self, folder: Path) -> dict[str, Any]:
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            digest = manifest.pop("digest")
            sound = digest == digest_of(manifest)
        except FileNotFoundError:
            raise Damaged(f"{folder.name}/{MANIFEST} is missing") from None
        except (ValueError, TypeError, AttributeError, KeyError):
            sound = False
        if not sound:
            raise Damaged(f"{folder.name}/{MANIFEST} does not have the bytes that were written")
        if manifest["format"] != FORMAT or manifest["identity"] != self.identity:
            raise Damaged(f"{folder.name} belongs to other work")
        if manifest["name"] != folder.name:  # others find the best weights by that name
            raise Damaged(f"{folder.name} is {manifest['name']} under another name")
        return manifest

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("checkpoint-*"))

    def _prune(self) -> None:
        """A folder loses its name first, so that one removed by half is never mistaken for a checkpoint."""
        newest = self._names()[-KEEP:]
        kept = {*newest, *(need for name in newest for need in self._needs(name))}
        for name in set(self._names()) - kept:
            fault("checkpoint.remove")
            os.rename(self.folder / name, doomed := self.folder / f".removed-{name}")
            shutil.rmtree(doomed)

    def _needs(self, name: str) -> list[str]:
        try:
            return self._manifest(self.folder / name)["needs"]
        except Damaged:
            return []


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write, hash and make durable in one pass."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as handle:
        for chunk in chunks:
            fault("checkpoint.write")
            handle.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        handle.flush()
        fault("checkpoint.fsync")
        os.fsync(handle.fileno())
    return {"sha256": digest.hexdigest(), "bytes": size}


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
