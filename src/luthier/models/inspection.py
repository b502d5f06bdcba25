"""What a model's folder may hold, checked before any library reads it. Refuses, naming the file and the key.

    files      no pickle (by name and by first bytes), no code, no links; only a short list of names is ever copied
    configs    nothing that votes on what code runs: auto_map, attention implementations, quantisers, paths
    weights    sound safetensors headers, every number finite
    template   small, and rendered once in a process that is killed when it takes too long
    adapters   a plain LoRA; layer names, never patterns

Not covered: what a model says, and a template that waits for a certain conversation before it misbehaves.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

from .adapters import ADAPTER_CONFIG, check_saved
from .families import FAMILIES
from .folder import StoredTensor, read_config, read_json, stored_tensors

WANTED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    *(f"{name}{end}" for name in ("LICENSE", "LICENCE", "NOTICE") for end in ("", ".txt", ".md")),
    "USE_POLICY.md",
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".dill")
_CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe")
# First bytes of: pickle protocols 2 to 5, zip (a torch archive), NumPy, ELF.
_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x7fELF")
_FORBIDDEN_KEYS = ("auto_map", "auto_mapping", "trust_remote_code", "quantization_config", "compression_config",
                   "custom_pipelines", "custom_generate", "code_revision", "use_kernels", "kernel_config")  # fmt: skip
_FORBIDDEN_BEGINNINGS = (
    "_attn_implementation",
    "attn_implementation",
    "_experts_implementation",
    "experts_implementation",
)
_PATH_KEYS = ("vocab_file", "merges_file", "tokenizer_file")
# Keys of these are tokens, not settings.
_NOT_SETTINGS = ("tokenizer.json", "vocab.json", "added_tokens.json", "model.safetensors.index.json")

LARGEST_TEMPLATE_BYTES = 200_000
TEMPLATE_SECONDS = 10.0
_SCAN_BYTES = 64_000_000
# The bits of the exponent: all set means infinite or not a number.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def is_wanted(name: str) -> bool:
    """Whether a file of this name is part of a model.

    >>> [is_wanted(name) for name in ("model-00001-of-00002.safetensors", "LICENSE.md", "training_args.bin")]
    [True, True, False]
    """
    return any(fnmatchcase(name, pattern) for pattern in WANTED)


def inspect(folder: Path) -> None:
    """Raise ModelError unless the folder holds a sound, inert model or adapter of a supported family."""
    if not folder.is_dir():
        raise ModelError(f"there is no folder {str(folder)!r}.", remedy="Check the path.")
    for path in _walk(folder):
        _inspect_file(path, path.relative_to(folder).as_posix())
    for path in sorted(folder.glob("*.json")):
        if path.name not in _NOT_SETTINGS:
            _inspect_settings(read_json(path), path.name)
    if (folder / ADAPTER_CONFIG).is_file():
        check_saved(folder)
    else:
        _inspect_family(read_config(folder))
        _inspect_index(folder)
    for name, tensor in stored_tensors(folder).items():
        _need_finite(name, tensor)
    for where, template in _templates(folder):
        _inspect_template(where, template)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, hidden folders (.git, .cache) left out: nothing of them is ever copied."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise ModelError(
                f"{path.name} is a link.", remedy="Copy the model with its links resolved: cp -rL FROM TO"
            )
        if path.is_dir():
            if not path.name.startswith("."):
                yield from _walk(path)
        else:
            yield path


def _inspect_file(path: Path, name: str) -> None:
    suffix = path.suffix.lower()
    if suffix in _PICKLED:
        raise ModelError(
            f"{name} is a pickled format: reading it can run anything.",
            remedy="Use the model's safetensors files and remove this one; it is not needed.",
        )
    if suffix in _CODE:
        raise ModelError(
            f"{name} is code.",
            remedy="A model is weights and settings; remove it, or choose a model without its own code.",
        )
    if (
        suffix != ".safetensors"
    ):  # those begin with a length that may be any bytes; their header is read instead
        with path.open("rb") as stream:
            start = stream.read(8)
        if start.startswith(_MAGIC):
            raise ModelError(
                f"{name} is not what its name says: it begins like a pickle or an archive.",
                remedy="Remove it.",
            )


def _inspect_settings(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, below in value.items():
            if key in _FORBIDDEN_KEYS or key.startswith(_FORBIDDEN_BEGINNINGS):
                if below is None or below is False:
                    continue
                raise ModelError(f"{where} sets {key!r}: {_why(key)}.", remedy=_remedy(key))
            if key in _PATH_KEYS and below is not None:
                raise ModelError(
                    f"{where} sets {key!r}, a path of another machine.",
                    remedy="Remove the key; the folder's own files are used.",
                )
            _inspect_settings(below, where)
    elif isinstance(value, list):
        for below in value:
            _inspect_settings(below, where)


def _why(key: str) -> str:
    if key in ("quantization_config", "compression_config"):
        return "its weights are packed by another tool"
    return "a model's settings may not choose which code runs"


def _remedy(key: str) -> str:
    if key in ("quantization_config", "compression_config"):
        return "Use the model's unquantised weights (bf16 or fp32)."
    return f"Choose a model without its own code. If transformers supports it natively, remove {key!r}."


def _inspect_family(config: dict[str, Any]) -> None:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"config.json says model_type = {family!r}, which is not supported.",
            remedy="Supported: " + ", ".join(FAMILIES) + ".",
        )


def _inspect_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise ModelError(f"{index.name} has no weight_map.", remedy="Fetch the model again.")
    for file in sorted(set(map(str, files.values()))):
        if "/" in file or "\\" in file or not is_wanted(file) or not (folder / file).is_file():
            raise ModelError(
                f"{index.name} names {file!r}, which is not a weights file of this folder.",
                remedy="Fetch the model again.",
            )


def _need_finite(name: str, tensor: StoredTensor) -> None:
    import numpy as np

    if tensor.dtype not in _EXPONENTS or tensor.start == tensor.end:
        return
    kind, exponent = _EXPONENTS[tensor.dtype]
    width = np.dtype(kind).itemsize
    for start in range(tensor.start, tensor.end, _SCAN_BYTES):
        count = min(_SCAN_BYTES, tensor.end - start) // width
        bits = np.fromfile(tensor.file, dtype=kind, count=count, offset=start)
        if ((bits & exponent) == exponent).any():
            raise ModelError(
                f"the tensor {name!r} in {tensor.file.name} holds NaN or infinity.",
                remedy="The weights are damaged; fetch them again.",
            )


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    file = folder / "chat_template.jinja"
    if file.is_file():
        yield file.name, file.read_bytes()[: LARGEST_TEMPLATE_BYTES + 1].decode("utf-8", "replace")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        stored = read_json(settings).get("chat_template")
        for template in stored if isinstance(stored, list) else [{"template": stored}]:
            text = template.get("template") if isinstance(template, dict) else None
            if isinstance(text, str):
                yield f"chat_template in {settings.name}", text


def _inspect_template(where: str, template: str) -> None:
    if len(template.encode()) > LARGEST_TEMPLATE_BYTES:
        raise ModelError(
            f"{where} is larger than {LARGEST_TEMPLATE_BYTES:,} bytes.", remedy="Choose another model."
        )
    # Isolated (-I): neither this folder nor the environment's paths are importable there.
    command = [sys.executable, "-I", "-m", "luthier.models.template_probe"]
    try:
        done = subprocess.run(  # noqa: S603 (our own module; the template goes in as data)
            command, input=template, text=True, capture_output=True, timeout=TEMPLATE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{where} did not render a short conversation in {TEMPLATE_SECONDS:.0f} s.",
            remedy="It is broken or hostile; choose another model.",
        ) from None
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise ModelError(
            f"{where} cannot be used: {told[-1] if told else 'it was stopped at its limit of memory'}.",
            remedy="Fix the template, or choose another model.",
        )
