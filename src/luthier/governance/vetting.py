"""Whether a recipe of somebody else's may run here: everything in it that reads, sends, loads or names something is held against the
policy. What nobody has listed is refused, so a new field is refused until somebody says what it is (vetted_fields).

    vet(recipe, written, policy, roles, file) ──▶ Vetted(written with uploaded files put in, files, data class) or NotAllowed with every refusal

A recipe names an uploaded file by its id, wherever a file may stand: `files: file-abc`. `file` says what to write in its place: a path
relative to the folder that the recipe is then read from. That folder holds what came with the recipe and nothing else, so other plain
relative paths are let be. Nothing is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from luthier.core import plugin
from luthier.core.errors import NotAllowed, NotFound
from luthier.core.part import PartSpec
from luthier.core.spec import Spec, references
from luthier.core.units import Money

from .site_policy import CLASS_TAG, UNCLASSIFIED, Effective, Refusal
from .vetted_fields import called, holds_text, kind_of, reaching

if TYPE_CHECKING:
    from luthier.data.spec import DataSpec
    from luthier.evaluation.spec import EvaluateSection

FILE_ID: Final = re.compile(r"file-[A-Za-z0-9_-]{1,60}", re.ASCII)
_BESIDE: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._ +=@*?-]*(/[A-Za-z0-9_*?][A-Za-z0-9._ +=@*?-]*)*", re.ASCII
)
"""A file that came with the recipe: nothing hidden, nothing upwards, no scheme."""
_HUB: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._-]+)?", re.ASCII
)
"""owner/name, with a revision or without; whatever else has a slash is a place."""
_WORD: Final = re.compile(r"[^/\\:$~]*")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(@[0-9]+)?", re.ASCII)
_BROKER: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)

Files = Callable[[str], str]
"""What to write in place of an uploaded file's id. Raises NotFound for none of the project's."""


class Wished(Protocol):
    """A recipe, as far as its rules are looked at by name."""

    @property
    def base(self) -> str: ...
    @property
    def data(self) -> DataSpec: ...
    @property
    def evaluate(self) -> EvaluateSection: ...


@dataclass(frozen=True)
class Vetted:
    """`written`: the recipe as it may be run. `files`: the ids in it. `data_class`: of its rows."""

    written: dict[str, Any]
    files: tuple[str, ...]
    data_class: str


@dataclass
class _Vetting:
    policy: Effective
    file: Files
    refusals: list[Refusal] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    hubs: list[str] = field(default_factory=list)
    """Ids of a hub that are to be bases."""
    places: int = 0
    """How often a file's id stands where a file may."""

    def refuse(self, *found: Refusal | None, at: str = "") -> None:
        for one in found:
            if one is not None:
                self.refusals.append(
                    Refusal(one.rule, one.origin, f"{at}: {one.message}" if at else one.message, one.remedy)
                )

    def never(self, at: str, why: str, remedy: str) -> None:
        self.refuse(Refusal("vetting", "the server", why, remedy), at=at)


def vet(
    recipe: Any,
    written: Mapping[str, Any],
    policy: Effective,
    roles: Iterable[str],
    file: Files,
    beside: Iterable[str] = (),
) -> Vetted:
    """`recipe`: parsed from `written`. `roles`: what whoever asks is in the project. `beside`: files that came with it. Raises NotAllowed
    with every refusal."""
    found = vetting(recipe, policy, file)
    for name in beside:
        if any(name.startswith(f"{one}/") for one in found.hubs):
            found.never(name, "it would stand for a model of the hub", "Give the folder another name.")
    data_class = class_of(recipe.data.about)
    found.refuse(
        policy.train(data_class, roles), *_licences(recipe, policy), *policy.gate(recipe.evaluate.gate or {})
    )
    if found.places != sum(1 for text in _strings(written) if FILE_ID.fullmatch(text)):
        found.never(
            "a file's id",
            "it stands where no file is read",
            "Write it under `files`, or another key that takes a file.",
        )
    deny(found.refusals)
    return Vetted(_put(written, found.files), tuple(found.files), data_class)


def vetting(recipe: Spec, policy: Effective, file: Files) -> _Vetting:
    found = _Vetting(policy, file)
    _walk(recipe, "", found)
    return found


def base_refusals(base: str, policy: Effective) -> Sequence[Refusal]:
    """What speaks against a base model that stands by itself."""
    found = _Vetting(policy, str)
    _base(Spec(), "base", base, "base", found)
    return found.refusals


def deny(refusals: Sequence[Refusal]) -> None:
    """Raises NotAllowed where there is any."""
    if refusals:
        told = dict.fromkeys(f"{one.message} ({one.origin}, `{one.rule}`)" for one in refusals)
        raise NotAllowed("\n".join(told), remedy=refusals[0].remedy)


def class_of(about: Any) -> str:
    """Of which class rows are, as `data.about` says. Of two, none: that is refused by its name."""
    tags = sorted(
        {tag.removeprefix(CLASS_TAG) for tag in (about.tags if about else []) if tag.startswith(CLASS_TAG)}
    )
    return "+".join(tags) or UNCLASSIFIED


def _licences(recipe: Wished, policy: Effective) -> Iterator[Refusal | None]:
    from luthier.models.known import KNOWN

    if recipe.data.about is not None and recipe.data.about.licence is not None:
        yield policy.licence(recipe.data.about.licence, "the data")
    if recipe.base in KNOWN:
        yield policy.licence(KNOWN[recipe.base].licence, recipe.base)


# -- the walk ---------------------------------------------------------------------------------------------------------------


def _walk(spec: Spec, at: str, found: _Vetting) -> None:
    if isinstance(spec, PartSpec):
        _part(spec.kind, spec.name, at, found)
        _walk(spec.settings, f"{at}.{spec.name}", found)
        return
    for name, about in type(spec).model_fields.items():
        value, here = getattr(spec, name), f"{at}.{about.alias or name}".removeprefix(".")
        kind = kind_of(type(spec), name)
        if kind in _WHOLE:
            _WHOLE[kind](value or {}, here, found)
            continue
        if kind is None and value == about.get_default(call_default_factory=True):
            _unwritten(value, here, found)
            continue  # of a part of another package, as it is without anybody's word
        if holds_text(type(spec), name):
            for text in _strings(value):
                _text(spec, name, text, here, found)
        for child in _specs(value):
            _walk(child, here, found)


def _unwritten(value: Any, at: str, found: _Vetting) -> None:
    """A method that nobody wrote is used all the same."""
    if isinstance(value, PartSpec):
        if value.kind == "method":
            found.refuse(found.policy.method(value.name), at=at)
    elif isinstance(value, Spec):
        for name in type(value).model_fields:
            _unwritten(getattr(value, name), f"{at}.{name}", found)


def _text(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:
    kind = kind_of(type(spec), name)
    if kind is None:  # a field that nobody has listed, or one of a part of another package
        found.never(
            at,
            f"nobody has said what {called(type(spec), name)} may reach, so it may not be set here",
            "Leave it out.",
        )
        return
    if kind != "key":
        for variable in references(text):
            found.refuse(found.policy.variable(variable), at=at)
    _KINDS[kind](spec, name, text, at, found)


def _part(kind: str, name: str, at: str, found: _Vetting) -> None:
    if name not in plugin.BUILT_IN[kind]:
        found.refuse(found.policy.part(kind, name), at=at)
    if kind == "rows_engine":
        found.refuse(found.policy.engine(name), at=at)
    if kind == "method":
        found.refuse(found.policy.method(name), at=at)


def _words(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:
    """Opened by nobody."""


def _file(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:
    if _inline(spec, name) or text == "auto":
        return
    if not FILE_ID.fullmatch(text):
        if _BESIDE.fullmatch(text):
            return
        found.refuse(found.policy.source(text), at=at)
        return
    found.places += 1
    try:
        found.files[text] = found.file(text)
    except NotFound as error:
        found.never(at, error.message.rstrip("."), error.remedy or "Upload it first.")


def _inline(spec: Spec, name: str) -> bool:
    """A JSON schema that is written out, where a file's name may stand too."""
    return isinstance(getattr(spec, name), dict)


def _source(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:
    found.refuse(found.policy.source(text), at=at)
    if name == "url" and text.strip().lower().startswith("duckdb") and getattr(spec, "query", None):
        found.never(
            at, "a query of DuckDB can read any file of this machine", "Name a table in place of the query."
        )


def _sources(told: Mapping[str, Any], at: str, found: _Vetting) -> None:
    """A mapping of an Iceberg catalog: words, references, and addresses. One without an address finds it by itself, in files and variables
    of the server or in its cloud's account, so it is one too: as TYPE://NAME."""
    if told and not told.get("uri"):
        found.refuse(found.policy.source(f"{told.get('type')}://{told.get('name', 'default')}"), at=at)
    for key, value in told.items():
        text = str(value)
        if key not in ("type", "name", "uri", "warehouse", "token", "credential"):
            found.never(at, f"the setting {key!r} is not for recipes that come from outside", "Leave it out.")
        elif key in ("uri", "warehouse") or (key == "name" and not _NAME.fullmatch(text)):
            found.refuse(found.policy.source(text), at=at)
        for variable in references(text):
            found.refuse(found.policy.variable(variable), at=at)


def _brokers(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    for one in text.split(","):
        if _BROKER.fullmatch(one.strip()):
            found.refuse(found.policy.source(f"kafka://{one.strip()}"), at=at)
        else:
            found.never(at, f"{one!r} is not a host and a port", "Write host:port, several by commas.")


def _dataset(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    found.refuse(found.policy.hub(text), at=at)


def _inside(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    if ".." in text or "://" in text or text.startswith(("/", "~")) or "\\" in text:
        found.never(at, f"{text!r} leads out of what it stands in", "Write a path inside it.")


def _table(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    if getattr(spec, "catalog", None) and re.fullmatch(r"[\w.-]+", text):
        return
    found.refuse(found.policy.source(text), at=at)


def _base(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    from luthier.models.known import KNOWN

    known = KNOWN[text].sha256 if text in KNOWN else None
    hub = known is None and _HUB.fullmatch(text) is not None
    if hub:
        found.hubs.append(text.partition("@")[0])
    found.refuse(found.policy.base(text, known=known, hub=hub), at=at)


def _model(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:
    """A name, with its version or without, is one of the project's where it is not a known model's."""
    from luthier.models.known import KNOWN

    if text in KNOWN or not _NAME.fullmatch(text):
        _base(spec, name, text, at, found)


def _server(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    found.refuse(found.policy.endpoint(text, _keys(spec)), at=at)


def _mail(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    found.refuse(found.policy.endpoint(f"smtp://{text}", _keys(spec)), at=at)


def _key(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    """Held against the policy together with where it is sent; here, that it is sent somewhere."""
    sent = any(kind_of(type(spec), other) in ("server", "mail") for other in type(spec).model_fields)
    if not sent and references(text):
        found.never(at, "this key is sent nowhere that is known", "Leave it out.")


def _plugin(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    _part(name, text, at, found)


def _settings(over: Mapping[str, Any], at: str, found: _Vetting) -> None:
    """What a search puts into the recipe, by path: plain words, and nothing into a field that reaches anything; a base or a method is held
    against the policy as if it stood in the recipe."""
    for path, wish in over.items():
        if hasattr(wish, "set"):  # a technique
            _settings({**wish.over, **{name: [value] for name, value in wish.set.items()}}, at, found)
            continue
        _setting(
            path, getattr(wish, "choices", wish if isinstance(wish, list) else []), f"{at}.{path}", found
        )


def _setting(path: str, choices: Sequence[Any], at: str, found: _Vetting) -> None:
    texts = list(_strings(choices))
    if path == "base":
        for text in texts:
            _base(Spec(), "base", text, at, found)
        return
    keys = {*path.split("."), *_keys_in(choices)}
    if strange := sorted(reaching() & keys):
        found.never(
            at,
            f"a search may not set {strange[0]!r}, which reaches beyond the recipe",
            "Write it into the recipe itself.",
        )
    for text in texts:
        if not _WORD.fullmatch(text) or ".." in text:
            found.never(at, f"{text[:60]!r} may not be set by a search", "Write it into the recipe itself.")
        for kind, names in plugin.BUILT_IN.items():
            if text not in names and text in plugin.names(kind):
                found.refuse(found.policy.part(kind, text), at=at)
        if path.startswith("train") and text in plugin.names("method"):
            found.refuse(found.policy.method(text), at=at)


def _keys_in(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            yield from map(str, one)
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one


def _never(spec: Spec, name: str, text: str, at: str, found: _Vetting) -> None:  # noqa: ARG001
    found.never(at, "this is not for recipes that come from outside", "Leave it out.")


_KINDS: dict[str, Callable[[Spec, str, str, str, _Vetting], None]] = {
    "words": _words, "file": _file, "source": _source, "brokers": _brokers, "dataset": _dataset,
    "inside": _inside, "table": _table, "base": _base, "model": _model, "server": _server, "mail": _mail, "key": _key,
    "secret": _words, "plugin": _plugin, "never": _never,
}  # fmt: skip
"""`secret`: its reference was held against the policy already."""
_WHOLE: dict[str, Callable[[Mapping[str, Any], str, _Vetting], None]] = {
    "sources": _sources,
    "settings": _settings,
}
"""What is looked at as a mapping."""


def _keys(spec: Spec) -> list[str]:
    """The environment variables that the section sends."""
    texts = (
        text
        for name in type(spec).model_fields
        if kind_of(type(spec), name) == "key"
        for text in _strings(getattr(spec, name))
    )
    return sorted({variable for text in texts for variable in references(text)})


def _strings(value: Any) -> Iterator[str]:
    """Every text in plain values, keys included; not those of Specs."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset) and not isinstance(one, Money):
            todo += one


def _specs(value: Any) -> Iterator[Spec]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, Spec):
            yield one
        elif isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple) and not isinstance(one, Money):
            todo += one


def _put(value: Any, files: Mapping[str, str]) -> Any:
    """The same plain values with files' ids replaced."""
    if isinstance(value, str):
        return files.get(value, value)
    if isinstance(value, Mapping):
        return {key: _put(one, files) for key, one in value.items()}
    return [_put(one, files) for one in value] if isinstance(value, list | tuple) else value
