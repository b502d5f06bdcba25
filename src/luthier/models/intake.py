"""Anything a person may name becomes a checked Hugging Face folder: the only door through which models enter.

    a known name      ──▶  the GGUF file of an installed package, SHA-256 checked, dequantised once   (known.py, gguf.py)
    a local folder    ──▶  its allowed files, copied
    a URL             ──▶  the same, fetched through fsspec
    owner/name        ──▶  the same, from a hub, allowed files only
                           └─ all of them pass `inspect`

Names of files decide what is copied, content decides what is accepted, and when a file is refused no second reader
tries it. What a model says can still be wrong or hostile; this looks at what a model can *do* while it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from luthier.core.errors import SCHEME_EXTRAS, LuthierError, ModelError, did_you_mean, missing_part
from luthier.core.spec import redact, references
from luthier.core.stage import Context, Output, Stage

from .inspection import WANTED, inspect, is_wanted
from .known import KNOWN, Known
from .spec import BaseSpec
from .weights import describe

__all__ = ["STAGE", "fingerprint", "inspect"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SMALL_BYTES = 1_000_000
# Which extra brings the file system of an address.


def kind_of(base: str, root: Path = Path()) -> str:
    """ "known", "url", "folder" or "hub"; what exists on this machine goes before the hub. Raises ModelError.

    >>> kind_of("smollm2-135m-instruct"), kind_of("s3://models/x"), kind_of("owner/name")
    ('known', 'url', 'hub')
    """
    if base in KNOWN:
        return "known"
    if "://" in base:
        return "url"
    if local(base, root).is_dir():
        return "folder"
    if base.startswith(("/", "./", "../", "~")):
        raise ModelError(
            f"there is no folder {base!r}.",
            remedy="Give the folder that holds config.json and *.safetensors.",
        )
    if _HUB_ID.fullmatch(base):
        return "hub"
    raise ModelError(
        f"{base!r} is not a known model, a folder, a hub id (owner/name) or a URL.",
        remedy=did_you_mean(base, list(KNOWN)),
    )


def local(base: str, root: Path) -> Path:
    """The folder that `base` would be: relative paths start at `root`, the recipe's folder."""
    return root / Path(base).expanduser()


def spec_of(written: str, root: Path = Path()) -> BaseSpec:
    """What a recipe's `base` means: a hub id may carry a revision, owner/name@revision. Raises ModelError.

    >>> spec_of("owner/name@4f2a"), spec_of("smollm2-135m-instruct").revision
    (BaseSpec(base='owner/name', revision='4f2a'), None)
    """
    name, _, revision = written.partition("@")
    if (
        revision
        and "://" not in written
        and not local(written, root).exists()
        and kind_of(name, root) == "hub"
    ):
        return BaseSpec(base=name, revision=revision)
    return BaseSpec(base=written)


def fingerprint(base: str, root: Path = Path()) -> str:
    """A cheap identity of what `base` stands for now; another content gives another value.

    known    the SHA-256 written in the table (checked when the file is read)
    folder   every file's name, size and time of change, and the content of those under a megabyte
    url,hub  the text itself: pin a revision, or keep such folders unchanged
    """
    kind = kind_of(base, root)
    if kind == "known":
        return f"known:{KNOWN[base].sha256}"
    if kind in ("url", "hub"):
        return f"{kind}:{base}"
    folder = local(base, root)
    told = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = path.stat()
        facts = [path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns]
        if stat.st_size < _SMALL_BYTES:
            facts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        told.update(json.dumps(facts).encode())
    return f"folder:{told.hexdigest()}"


def exported_model(base: str, root: Path = Path()) -> str | None:
    """The digest of the model whose weights a folder holds, as the export wrote it there; None for anything else."""
    if kind_of(base, root) != "folder":
        return None
    try:
        told = json.loads((local(base, root) / "luthier.json").read_bytes())
    except (OSError, ValueError):
        return None
    found = told.get("model_digest") if isinstance(told, dict) and told.get("role") == "package" else None
    return found if isinstance(found, str) and _DIGEST.fullmatch(found) else None


def take_in(spec: BaseSpec, inputs: Mapping[str, Any], out: Path, scratch: Path, at: Context) -> Output:  # noqa: ARG001
    """The stage's function: fill `out` with a checked folder and its luthier.json."""
    kind = kind_of(spec.base, at.root)
    if spec.revision is not None and kind != "hub":
        raise ModelError(
            f"{spec.base!r} has no revisions.", remedy="Leave `revision` out; it is for hub ids."
        )
    if kind == "known":
        _from_package(KNOWN[spec.base], out)
    elif kind == "folder":
        source = local(spec.base, at.root)
        inspect(source)
        _copy(source, out)
    elif kind == "url":
        _from_url(spec.base, out, at)
    else:
        _from_hub(spec.base, spec.revision, out, scratch)
    at.check()
    inspect(out)
    facts = describe(out)
    name = _name(spec.base, kind)
    role: dict[str, Any] = {"role": "base", "name": name, "parameters": facts.parameters}
    if kind == "known":
        role["license"] = KNOWN[spec.base].licence
    (out / "luthier.json").write_text(json.dumps(role, sort_keys=True, indent=1) + "\n")
    return Output(
        {"name": name, "parameters": facts.parameters, "context": facts.context, "dtype": facts.dtype}
    )


# version 2: licence files of every usual name, and the licence of a known model.
STAGE = Stage("model", 2, take_in)


def _name(base: str, kind: str) -> str:
    """What the model is called from now on: no path of this machine, no bucket.

    >>> _name("/data/models/mistral-7b/", "folder"), _name("owner/name", "hub"), _name("s3://bucket/models/x", "url")
    ('mistral-7b', 'owner/name', 'x')
    """
    if kind in ("known", "hub"):
        return base
    return base.rstrip("/").rpartition("/")[2] or "model"


def _from_package(known: Known, out: Path) -> None:
    try:
        distribution = metadata.distribution(known.distribution)
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"{known.name} is carried by a package that is not installed.", remedy=known.install
        ) from None
    # The package itself is never imported: only its file is read.
    file = Path(str(distribution.locate_file(known.file)))
    if not file.is_file():
        raise ModelError(
            f"the installed {known.distribution} {distribution.version} does not hold {known.file}.",
            remedy=known.install,
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != known.sha256:
        raise ModelError(
            f"{file.name} has the SHA-256 {found[:12]}…, and {known.name} is {known.sha256[:12]}…; it was changed or is another version.",
            remedy=known.install,
        )
    from .gguf import convert

    convert(file, out)


def _copy(source: Path, out: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and is_wanted(path.name):
            shutil.copyfile(path, out / path.name)


def _from_url(url: str, out: Path, at: Context) -> None:
    import fsspec

    if "::" in url:
        raise ModelError(
            f"{url!r} chains file systems.", remedy="Give one plain address, such as s3://bucket/folder."
        )
    secrets = {name: at.secret(f"${{{name}}}") for name in references(url)}
    try:
        filesystem, root = fsspec.core.url_to_fs(at.secret(url))
        names = {
            str(e["name"]).rpartition("/")[2]: e["name"]
            for e in filesystem.ls(root, detail=True)
            if e["type"] == "file"
        }
        wanted = sorted(filter(is_wanted, names))
        for count, name in enumerate(wanted):
            at.progress("fetch the model", count, len(wanted))
            at.check()
            filesystem.get_file(names[name], str(out / name))
    except ImportError as error:
        scheme = url.partition(":")[0]
        if scheme not in SCHEME_EXTRAS:
            raise ModelError(
                f"{url} cannot be read: {error}.", remedy="Use " + ", ".join(SCHEME_EXTRAS) + "."
            ) from None
        raise missing_part(str(error.name or scheme), SCHEME_EXTRAS[scheme], f"reading {url}") from None
    except LuthierError:
        raise
    except Exception as error:  # each file system has its own family of errors
        told = redact(f"{type(error).__name__}: {error}", url, secrets)
        raise ModelError(
            f"the model at {url} cannot be fetched ({told}).", remedy="Check address and credentials."
        ) from None
    if not wanted:
        raise ModelError(
            f"there is no model at {url}.", remedy="Give the folder that holds config.json and *.safetensors."
        )


def _from_hub(name: str, revision: str | None, out: Path, scratch: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise missing_part("huggingface_hub", "train", f"fetching {name}") from None

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(WANTED), local_dir=scratch / "hub"
        )
    except (OSError, ValueError) as error:  # huggingface_hub's errors derive from these
        raise ModelError(
            f"{name!r} cannot be fetched from the hub ({type(error).__name__}: {str(error).strip().splitlines()[0]}).",
            remedy="Without a way to the hub, give a local folder with the model's files; for a gated model set HF_TOKEN.",
        ) from None
    source = Path(folder)
    inspect(source)
    _copy(source, out)
