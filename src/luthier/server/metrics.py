"""`GET /metrics`, for Prometheus: what there is to count of requests and answers, by served name and release.

Labels are bounded: routes are those of the table, codes ours, and names and releases those that are served; past `MOST_RELEASES`
pairs the rest is counted as "other". The registry is the app's own, so two apps in one process do not count together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.core.errors import missing_part
from luthier.server.router import Router
from luthier.server.watch import Beside, Seen

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily
except ModuleNotFoundError as error:
    raise missing_part("prometheus_client", "serve", "Counting for Prometheus") from error

MOST_RELEASES = 100
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OTHER = "other"
_FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BETWEEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_WHOLE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """An observer (`watch`), and the text that Prometheus reads."""

    def __init__(self, models: Router, beside: Sequence[Beside] = ()) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self.registry = registry = CollectorRegistry()
        whose = ("model", "release")

        def counter(name: str, about: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"luthier_{name}", about, labels, registry=registry)

        def seconds(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"luthier_{name}_seconds", about, whose, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests, by route and status.", ("route", "status"))
        self._errors = counter("errors", "Requests that ended in an error, by its code.", ("code",))
        self._answers = counter(
            "answers", "Answers, by how they ended; refused: abstentions too.", (*whose, "finish")
        )
        self._tokens = counter("tokens", "Tokens read (in) and made (out).", (*whose, "direction"))
        self._cost = counter("cost", "What answers cost, where a price is known.", (*whose, "currency"))
        self._guards = counter("guard_hits", "What guards found.", ("guard",))
        self._first = seconds("first_token", "From the whole request read to the first token.", _FIRST_S)
        self._between = seconds(
            "token_interval", "Between tokens of an answer, its mean; requests for one answer.", _BETWEEN_S
        )
        self._whole = seconds("answer", "From the whole request read to the whole answer made.", _WHOLE_S)
        registry.register(_Live(models, beside))

    def __call__(self, seen: Seen) -> None:
        self._requests.labels(seen.route, str(seen.status)).inc()
        if seen.code is not None:
            self._errors.labels(seen.code).inc()
        for guard, hits in seen.guarded.items():
            self._guards.labels(guard).inc(hits)
        exchange = seen.exchange
        if exchange is None:
            return
        whose = self._bounded(seen.served)
        for finish in exchange.finish:
            self._answers.labels(*whose, finish).inc()
        self._tokens.labels(*whose, "in").inc(exchange.prompt_tokens)
        self._tokens.labels(*whose, "out").inc(exchange.completion_tokens)
        self._whole.labels(*whose).observe(exchange.latency_s)
        if exchange.cost is not None:
            self._cost.labels(*whose, exchange.cost[1]).inc(exchange.cost[0])
        if exchange.first_token_s is None:
            return
        self._first.labels(*whose).observe(exchange.first_token_s)
        if len(exchange.finish) == 1 and exchange.completion_tokens > 1:
            between_s = (exchange.latency_s - exchange.first_token_s) / (exchange.completion_tokens - 1)
            self._between.labels(*whose).observe(max(between_s, 0.0))

    def _bounded(self, pair: tuple[str, str]) -> tuple[str, str]:
        if pair not in self._pairs:
            if len(self._pairs) >= MOST_RELEASES:
                return _OTHER, _OTHER
            self._pairs.add(pair)
        return pair

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self.registry))


class _Live:
    """What is so at the moment of asking, of each version in memory and of what is done beside the answers."""

    def __init__(self, models: Router, beside: Sequence[Beside]) -> None:
        self._models, self._beside = models, beside

    def collect(self) -> Iterator[Any]:
        whose = ["model", "release"]
        waiting = GaugeMetricFamily("luthier_waiting", "Requests that wait for a slot.", labels=whose)
        active = GaugeMetricFamily("luthier_in_flight", "Requests that hold a slot.", labels=whose)
        slots = GaugeMetricFamily("luthier_slots", "Answers that can be under way at once.", labels=whose)
        ready = GaugeMetricFamily("luthier_ready", "Whether the engine answers.", labels=whose)
        for name, model in self._models.loaded():
            of = [name, model.version]
            waiting.add_metric(of, model.admission.waiting)
            active.add_metric(of, model.admission.active)
            slots.add_metric(of, model.engine.slots)
            ready.add_metric(of, float(model.engine.health().ready))
        yield from (waiting, active, slots, ready)
        well = GaugeMetricFamily("luthier_beside_ok", "Whether it went well the last time.", labels=["name"])
        last = GaugeMetricFamily(
            "luthier_beside_last_seconds", "When it last went well, in Unix time.", labels=["name"]
        )
        for one in self._beside:
            well.add_metric([one.name], float(one.ok))
            if one.last_s is not None:
                last.add_metric([one.name], one.last_s)
        yield from (well, last)
