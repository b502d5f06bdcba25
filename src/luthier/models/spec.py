"""What a person writes about models: which one, and what moves in it. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from luthier.core.spec import Spec

Dtype = Literal["fp32", "bf16"]
LARGEST_RANK = 1024


class BaseSpec(Spec):
    base: str = Field(min_length=1, max_length=2000)
    """A known name, a local folder, a hub id (owner/name), or a URL (s3://, abfs://, hdfs://, ...)."""

    revision: str | None = Field(default=None, max_length=200)
    """Branch, tag or commit, for a hub id only; pin a commit for a result that stays the same."""


class LoraSpec(Spec):
    kind: Literal["lora"] = "lora"
    """Low-rank adapters beside the frozen weights (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1, le=LARGEST_RANK)
    """Rank of each update; the adapter's size grows in proportion."""

    alpha: float | None = Field(default=None, gt=0, le=65536)
    """Scale of the update, divided by the rank; twice the rank when not given."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's input dropped while training."""

    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers get an adapter: all of them except the output head, or a list of their names (q_proj, v_proj, ...)."""

    @field_validator("targets")
    @classmethod
    def _plain_names(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list):
            if not value:
                raise ValueError("name at least one layer, or write all-linear")
            for name in value:
                # A name is matched as a suffix; anything else could be read as a pattern.
                if not name.replace("_", "").replace(".", "").isalnum():
                    raise ValueError(f"{name!r} is not a layer's name; write for example q_proj")
        return value

    @property
    def scale(self) -> float:
        """What the product B·A is multiplied by."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank


class FullSpec(Spec):
    kind: Literal["full"] = "full"
    """Every weight moves; needs fp32 and about sixteen bytes of memory per parameter."""


AdapterSpec = Annotated[LoraSpec | FullSpec, Field(discriminator="kind")]
