"""What can be asked of a dataset, once for command line, HTTP and pages: `app.data`.

    inspect    what is in it, as figures and as a page                     profile.py, page under home/reports
               what is in a file or another source, before a recipe        raw.py, raw_columns.py
    advise     what would help it, from its numbers                        advise.py
    diff       which rows two datasets do not share, and why               diff.py
    explain    what happened to one row, from its line to the weights      explain.py
    search     rows that contain words or meet conditions                  search.py, where.py
    export     its rows as files or a table, with Croissant metadata       export*.py, croissant.py
    forget     leave records out from now on; who used them                forget.py
    forgotten  what was forgotten, by whom, when and why
    layout     how a file looks before it is a dataset                     files.py
    convert    the rows of a file in another layout                        files.py
    contract_* propose a contract, check a file against one, write one     files.py

A dataset is named as everything else is: a release's name, name@version, a run, the first digits of a digest (find.py).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.context import Watch

    from .raw import Counting


class Data:
    """`app.data`. Every method gives plain values, fit for JSON. Raises NotFound for a name that nothing answers to."""

    def __init__(self, app: App) -> None:
        self._app = app

    def prepare(
        self,
        recipe: Path,
        overrides: tuple[str, ...] = (),
        *,
        watch: Watch | None = None,
        stop: threading.Event | None = None,
        asks: bool = True,
    ) -> dict[str, Any]:
        """The dataset of a recipe, made if it is not there; nothing of its model is looked at. Without `asks` no model writes rows,
        and WouldAsk is raised where one would."""
        from luthier.app.line import Make, prepared
        from luthier.app.planning import written_rules

        wish = self._app.recipes.read(recipe, overrides)
        with closing(self._app.recipes.context(wish, watch, stop)) as at:
            make = Make(at)
            dataset = prepared(wish, at, make, asks=asks)
        assert dataset is not None
        return {
            "dataset": dataset.digest, "made": bool(make.made), "rules": written_rules(wish), **dataset.summary,
        }  # fmt: skip

    def inspect(
        self, reference: str, *, base: str | None = None, map_: str | None = None, page: bool = True,
        watch: Watch | None = None, stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What is in a dataset, or in a file, a URL or a source before there is a recipe. `base` names a model whose tokenizer
        counts: of a dataset by default that of a model trained on it. `map_` says what a file's columns mean."""
        from .find import dataset_of
        from .profile import profile
        from .raw import is_source, profile_source
        from .show import show_page

        look = self._looking(watch, stop)
        if is_source(reference):
            counting = self._counting(base, watch, stop)
            found = profile_source(reference, map_, counting, self._app._environ, look)
        elif map_ is not None:
            raise SpecError(
                f"--map says what a file's columns mean, and {reference!r} is a dataset, whose recipe has said it.",
                remedy="Leave --map out, or name a file.",
            )
        else:
            found = profile(self._app.store, dataset_of(self._app.store, reference), base, look)
        if page:
            found["report"] = str(show_page(self._app.home, found))
        return found

    def _counting(self, base: str | None, watch: Watch | None, stop: threading.Event | None) -> Counting:
        """The tokenizer of a base model, which is imported when it is not there yet."""
        from .raw import Counting

        if base is None:
            return Counting()
        from luthier.app.context import RunContext, Silent
        from luthier.app.line import import_base
        from luthier.models.template import Template
        from luthier.models.weights import load_tokenizer

        store = self._app.store
        at = RunContext(
            store,
            f"import-{base}",
            Path.cwd(),
            self._app._environ,
            watch or Silent(),
            stop or threading.Event(),
        )
        return Counting(base, Template(load_tokenizer(store.folder(import_base(base, at))), 1 << 30), None)

    def advise(
        self, reference: str | Path, *, base: str | None = None, watch: Watch | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What would help a dataset, each with its number and the lines of a recipe that would do it. A path means a recipe,
        whose rows are prepared if they are not there; rules that would have rows written by a model are not asked."""
        from .advise import advise
        from .find import dataset_of

        store = self._app.store
        if isinstance(reference, Path):
            reference = self.prepare(reference, watch=watch, stop=stop, asks=False)["dataset"]
        dataset = dataset_of(store, str(reference))
        return advise(store, dataset, base, self._looking(watch, stop))

    def diff(
        self, one: str, other: str, *, watch: Watch | None = None, stop: threading.Event | None = None
    ) -> dict[str, Any]:
        """What two datasets do not share: rows, what rows say, and what was asked for."""
        from .diff import compare
        from .find import dataset_of

        store = self._app.store
        return compare(store, dataset_of(store, one), dataset_of(store, other), self._looking(watch, stop))

    def explain(
        self, row: str, *, dataset: str | None = None, recipe: Path | None = None, watch: Watch | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What happened to one row: by its id, or by its place ("tickets.jsonl:12"). With `recipe`, whose folder the sources'
        paths start from, the row is read again, so that every change shows what was there before and after."""
        from .explain import explain
        from .find import Reader, dataset_of

        store, reader = self._app.store, None
        if recipe is not None:
            folder = self._app.recipes.read(recipe, ()).folder
            reader = Reader(store.home, folder, self._app._environ, self._looking(watch, stop))
        return explain(store, row, dataset_of(store, dataset) if dataset else None, reader)

    def search(
        self, reference: str, words: Sequence[str] = (), where: Sequence[str] = (), *, limit: int = 20,
        watch: Watch | None = None, stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Rows that contain all of the words and meet all of the conditions; the first `limit` are shown."""
        from .find import dataset_of
        from .search import search

        store = self._app.store
        return search(store, dataset_of(store, reference), words, where, limit, self._looking(watch, stop))

    def export(
        self, reference: str, to: str | Path, *, format: str = "parquet", table: str | None = None,
        croissant: bool = False, watch: Watch | None = None, stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Copy a dataset's rows out: files in a folder or under a URL, or, with `table`, a table of a database. `to` may hold
        ${VAR}. Never overwrites."""
        from .export import export
        from .find import dataset_of

        store, look = self._app.store, self._looking(watch, stop)
        dataset = dataset_of(store, reference)
        done = export(
            store, dataset, str(to), look, self._app._environ, form=format, table=table, croissant=croissant
        )
        facts = {
            "digest": dataset.digest,
            "to": str(to),
            "form": "table" if table else format,
            "rows": sum(done["rows"].values()),
        }
        store.audit.append(self._app.actor.act("data.exported", reference, facts))
        return done

    def forget(
        self, where: Sequence[str], *, dataset: str | None = None, reason: str | None = None, recipe: Path | None = None,
        really: bool = False, watch: Watch | None = None, stop: threading.Event | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Which records are meant (by the rows of every dataset, or of one), and which datasets and models used them; with `really` they
        are left out from now on."""
        from .find import dataset_of
        from .forget import forget

        wish = self._app.recipes.read(recipe, ()) if recipe else None
        return forget(
            self._app.store,
            where,
            reason,
            wish,
            self._app._environ,
            really,
            self._looking(watch, stop),
            self._app.actor,
            dataset_of(self._app.store, dataset) if dataset else None,
        )

    def forgotten(self) -> list[dict[str, Any]]:
        """Every record that was forgotten, oldest first."""
        from .forget import forgotten_records

        return forgotten_records(self._app.store)

    def layout(self, file: str) -> dict[str, Any]:
        """Every layout that a file could have: how sure that is, why, and how many of its first rows fit."""
        from .files import layout

        return layout(file, self._app._environ)

    def convert(self, file: str, out: Path, *, to: str, map_: str | None = None) -> dict[str, Any]:
        """Write the rows of a file in another layout. `map_` says what its columns mean, as a recipe writes it. Never
        overwrites."""
        from .files import convert

        return convert(file, out, to, map_, self._app._environ)

    def contract_propose(self, file: str) -> dict[str, Any]:
        """A contract that the first rows of a file keep."""
        from .files import propose_contract

        return propose_contract(file, self._app._environ)

    def contract_check(self, file: str, contract: str) -> dict[str, Any]:
        """How many rows of a file break a contract, the first of them, and why the whole would be refused."""
        from .files import check_contract

        return check_contract(file, contract, self._app._environ)

    def contract_export(
        self, contract: str, *, name: str | None = None, odcs: bool = False
    ) -> dict[str, Any]:
        """A contract in our form, or with `odcs` in that of the Open Data Contract Standard."""
        from .files import contract_as

        return contract_as(contract, name, odcs=odcs)

    def about(self, digest: str) -> Mapping[str, Any] | None:
        """What people say of a dataset; the newest word counts."""
        from .about import about_of

        return about_of(self._app.store, digest)

    def _looking(self, watch: Watch | None, stop: threading.Event | None) -> Any:
        from .find import Looking

        return Looking(watch, stop)
