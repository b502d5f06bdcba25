"""The peers' environments: one virtual environment each, with the same torch that luthier has. Standard library only.

torch goes in first and alone, and is a constraint on everything after it, so that nothing pulls another build. A peer
that does not install is told with its reason, and the race goes on without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 1800


@dataclass(frozen=True)
class Peer:
    """`unwanted` is taken out again: builds that do not fit a torch for CPUs, and that text training does not need."""

    requirements: tuple[str, ...]
    shown: tuple[str, ...]  # packages whose versions go into the results
    unwanted: tuple[str, ...] = ()


PEERS = {
    "trl": Peer(("trl==1.16.0", "peft"), ("torch", "transformers", "trl", "peft", "accelerate")),
    "llamafactory": Peer(
        ("llamafactory==0.9.5",),
        ("torch", "transformers", "llamafactory", "peft", "accelerate"),
        ("torchvision", "torchaudio"),
    ),
}


class NotInstalled(Exception):
    """Why a peer cannot take part."""


def environment(name: str, torch: str, folder: Path) -> Path:
    """The peer's interpreter, its environment made if need be. Raises NotInstalled."""
    peer, home = PEERS[name], folder / name
    python, ready = home / "bin" / "python", home / "ready.json"
    wanted = [torch, *peer.requirements, *peer.unwanted]
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return python
    print(f"installing {' '.join(peer.requirements)} into {home}", flush=True)
    ready.unlink(missing_ok=True)
    constraint = folder / f"{name}.constraint"
    constraint.write_text(torch + "\n")
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", torch])
    _run([*pip, "install", "--constraint", str(constraint), *peer.requirements])
    if peer.unwanted:
        _run([*pip, "uninstall", "--yes", *peer.unwanted])
    ready.write_text(json.dumps(wanted))
    return python


def versions(python: Path, shown: Sequence[str]) -> dict[str, str]:
    """Installed versions, asked of that interpreter."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    told = subprocess.run([str(python), "-c", code, *shown], capture_output=True, text=True, check=True)  # noqa: S603
    return json.loads(told.stdout)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"`{' '.join(command)}` took more than {PATIENCE_S:,} seconds") from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise NotInstalled(f"`{' '.join(command)}` failed: {last}")
