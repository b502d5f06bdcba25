"""How each packed form is read, in the engine that it is made for: its tokenizer and template, and what it says.

adapter, merged, int8, int4   transformers, as our own server runs them
gguf, gguf-q8, gguf-q4        llama.cpp where `xllamacpp` is installed; else the file's own weights, tokenizer and template
                              read back by models/gguf.py and run in transformers, and the record says so
onnx                          ONNX Runtime, which the export needs anyway
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import llamacpp
from .spec import Form

if TYPE_CHECKING:
    import torch

GGUF = "model.gguf"


@dataclass(frozen=True)
class Told:
    """What a form says after every position that is looked at, all rows one after the other: ln p of the whole vocabulary [T, V],
    or of the likeliest tokens only, `ids` [T, K] with their `top` [T, K]."""

    whole: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    top: torch.Tensor | None = None


@dataclass(frozen=True)
class Read:
    """`check`: in words, what was done; `engine`: what read it, with its version; `tokens`: prompts as the engine itself reads the
    conversations, None where it has no tokenizer of its own; `fault`: what its template could not do."""

    told: Told
    engine: str
    check: str
    tokens: list[list[int] | None] | None = None
    fault: str | None = None
    tokens_per_s: float | None = None


def template(form: Form, folder: Path, context: int, scratch: Path) -> Any:
    """The form's tokenizer with its chat template. Raises ModelError."""
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    if form.startswith("gguf"):
        from luthier.models.gguf import write_tokenizer

        place = scratch / f"{form}-tokenizer"
        place.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder / GGUF, place)
        folder = place
    return Template(load_tokenizer(folder), context)


def positions(rows: Sequence[Any], most: int) -> list[list[int]]:
    """Per row, the places whose next token is a supervised one, `most` over all."""
    found, left = [], most
    for row in rows:
        at = [i - 1 for i, wanted in enumerate(row.supervised) if wanted][:left]
        left -= len(at)
        found.append(at)
    return found


def said(model: Any, rows: Sequence[Any], most: int) -> torch.Tensor:
    """ln p [T, V] of a transformers model."""
    import torch

    told = []
    with torch.inference_mode():
        for row, at in zip(rows, positions(rows, most), strict=True):
            if at:
                logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
                told.append(torch.log_softmax(logits[at].float(), -1))
    return torch.cat(told)


def read(
    form: Form,
    folder: Path,
    base: Path,
    whole: Path | None,
    rows: Sequence[Any],
    conversations: Sequence[Sequence[Any]],
    context: int,
    most: int,
) -> Read:
    """`conversations`: prompts that the engine is to render by itself; `whole`: merged weights for forms made of such."""
    if form == "onnx":
        return _by_onnxruntime(folder, rows, most)
    if form.startswith("gguf"):
        if llamacpp.version() is not None:
            return _by_llamacpp(folder, rows, conversations, context, most)
        assert whole is not None
        return _by_ourselves(folder, whole, rows, most)
    from importlib.metadata import version

    from luthier.models.weights import load

    told = Told(whole=said(load(folder, base_folder=base), rows, most))
    return Read(told, f"transformers {version('transformers')}", "all log-probabilities")


def _by_llamacpp(
    folder: Path, rows: Sequence[Any], conversations: Sequence[Any], context: int, most: int
) -> Read:
    import torch

    asked = [{"ids": list(row.ids), "at": at} for row, at in zip(rows, positions(rows, most), strict=True)]
    found = llamacpp.ask(folder / GGUF, asked, conversations, context)
    places = [place for row in found.top for place in row]
    least = min(len(place) for place in places)
    ids = torch.tensor([[token for token, _ in place[:least]] for place in places])
    top = torch.tensor([[p for _, p in place[:least]] for place in places])
    check = (
        f"its own tokens and template; log-probabilities of the {least} likeliest tokens, the others as one"
    )
    engine = f"llama.cpp ({llamacpp.PACKAGE} {llamacpp.version()})"
    return Read(Told(ids=ids, top=top), engine, check, found.tokens, found.fault, found.tokens_per_s)


def _by_ourselves(folder: Path, whole: Path, rows: Sequence[Any], most: int) -> Read:
    from importlib.metadata import version

    import torch

    from luthier.models.gguf import weights_of
    from luthier.models.weights import load

    model, stored = load(whole), weights_of(folder / GGUF)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored(name))
    check = f"read back by luthier, all log-probabilities; not run in llama.cpp, since {llamacpp.PACKAGE} is not installed"
    return Read(Told(whole=said(model, rows, most)), f"transformers {version('transformers')}", check)


def _by_onnxruntime(folder: Path, rows: Sequence[Any], most: int) -> Read:
    import numpy as np
    import onnxruntime
    import torch

    from luthier.models.to_onnx import FILE

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / FILE), settings, providers=["CPUExecutionProvider"])
    told = []
    for row, at in zip(rows, positions(rows, most), strict=True):
        if at:
            ids = np.array([list(row.ids)], dtype=np.int64)
            (logits,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
            told.append(torch.log_softmax(torch.from_numpy(logits[0][at]), -1))
    return Read(
        Told(whole=torch.cat(told)), f"onnxruntime {onnxruntime.__version__}", "all log-probabilities"
    )
