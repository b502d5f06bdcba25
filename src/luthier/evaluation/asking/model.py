"""A base model that rules ask, in memory with its template: loaded once for all rules of a preparation."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from luthier.data.rules.rule import Lent
from luthier.models.place import place
from luthier.models.template import Template


class Model:
    """Raises ModelError."""

    def __init__(self, folder: Path, device: str, dtype: str, section: str) -> None:
        from luthier.models.weights import describe, load, load_tokenizer

        where = place(device, dtype, section)
        self.template = Template(load_tokenizer(folder), describe(folder).context)
        self.weights = load(folder, dtype=where.dtype, device=where.device)
        self.device = where.device


def model(given: Lent, section: str) -> Model:
    """The one that the setting `model` names; `section` is the rule, for errors."""
    wish, folder = given.settings, given.folders["model"]
    name = ("model", folder, wish.device, wish.dtype)
    return cast(Model, given.once(name, lambda: Model(Path(folder), wish.device, wish.dtype, section)))
