"""Are the weights of a packed form those that it was made from? Tensor by tensor, without running a model.

    adapter  as training left it
    merged   base and what training changed, rounded to the stored format: every number within one rounding
    others   the merged weights, quantised: the error of each block of 32 within the format's half step, and its size kept
             (Σ q·w / Σ w² is 1 up to the square of the error: a scale that is lost or applied twice shows here, whatever the
             answers' tolerance)

A difference is told with the tensor's name and, for merged weights, with how many times what training changed is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import Form

Read = Callable[[str], Any]
"""transformers' name of a tensor -> fp32 tensor, None where the form has none."""
BLOCK = 32
_PLACING = ("lora_alpha", "r", "use_rslora", "use_dora", "target_modules", "layers_to_transform")


@dataclass(frozen=True)
class Rounding:
    """`step`: the most that a block's error may be (root mean square, in shares of its largest number); `size`: how far
    Σ q·w / Σ w² may be from 1."""

    step: float
    size: float


ROUNDINGS: dict[Form, Rounding] = {
    "int8": Rounding(0.0045, 0.005),  # half of 1/127 of the row's largest
    "int4": Rounding(0.075, 0.03),  # half of 1/7
    "gguf": Rounding(0.004, 0.005),  # bf16: 2^-9 of each number
    "gguf-q8": Rounding(0.0045, 0.005),
    "gguf-q4": Rounding(0.075, 0.03),  # half of a fifteenth of the block's range
}


def read_weights(form: Form, folder: Path) -> Read:
    """How this form's weights are read. Raises KeyError for forms that are only compared by what they say."""
    if form in ("merged", "int8", "int4"):
        from luthier.models.compressed import unpacked

        return unpacked(folder)
    if form.startswith("gguf"):
        from luthier.models.gguf import weights_of

        return weights_of(folder / "model.gguf")
    raise KeyError(form)


def trained_weights(model: Path, base: Path) -> Iterator[tuple[str, Any, Any]]:
    """(name, the base's tensor, the trained one), fp32, one tensor at a time."""
    from luthier.models.merge import changes_of
    from luthier.models.tensor_file import Tensors
    from luthier.models.weights import ADAPTER_CONFIG

    below = Tensors(base)
    if (model / ADAPTER_CONFIG).is_file():
        changes = changes_of(model, below.stored)
        for name in below:
            weight = below.read(name).float()
            yield name, weight, changes[name](weight) if name in changes else weight
        return
    own = Tensors(model)
    for name in own:
        if name in below.stored:
            yield name, below.read(name).float(), own.read(name).float()


def adapter_fault(model: Path, folder: Path) -> str | None:
    """What is wrong with a copied adapter; None: nothing."""
    import json

    from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

    mine, its = (
        json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8")) for place in (model, folder)
    )
    if odd := [name for name in _PLACING if mine.get(name) != its.get(name)]:
        told = ", ".join(f"{name} is {its.get(name)} and was {mine.get(name)}" for name in odd)
        return f"Its adapter is scaled or placed otherwise: {told}."
    if (model / ADAPTER_WEIGHTS).read_bytes() != (folder / ADAPTER_WEIGHTS).read_bytes():
        return "Its weights are others."
    return None


def merged_fault(model: Path, base: Path, folder: Path) -> str | None:
    """What is wrong with merged weights; None: nothing."""
    import torch

    from luthier.models.tensor_file import Tensors, dtype_of

    read, stored = read_weights("merged", folder), Tensors(folder).stored
    odd, along, size = None, 0.0, 0.0
    for name, before, wanted in trained_weights(model, base):
        found = read(name)
        if found is None or found.shape != wanted.shape:
            return f"The tensor {name!r} is not in it as it was."
        learnt = wanted - before
        along += float(((found - before) * learnt).sum(dtype=torch.float64))
        size += float(learnt.square().sum(dtype=torch.float64))
        if odd is None and not _rounded(found, wanted, dtype_of(stored[name].dtype)):
            odd = name
    if odd is None:
        return None
    times = (
        f" What training changed is in its weights {along / size:.2f} times, and 1 is right: its scaling."
        if size
        else ""
    )
    return f"Its weights are others, first in {odd!r}.{times}"


def _rounded(found: Any, wanted: Any, dtype: Any) -> bool:
    """Whether this is `wanted`, rounded to the format it is stored in. Products may be added up in another order, so one in a hundred
    may round to the neighbour; a small change at half its scale moves far more of them."""
    import torch

    rounded = wanted.to(dtype).float()
    slack = 1e-5 if dtype == torch.float32 else 0.0
    most = float(wanted.abs().max()) if wanted.numel() else 0.0
    other = (found - rounded).abs() > slack * rounded.abs() + slack * 0.1 * most
    near = torch.allclose(found, rounded, rtol=2**-7, atol=1e-6 * max(most, 1e-3))
    return near and float(other.to(torch.float32).mean() if other.numel() else 0.0) <= 0.01


def rounded_fault(form: Form, folder: Path, whole: Path) -> str | None:
    """What is wrong with quantised weights, against the whole ones they were made from; None: nothing."""
    import torch

    from luthier.models.tensor_file import Tensors

    if form.startswith("gguf") and (odd := _other_settings(folder, whole)):
        return odd
    read, rounding, tensors = read_weights(form, folder), ROUNDINGS[form], Tensors(whole)
    for name in tensors:
        wanted, found = tensors.read(name).float(), read(name)
        if found is None or found.shape != wanted.shape:
            return f"The tensor {name!r} is not in it as it was."
        if wanted.dim() < 2:
            if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-6):
                return f"Its weights are others, first in {name!r}."
            continue
        size = float(wanted.square().sum(dtype=torch.float64))
        times = float((found * wanted).sum(dtype=torch.float64)) / size if size else 1.0
        if abs(times - 1) > rounding.size:
            return f"The weights of {name!r} are in it {times:.3f} times, and 1 is right: its scaling."
        width = wanted.shape[-1] if form == "int8" or wanted.shape[-1] % BLOCK else BLOCK
        error = (found - wanted).reshape(-1, width).square().mean(-1).sqrt()
        most = wanted.reshape(-1, width).abs().amax(-1)
        if (error > rounding.step * most + 1e-7).any():
            return f"Its weights are others than rounding makes them, first in {name!r}."
    return None


_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
)


def _other_settings(folder: Path, whole: Path) -> str | None:
    """A GGUF file's own settings against config.json's, of those that both write down."""
    from luthier.models.folder import read_config
    from luthier.models.gguf import settings_of

    found, wanted = settings_of(folder / "model.gguf"), read_config(whole)
    wanted = {"rope_theta": (wanted.get("rope_parameters") or {}).get("rope_theta"), **wanted}
    for name in _SETTINGS:
        mine, theirs = wanted.get(name), found.get(name)
        if mine is not None and theirs is not None and abs(theirs - mine) > 1e-5 * abs(mine):
            return f"Its settings are others: {name} is {theirs:g} and was {mine:g}."
    return None
