"""How the verbs of core/verbs are done at an App, and how their results become plain JSON.

    here(app, "records.show", reference="router@1")     with App's own arguments: what the command line does on this machine
    done(app, "records.show", wish, folder)             with a wish from afar: what the server does, at once or in a job
    run                                                 the kind of job `verb`

The plain result is the same both ways, but for places: from afar what is a file of this machine is {"name", "sha256", "size_bytes"}, to be
fetched (passing), and a folder is None. Whoever asks from afar names no place of this machine that the policy does not (app/desk).
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from luthier.core.errors import LuthierError, SpecError
from luthier.core.verbs import VERBS, ExportWish, Sent, Verb, Wish, Written
from luthier.deployment.rollout import Rollout

from .context import Silent, Watch
from .jobs.foreign import as_yaml, ready
from .passing import Passing
from .rollouts import plain as line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .app import App
    from .jobs.attempt import Attempt

JUDGED_IN = (".jsonl", ".ndjson", ".csv")
MOST_JUDGED_BYTES, MOST_JUDGED = 64_000_000, 200_000
"""Of a file of judgements that comes from afar: bytes, rows."""


def here(app: App, name: str, /, *given: Any, **named: Any) -> Any:
    """The plain result. Where App asks who takes a step and nobody is named, it is who acts; `watch` and `stop` are for verbs that take
    them."""
    verb = VERBS[name]
    method = getattr(getattr(app, verb.noun), verb.method)
    taken = signature(method).parameters
    if "by" in taken and named.get("by") is None:
        named["by"] = asked_by(app)
    named = {k: v for k, v in named.items() if k in taken or k not in ("watch", "stop")}
    return _plain(verb, method(*given, **named))


def done(
    app: App, name: str, wish: Wish, folder: Path, watch: Watch | None = None, stop: threading.Event | None = None
) -> dict[str, Any]:  # fmt: skip
    """{"result", "files"}. `folder` is this verb's alone; what was sent is placed there, and what it writes is taken from there."""
    try:
        return _done(app, VERBS[name], wish, folder, watch, stop)
    except LuthierError as error:  # whoever sent a file knows it by its name
        for attribute in ("message", "remedy"):
            if (said := getattr(error, attribute)) is not None:
                setattr(error, attribute, said.replace(f"{folder / 'in'}/", "").replace(f"{folder}/", ""))
        raise


def _done(
    app: App, verb: Verb, wish: Wish, folder: Path, watch: Watch | None, stop: threading.Event | None
) -> dict[str, Any]:  # fmt: skip
    from .data.find import dataset_of

    given: dict[str, Any] = {}
    for field in type(wish).model_fields:
        given[field] = _placed(app, getattr(wish, field), folder / "in")
    _check(verb, given.get("reference"))
    if (
        verb.name == "data.inspect"
    ):  # which looks at files too: by its digest, no file here is meant, whatever it is called
        given["reference"] = dataset_of(app.store, given["reference"]).digest
    method = _method(app, verb)
    taken = signature(method).parameters
    if "by" in taken:
        given["by"] = asked_by(app)
    if "watch" in taken:
        given["watch"] = watch or Silent()
    if "stop" in taken and stop is not None:
        given["stop"] = stop
    if verb.into is not None:
        given[verb.into] = folder / "out"
    found = method(**given)
    result = _plain(verb, found)
    passing = Passing(app.home)
    if isinstance(result, dict):
        result |= {key: None for key in verb.here if key in result}
        for key in verb.files:
            if result.get(key) is not None:
                path = Path(result[key])
                result[key] = passing.enter(path, path.name).plain() if path.is_file() else None
    files = []
    if verb.into is not None:
        made = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
        files = [passing.enter(path, path.relative_to(folder / "out").as_posix()).plain() for path in made]
        if isinstance(result, list):
            result = [one["name"] for one in files]
    return {"result": result, "files": files}


def run(at: Attempt) -> Mapping[str, Any]:
    """A verb as a job: `wish` is {"verb": name, **fields}."""
    verb, wish = told(at.job.wish)
    with _clean(at.folder / "verb") as folder:
        return done(at.app, verb.name, _vetted(at, wish, folder / "uploaded"), folder, at.watch, at.stop)


def _vetted(at: Attempt, wish: Wish, folder: Path) -> Wish:
    """The same wish, with the project's uploaded files beside what was written. Raises NotAllowed."""
    field = next((name for name in type(wish).model_fields if isinstance(getattr(wish, name), Written)), None)
    found = None if field is None else ready(at, folder)
    if field is None or found is None or not found.files:
        return wish
    written: Written = getattr(wish, field)
    passing = Passing(at.app.home)
    files = {path.name: passing.enter(path, path.name).sha256 for path in folder.iterdir()}
    text = written.model_copy(update={"text": as_yaml(found), "files": {**written.files, **files}})
    return wish.model_copy(update={field: text, "overrides": []})


def told(wish: Mapping[str, Any]) -> tuple[Verb, Wish]:
    """Of a job. Raises SpecError for one that this version does not know."""
    verb = VERBS.get(str(wish.get("verb")))
    if verb is None:
        raise SpecError(f"there is no verb {wish.get('verb')!r} here.", remedy="Ask a server of its version.")
    try:
        return verb, verb.wish.model_validate({k: v for k, v in wish.items() if k != "verb"})
    except ValidationError as error:  # of another version
        fault = error.errors(include_url=False)[0]
        raise SpecError(f"{verb.name}: {fault['loc']}: {fault['msg']}.", remedy="Submit it again.") from None


def check(app: App, name: str, wish: Wish) -> None:
    """What can be said of a wish before its job runs. Raises as the verb would."""
    from luthier.core.spec import override, parse, read_yaml

    from .exporting import check_form
    from .merging import MergeFile
    from .recipe import Recipe

    passing = Passing(app.home)
    for field in type(wish).model_fields:
        match getattr(wish, field):
            case Written() as written:
                overrides = tuple(getattr(wish, "overrides", ()))
                tree = override(read_yaml(written.text, written.name), overrides)
                parse(MergeFile if name == "recipes.merge" else Recipe, tree)
                for sha256 in written.files.values():
                    passing.find(sha256)
            case Sent() as sent:
                _check_sent(name, sent.name, passing.find(sent.sha256))
    if isinstance(wish, ExportWish):
        check_form(wish.form)
    _check(VERBS[name], getattr(wish, "reference", None))


def _check_sent(name: str, called: str, path: Path) -> None:
    """Judgements of a stranger are read as plain text alone, and not without end. Raises SpecError."""
    if name != "traffic.feedback":
        return
    if Path(called).suffix.lower() not in JUDGED_IN:
        raise SpecError(
            f"{called} is none of {', '.join(JUDGED_IN)}, which a server reads judgements from.",
            remedy="Write it as JSON Lines or CSV, not compressed.",
        )
    if (size := path.stat().st_size) > MOST_JUDGED_BYTES:
        raise SpecError(
            f"{called} has {size:,} bytes, and at most {MOST_JUDGED_BYTES:,} are taken in at once.",
            remedy="Divide the file and send one part after the other.",
        )


def asked_by(app: App) -> str:
    """Who is acting, as people know him."""
    person = app.actor.person or {}
    return str(person.get("name") or person.get("user") or app.actor.id)


@contextmanager
def _clean(folder: Path) -> Iterator[Path]:
    """A folder of this attempt's own; what an earlier one left goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _placed(app: App, value: Any, folder: Path) -> Any:
    """What App takes: paths for what was sent."""
    match value:
        case Written():
            target = folder / value.name
            for name, sha256 in value.files.items():
                Passing(app.home).place(sha256, folder / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(value.text, encoding="utf-8")
            return target
        case Sent():
            Passing(app.home).place(value.sha256, folder / value.name)
            return folder / value.name
        case list():
            return tuple(value)
    return value


def _check(verb: Verb, reference: Any) -> None:
    """No file of this machine is looked at, nor looked for. Raises SpecError."""
    from .data.raw import is_source

    if verb.noun == "data" and reference is not None and is_source(reference, here=False):
        raise SpecError(
            f"{reference!r} is a file or an address, and a server looks at what it keeps.",
            remedy="Name a dataset; a file is looked at where it is, without --remote.",
        )


def _method(app: App, verb: Verb) -> Callable[..., Any]:
    if verb.name in _OTHERS:
        return lambda **given: _OTHERS[verb.name](app, **given)
    return getattr(getattr(app, verb.noun), verb.method)


def _run(app: App, *, waive: tuple[str, ...], because: str | None, **given: Any) -> Any:
    from luthier.governance.waiver import Asked

    return app.recipes.run(waive=Asked.of(waive, because, asked_by(app) if waive else None), **given)


def _feedback(app: App, *, path: Path) -> Any:
    _check_sent("traffic.feedback", path.name, path)
    return app.traffic.feedback(path, asked_by(app), MOST_JUDGED)


_OTHERS: Mapping[str, Callable[..., Any]] = {"recipes.run": _run, "traffic.feedback": _feedback}


def _plain(verb: Verb, found: Any) -> Any:
    result = plain(found)
    return result if not (verb.files and isinstance(result, str)) else {verb.files[0]: result}


def plain(found: Any) -> Any:
    """As JSON has it; a figure that is no number is None."""
    match found:
        case Path():
            return str(found)
        case float():
            return found if math.isfinite(found) else None
        case Mapping():
            return {str(key): plain(value) for key, value in found.items()}
        case list() | tuple() | set():
            return [plain(one) for one in found]
    if isinstance(found, Rollout):
        return plain(line(found))
    if callable(getattr(found, "plain", None)):
        return plain(found.plain())
    return plain(asdict(found)) if is_dataclass(found) and not isinstance(found, type) else found
