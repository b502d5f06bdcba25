"""A server that somebody else runs, as the engine: any that speaks OpenAI's completions protocol and has this very model.

What it has is held against the release before it answers anybody (app/engine_parity.py). What clients ask leaves for it as it is, so
another machine must be allowed by name, and that it may be sent private data must be said.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from luthier.core.errors import SpecError
from luthier.data.egress import need_redacted
from luthier.outputs.spec import EndpointModelSpec
from luthier.serving.completions import CompletionsBackend, Dialect
from luthier.serving.opening import Opening, Settings, one_of, refuse_others, whole_number
from luthier.serving.package_engine import PackageEngine

SETTINGS = ("url", "model", "key", "allow_host", "timeout", "unredacted", "streams", "dialect")
DIALECTS: tuple[Dialect, ...] = ("openai", "vllm")


class UpstreamEngine(PackageEngine):
    """`open` is how it is made."""

    alone = "the server behind it has one model"

    @staticmethod
    def check(settings: Settings) -> tuple[EndpointModelSpec, int, Dialect]:
        """Where, streams, dialect. Raises as `open` does for what no model would change."""
        refuse_others(settings, "upstream", SETTINGS)
        streams, dialect = whole_number(settings, "streams", 8, 1024), one_of(settings, "dialect", DIALECTS)
        told: dict[str, Any] = {
            name: settings[name] for name in settings if name not in ("streams", "dialect")
        }
        for name in ("url", "model"):
            if name not in told:
                raise SpecError(
                    f"the engine upstream needs {name}.",
                    remedy="Add --engine-set url=http://HOST/v1 --engine-set model=NAME.",
                )
        try:
            spec = EndpointModelSpec.model_validate(told)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "url"
            raise SpecError(
                f"--engine-set {where}: {fault['msg'].removeprefix('Value error, ')}.",
                remedy="docs/engines.md has an example.",
            ) from None
        if spec.away:
            need_redacted(spec.host, redacted=False, allowed=spec.unredacted, where="the engine upstream")
        return spec, streams, dialect

    @classmethod
    def open(cls, what: Opening) -> UpstreamEngine:
        """Settings: url, model; key (${NAME}), allow_host, timeout, unredacted; streams (8); dialect (openai, vllm). Raises
        SpecError."""
        spec, streams, dialect = cls.check(what.settings)
        if spec.key:
            what.secret(spec.key)  # told now, and not to the first client
        backend = CompletionsBackend(
            "upstream",
            what.base_folder,
            slots=streams,
            dialect=dialect,
            spec=lambda: spec,
            secret=what.secret,
        )
        return cls(backend, what.facts, other=what.other)
