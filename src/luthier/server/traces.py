"""Traces of requests in OpenTelemetry's words (the semantic conventions for generative AI), sent by OTLP over HTTP.

Off unless `luthier serve --traces URL` names a collector: the variables of the environment that OpenTelemetry knows are not read for
the endpoint. A span is made when a request is over, with the times it had; a `traceparent` of the client becomes its parent. No text
of a message is in it. What cannot be delivered is dropped after the exporter's own tries; answers do not wait for it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from luthier.core.errors import SpecError, missing_part
from luthier.server.watch import Seen

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise missing_part("opentelemetry-sdk", "otel", "Sending traces") from error

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


class Traces:
    """An observer (`watch`)."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(
            resource=Resource({"service.name": "luthier"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("luthier")
        self._parents = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, endpoint: str) -> Traces:
        """To the collector at this URL, as http://127.0.0.1:4318/v1/traces. Raises SpecError for what is no such URL."""
        if not _is_address(endpoint):
            raise SpecError(
                f"{endpoint!r} is no address of a collector.",
                remedy="Give one like http://127.0.0.1:4318/v1/traces.",
            )
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ModuleNotFoundError as error:
            raise missing_part("opentelemetry-exporter-otlp-proto-http", "otel", "Sending traces") from error
        return cls(OTLPSpanExporter(endpoint=endpoint))

    def __call__(self, seen: Seen) -> None:
        operation = _OPERATIONS.get(seen.route)
        if operation is None:
            return
        parent = self._parents.extract({"traceparent": seen.traceparent}) if seen.traceparent else None
        model = seen.exchange.model if seen.exchange else None
        span = self._tracer.start_span(
            f"{operation} {model}" if model else operation,
            context=parent,
            kind=SpanKind.SERVER,
            start_time=int(seen.began_s * 1e9),
            attributes=_attributes(seen, operation),
        )
        if seen.code is not None:
            span.set_status(Status(StatusCode.ERROR if seen.status >= 500 else StatusCode.UNSET))
        span.end(int((seen.began_s + seen.elapsed_s) * 1e9))

    def close(self) -> None:
        """Send what waits, for as long as the exporter takes."""
        self._provider.shutdown()


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        return False


def _attributes(seen: Seen, operation: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "luthier",
        "http.request.method": seen.method,
        "http.route": seen.route,
        "http.response.status_code": seen.status,
        "luthier.request_id": seen.request_id,
    }
    if seen.code is not None:
        told["error.type"] = seen.code
    if (exchange := seen.exchange) is not None:
        told |= {
            "gen_ai.request.model": exchange.model,
            "gen_ai.response.model": exchange.release or exchange.model,
            "gen_ai.response.id": exchange.id,
            "gen_ai.response.finish_reasons": exchange.finish,
            "gen_ai.usage.input_tokens": exchange.prompt_tokens,
            "gen_ai.usage.output_tokens": exchange.completion_tokens,
            "luthier.package_digest": exchange.package_digest,
        }
        if exchange.first_token_s is not None:
            told["gen_ai.server.time_to_first_token"] = exchange.first_token_s
    return told
