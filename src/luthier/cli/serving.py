"""`luthier serve`: one or more releases behind OpenAI's protocols, until Ctrl-C. A name without a version follows its rollout while it
is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.app.app import App
from luthier.core.errors import SpecError
from luthier.core.units import Money
from luthier.server import keys as api_keys
from luthier.server.exchange import Exchange

from .door import Door
from .show import Lines

if TYPE_CHECKING:
    from luthier.app.answering import Answerer
    from luthier.server.following import Following
    from luthier.server.served import ServedModel
    from luthier.server.watch import Observer


def serve_releases(
    app: App,
    refs: tuple[str, ...],
    *,
    host: str,
    port: int,
    key_file: Path | None,
    allowed_hosts: tuple[str, ...],
    door: Door,
    as_json: bool,
) -> None:
    """Prints the address and, when it was made here, the key: once, and nowhere else."""
    ring, shown = _keys(key_file)
    api_keys.check_bind(host, ring if key_file else None)
    from luthier.server.denials import Denials
    from luthier.server.openai import create_app
    from luthier.server.serve import serve

    if len(set(refs)) != len(refs):
        raise SpecError("the same name is given twice.", remedy="Name each release once.")
    limits, guard, watching = door.limits(), door.guard(), ExitStack()
    denials = watching.enter_context(Denials(lambda sums: app.audit.denied(sums.items())))
    observers: list[Observer] = [*watching.enter_context(door.observers()), denials]
    source = _Versions(app, door.engine, door.settings, door.hourly(app))
    router = _router(app, refs, source)

    def answered(exchange: Exchange) -> None:
        facts = asdict(exchange)
        app.records.record_answer(facts.pop("id"), **facts)

    def ready(address: str) -> None:
        app.audit.served("started", refs, address)
        watching.callback(app.audit.served, "stopped", refs, address)
        base_url = f"{address}/v1"
        if as_json:
            engines = {
                ref: {"engine": a.by, "how": a.how, "parity": a.parity} for ref, a in source.first.items()
            }
            click.echo(
                json.dumps({"base_url": base_url, "api_key": shown, "models": list(refs), "engines": engines})
            )
            return
        for ref, a in source.first.items():
            click.echo(f"{ref}: {a.by} ({a.how}){_agreement(a.parity)}")
        click.echo(f"serving {', '.join(refs)} at {base_url}")
        if shown:
            click.echo(f"API key (shown once): {shown}")
        key = shown or "$LUTHIER_KEY"
        click.echo(
            f"try:  curl {base_url}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n"
            f'        -d \'{{"model": "{refs[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n'
            "Ctrl-C finishes what is under way and stops."
        )

    try:
        made = create_app(
            router,
            ring,
            allowed_hosts=allowed_hosts,
            on_exchange=answered,
            traffic=door.keeping(lambda _: app),
            limits=limits,
            guard=guard,
            observers=observers,
        )
        with router, door.retention(lambda: [(str(app.home), lambda: app)]):
            serve(made, host, port, chosen_keys=ring if key_file else None, on_ready=ready)
    finally:
        with watching:  # closed last: a database that is away must leave no engine open
            for model in router.pinned.values():
                watching.callback(model.engine.close)


class _Versions:
    """server.following.Source over App."""

    def __init__(self, app: App, by: str, settings: Mapping[str, str], hourly: Money | None) -> None:
        self._app, self._by, self._settings, self._hourly = app, by, settings, hourly
        self.first: dict[str, Answerer] = {}
        """What each name began with."""
        verbs = app.rollouts
        self.current, self.reject, self.observe, self.review = (
            verbs.current, verbs.reject, verbs.observe, verbs.review,
        )  # fmt: skip

    def load(self, name: str, ref: str) -> ServedModel:
        from luthier.server.served import ServedModel

        made = self._app.models.engine(ref, watch=Lines(), by=self._by, settings=self._settings)
        self.first.setdefault(name, made)
        return ServedModel(
            name, made.engine, package_digest=made.digest, release=made.release, hourly=self._hourly
        )


def _router(app: App, refs: tuple[str, ...], source: _Versions) -> Following:
    """Names with versions are followed; everything else (a version, a digest, a known base) is what it is."""
    from luthier.server.arm import Arm
    from luthier.server.following import Followed, Following

    followed, pinned = {}, {}
    for ref in refs:
        first = app.rollouts.answering(ref)
        if first is None:
            pinned[ref] = source.load(ref, ref)
            continue
        followed[ref] = Followed(ref, Arm(first, source.load(ref, first)), source)
        app.rollouts.serving(ref, first)
    return Following(followed, pinned)


def _agreement(parity: Mapping[str, Any]) -> str:
    """Against the plain engine."""
    if not parity:
        return ""
    labels = parity.get("labels")
    beside = f", labels' probabilities within {labels:.3g}" if labels is not None else ""
    return (
        f"; against transformers: the likeliest token is the same in {parity['top_1']:.1%} of {parity['tokens']}, mean divergence "
        f"{parity['divergence']:.2g} nats{beside}"
    )


def _keys(key_file: Path | None) -> tuple[api_keys.KeyRing, str | None]:
    if key_file is None:
        text, key = api_keys.generate()
        return api_keys.KeyRing([key]), text
    try:
        lines = [line.strip() for line in key_file.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"the key file {key_file} cannot be read ({type(error).__name__}).",
            remedy="Give a text file with one key a line.",
        ) from None
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise SpecError(
            f"the key file {key_file} is empty.",
            remedy="Write one key a line, as `luthier serve` shows them.",
        )
    return api_keys.KeyRing(api_keys.key_from_line(line) for line in lines), None
