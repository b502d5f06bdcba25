"""A model in OpenVINO's runtime, asked for several sequences at once, whose keys and values lie in pages.

    made(gguf, out)                    a GGUF file of Q8_0 -> graph and weights, by OpenVINO GenAI's own reader
    paged = Paged(out, tokens=16_384)
    paged.step([Part(ids, past, pages, places), ...])      one pass over all parts: logits at the places of each

Pages are numbers below `paged.pages`; whoever asks says which of them a sequence has, in order, so sequences may share pages that are
full and only read. Attention over pages is OpenVINO's own (its transformation of a graph, as its server uses it); the choice of what is
asked together is not here (serving/batching.py). Nothing is fetched. Importing OpenVINO would tell its makers so, by a package for
telemetry that comes with the wheel: it is kept from that (`quiet`).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import ModelError, missing_part

PACKAGE, EXTRA = "openvino-genai", "openvino"
GRAPH = "openvino_model.xml"
_WEIGHTS = "openvino_model.bin"
PRECISIONS = ("auto", "f32")
"""auto: products as the processor is fastest (bf16 where it has units for that, else activations in 8 bits), keys and values in 8
bits. f32: products in f32, keys and values in 16 bits."""


def version() -> str | None:
    """The installed wheel's version; None: it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(PACKAGE)
    except PackageNotFoundError:
        return None


def need() -> None:
    """Raises MissingPart."""
    if version() is None:
        raise missing_part(PACKAGE, EXTRA, "OpenVINO")


def quiet() -> None:
    """Before OpenVINO is imported: its conversion tools, which it imports by itself, would make an id for this user, write it into the
    home, and send an event. Without them, and without the package that sends, it works as it does where neither is installed."""
    for name in ("openvino.tools.ovc", "openvino_telemetry"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # the import system's own way to say: not there


def made(gguf: Path, out: Path) -> None:
    """Writes what `Paged` reads into the folder `out`, from a GGUF file of Q8_0. Raises ModelError, MissingPart."""
    need()
    quiet()
    import openvino_genai

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".reading-") as place:
        beside = Path(place) / "model.gguf"  # what it writes lies beside what it reads
        try:
            os.link(gguf, beside)
        except OSError:  # another file system
            shutil.copyfile(gguf, beside)
        try:
            openvino_genai.LLMPipeline(str(beside), "CPU", enable_save_ov_model=True)
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO does not read this model: {_plain(error)}.",
                remedy="Serve it with --engine llamacpp or transformers.",
            ) from None
        out.mkdir(exist_ok=True)
        for name in (_WEIGHTS, GRAPH):
            (Path(place) / name).replace(out / name)


@dataclass(frozen=True)
class Part:
    """`ids` are read after `past` others of the same sequence, which lies in `pages` with room for all of them. `places`: at which of
    `ids`, counted from 0, logits are wanted."""

    ids: Sequence[int]
    past: int
    pages: Sequence[int]
    places: Sequence[int]


class Paged:
    """One thread asks at a time. `page`: tokens a page holds; `pages`: how many there are, at least as many as hold `tokens`."""

    def __init__(
        self, folder: Path, *, tokens: int, threads: int | None = None, precision: str = "auto"
    ) -> None:
        """Raises ModelError in OpenVINO's words, MissingPart."""
        need()
        quiet()
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        wish: dict[str, Any] = {"NUM_STREAMS": "1", "ENABLE_CPU_PINNING": False}
        if threads is not None:
            wish["INFERENCE_NUM_THREADS"] = threads
        if precision != "auto":
            wish |= {
                "INFERENCE_PRECISION_HINT": precision,
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
                "KV_CACHE_PRECISION": "f16",
            }
        self._kept: list[Any] = []
        """Keys and values: [pages, heads, page, size], as the processor's code lays them out."""
        try:
            model = openvino.Core().read_model(folder / GRAPH)
            paged_attention_transformation(model)
            _pick(model)
            compiled = openvino.Core().compile_model(model, "CPU", wish)
            self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            self._tensor, self._request = openvino.Tensor, compiled.create_infer_request()
            shapes = {one.any_name: one for one in compiled.inputs if "_cache." in one.any_name}
            self.page: int = list(shapes["value_cache.0"].partial_shape)[2].get_length()
            # one more, since a page that two sequences end in differently is there twice
            self.pages = -(-tokens // self.page) + 1
            for name, one in shapes.items():
                sizes = [size.get_length() for size in list(one.partial_shape)[1:]]
                kept = openvino.Tensor(one.element_type, openvino.Shape([self.pages, *sizes]))
                self._request.set_tensor(name, kept)
                self._kept.append(kept)
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO does not load this model: {_plain(error)}.",
                remedy="Serve it with --engine llamacpp or transformers, and report this.",
            ) from None

    def step(self, parts: Sequence[Part]) -> list[NDArray[np.float32]]:
        """[places, V] of each part, in memory that the next step writes over. Raises RuntimeError."""
        ids: list[int] = []
        positions: list[int] = []
        begins, page_begins = [0], [0]
        past: list[int] = []
        pages: list[int] = []
        picked: list[int] = []
        for part in parts:
            picked += [len(ids) + place for place in part.places]
            ids += part.ids
            end = part.past + len(part.ids)
            positions += range(part.past, end)
            begins.append(len(ids))
            past.append(part.past)
            pages += part.pages[: -(-end // self.page)]
            page_begins.append(len(pages))
        longest = max(part.past + len(part.ids) for part in parts)
        for name, value, kind in (
            ("input_ids", ids, np.int64),
            ("position_ids", positions, np.int64),
            ("past_lens", past, np.int32),
            ("subsequence_begins", begins, np.int32),
            ("block_indices", pages, np.int32),
            ("block_indices_begins", page_begins, np.int32),
            ("max_context_len", longest, np.int32),
            ("picked", picked or [0], np.int64),  # a product of no rows at all is not everywhere allowed
        ):
            self._request.set_tensor(name, self._tensor(np.asarray(value, dtype=kind)))
        self._request.infer()
        told = self._request.get_output_tensor(0).data
        rows: NDArray[np.float32] = told.reshape(-1, told.shape[-1])
        ends = np.cumsum([len(part.places) for part in parts]).tolist()
        return [rows[end - len(part.places) : end] for part, end in zip(parts, ends, strict=True)]

    def copy(self, page: int, to: int) -> None:
        """What lies in one page lies in the other, too."""
        for kept in self._kept:
            kept.data[to] = kept.data[page]


def _pick(model: Any) -> None:
    """Logits at some places only: of a prompt all but the last would be computed for nothing, each as wide as the vocabulary."""
    from openvino import opset13 as operations

    product = model.get_results()[0].input_value(0).get_node()
    if product.get_type_name() != "MatMul":
        raise RuntimeError("its last step is not a product")
    places = operations.parameter([-1], np.int64)
    places.output(0).set_names({"picked"})
    hidden = operations.gather(product.input_value(0), places, operations.constant(0, np.int64))
    product.input(0).replace_source_output(hidden.output(0))
    model.add_parameters([places])
    model.validate_nodes_and_infer_types()


def _plain(error: RuntimeError) -> str:
    """Its last line that is not about where in its own code it failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = (
        [line for line in lines if not line.startswith(("Exception from", "Check "))] or lines or ["no word"]
    )
    return told[-1][:300].rstrip(".")
