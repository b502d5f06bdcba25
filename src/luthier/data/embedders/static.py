"""static: a vector for each token of a vocabulary, from a folder, averaged over the text: what model2vec writes.

    folder/model.safetensors   `embeddings` [V, size], if there are any `weights` [V] and `mapping` [tokens of the tokenizer]
    folder/tokenizer.json      of the tokenizers library

Such vectors know which words mean the like, from the model that they were drawn from, and nothing of their order. Nothing is
fetched: the folder is there, on every worker at the same path. Vectors are rounded to 1/32,767 of the largest when they are read,
so that a text's sum is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from luthier.core.errors import DataError, missing_part
from luthier.core.spec import Spec

from .embedder import EmbedderKind

if TYPE_CHECKING:
    import numpy as np

FILES = ("model.safetensors", "tokenizer.json")
AT_ONCE = 1 << 14


class StaticSpec(Spec):
    folder: str
    """The whole path of a folder with model.safetensors and tokenizer.json."""

    @field_validator("folder")
    @classmethod
    def _is_whole(cls, folder: str) -> str:
        if not Path(folder).is_absolute():
            raise ValueError(
                f"{folder!r} is not a whole path; every worker needs to find it, as in /models/potion"
            )
        return folder


class Static:
    def __init__(self, settings: StaticSpec) -> None:
        import numpy as np

        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise missing_part(error.name or "safetensors", "train", "embedder: static") from None
        model, tokenizer = _files(settings)
        told = load_file(str(model))
        if "embeddings" not in told or told["embeddings"].ndim != 2:
            raise DataError(
                f"{model}: there is no table `embeddings`, but {', '.join(sorted(told)) or 'nothing'}.",
                remedy="Name a folder that model2vec has written.",
            )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        table = told["embeddings"].astype(np.float64)
        if "mapping" in told:
            table = table[told["mapping"].astype(np.int64)]
        if "weights" in told:
            table = table * told["weights"].astype(np.float64)[:, None]
        tokens = self._tokenizer.get_vocab_size()
        if len(table) < tokens or not np.isfinite(table).all():
            raise DataError(
                f"{model}: {len(table)} vectors for {tokens} tokens, or some are no numbers.",
                remedy="Take both files from one model.",
            )
        largest = np.abs(table).max() or 1.0
        self._table = np.rint(table * (32767 / largest)).astype(np.int16)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """int8 [n, size]"""
        import numpy as np

        from luthier.data.vectors import quantised

        told = [one.ids for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        out = np.zeros((len(texts), self._table.shape[1]))
        for row, ids in enumerate(told):
            for start in range(0, len(ids), AT_ONCE):
                out[row] += self._table[ids[start : start + AT_ONCE]].sum(axis=0, dtype=np.int64)
        return quantised(out)


def _files(settings: StaticSpec) -> list[Path]:
    found = [Path(settings.folder) / name for name in FILES]
    for path in found:
        if not path.is_file():
            raise DataError(
                f"{path} is not there, and embedder: static needs it.",
                remedy="Name a folder that model2vec has written.",
            )
    return found


def _mark(settings: StaticSpec) -> str:
    from hashlib import blake2b

    digest = blake2b(digest_size=32)
    for path in _files(settings):
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


static = EmbedderKind(
    "static", "A vector for each token from a local folder, averaged (model2vec).", StaticSpec, Static, _mark
)
