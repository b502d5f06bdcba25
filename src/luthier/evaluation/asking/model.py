"""A model that rules and judges ask, in memory with its template: loaded once for all rules of a preparation."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from luthier.data.rules.rule import Lent
from luthier.models.place import place
from luthier.models.template import Template


class Model:
    """Raises ModelError."""

    def __init__(
        self, folder: Path, device: str, dtype: str, section: str, base_folder: Path | None = None
    ) -> None:
        from luthier.models.weights import ADAPTER_CONFIG, describe, load, load_tokenizer

        where = place(device, dtype, section)
        adapter = (folder / ADAPTER_CONFIG).is_file()
        speaks = base_folder if adapter and base_folder is not None else folder
        self.template = Template(load_tokenizer(speaks), describe(speaks).context)
        base = base_folder if adapter else None
        self.weights = load(folder, dtype=where.dtype, device=where.device, base_folder=base)
        self.device = where.device


def model(given: Lent, section: str) -> Model:
    """The one that the setting `model` names, with the base it was tuned from where it is an adapter; `section` is the rule, for
    errors."""
    wish, folder, base = given.settings, given.folders["model"], given.folders.get("base")
    name = ("model", folder, wish.device, wish.dtype)
    return cast(
        Model,
        given.once(
            name, lambda: Model(Path(folder), wish.device, wish.dtype, section, Path(base) if base else None)
        ),
    )
