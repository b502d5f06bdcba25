"""What can be asked of trained and released models: which to keep, how two compare, files for elsewhere, an engine that answers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError

from .context import RunContext, Silent, Watch

if TYPE_CHECKING:
    from luthier.postprocessing.sums import Verdict

    from .answering import Answerer
    from .app import App
    from .comparing import Compared
    from .exporting import Exported
    from .rendering import Rendered
    from .selecting import Selected


class Models:
    """`app.models`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def select(self, references: tuple[str, ...] = (), *, recipe: Path | None = None, overrides: tuple[str, ...] = (),
               metric: str | None = None, rule: str = "one_standard_error", name: str | None = None) -> Selected:  # fmt: skip
        """Which of several trained models, or of a search's trials, to go on with, by figures on validation rows alone. `name`: give
        the release that is kept this name, as its newest version."""
        from .selecting import name_it, select_runs, select_trials, version_of

        if recipe is None and overrides:
            raise SpecError(
                "values are changed of a recipe, and none is named.",
                remedy="Add --recipe RECIPE, or leave --set out.",
            )
        if recipe is None:
            found = select_runs(self._app.store, references, metric=metric, rule=rule)
            if name is not None:
                self._app.consent("name", f"{name}={version_of(self._app.store, found.kept)}")
            return (
                found
                if name is None
                else replace(found, named=name_it(self._app.store, found, name, self._app.actor))
            )
        if references or name is not None:
            raise SpecError(
                "a recipe's search chooses among trials, which are not released yet.",
                remedy="Leave out the models and the name; the answer says what to run.",
            )
        if metric is not None:
            raise SpecError(
                "the trials of a search were judged by its own metric (search.metric).",
                remedy="Leave the metric out, or search once more by another one.",
            )
        wish = self._app.recipes.read(recipe, overrides)
        with closing(self._app.recipes.context(wish, None)) as at:
            return select_trials(wish, at, rule=rule)

    def compare(self, one: str, other: str) -> Compared:
        """Two releases (or reports) on the test rows that both were asked, paired."""
        from .comparing import compare_releases

        return compare_releases(self._app.store, one, other)

    def export(self, reference: str, target: Path, *, form: str = "merged", watch: Watch | None = None,
               stop: threading.Event | None = None) -> Exported:  # fmt: skip
        """A release's or model's weights as a plain folder in one form (postprocess.export lists them). Packed and checked now
        where the release does not hold that form. Never overwrites."""
        from .exporting import export

        at = RunContext(
            self._app.store,
            f"export-{reference}",
            Path.cwd(),
            self._app._environ,
            watch or Silent(),
            stop or threading.Event(),
        )
        artifact = self._app.store.catalog.get(reference)
        done = export(at, artifact, target, form)
        self._app.store.audit.append(
            self._app.actor.act("exported", reference, {"digest": artifact.digest, "form": form})
        )
        return done

    def render(
        self, reference: str, target: str, folder: Path, *, image: str, namespace: str | None = None, replicas: int | None = None,
        gpus: int | None = None,
    ) -> Rendered:  # fmt: skip
        """A release written out for a container, Kubernetes, KServe, vLLM, SageMaker or Azure ML: files to review and apply there. What is
        None is as usual there; what a target would ignore raises SpecError."""
        from luthier.deployment.targets import where_to

        from .rendering import render_release

        where = where_to(target, image, namespace, replicas, gpus)
        return render_release(self._app.store, reference, target, where, folder)

    @staticmethod
    def verify(folder: Path) -> Verdict:
        """Whether an exported folder is as it was written: files that are missing, changed or were added."""
        from luthier.postprocessing.sums import verify

        return verify(folder)

    def harness(self, reference: str, tasks: Sequence[str], *, include: Path | None = None, limit: int | None = None,
                shots: int | None = None, chat: bool = True, network: bool = False, watch: Watch | None = None,
                stop: threading.Event | None = None) -> dict[str, Any]:  # fmt: skip
        """Tasks of lm-evaluation-harness on a release, a model, or a known base by its name; kept as a `benchmark`. Nothing is
        fetched unless `network`."""
        from .benchmarking import run_tasks

        run = f"harness-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        root = Path.cwd() if include is None else include.absolute()
        stop = stop or threading.Event()
        with closing(
            RunContext(self._app.store, run, root, self._app._environ, watch or Silent(), stop)
        ) as at:
            return run_tasks(
                at, reference, tasks, include=include is not None, limit=limit, shots=shots, chat=chat, network=network
            )  # fmt: skip

    def engine(self, reference: str, *, watch: Watch | None = None, by: str = "transformers",
               settings: Mapping[str, str] | None = None) -> Answerer:  # fmt: skip
        """The release behind a reference, or a known base by its name, loaded and ready, in the engine called `by`. The caller closes
        its engine. `watch` hears where it cannot answer as it was measured."""
        from luthier.models.known import KNOWN

        from .answering import open_engine
        from .line import import_base

        if reference in KNOWN and not self._app.store.catalog.history(reference):
            at = RunContext(self._app.store, f"import-{reference}", Path.cwd(), self._app._environ)
            digest = import_base(reference, at).digest
            return open_engine(at, digest, name=reference, engine=by, settings=settings)
        at = RunContext(
            self._app.store, f"answer-{reference}", Path.cwd(), self._app._environ, watch or Silent()
        )
        return open_engine(at, reference, engine=by, settings=settings)

    def base_engine(self, base: str) -> Answerer:
        """A base as a recipe names one (a known name, a folder), loaded and ready. The caller closes its engine."""
        from .answering import open_engine
        from .line import import_base

        at = RunContext(self._app.store, f"import-{base[-80:]}", self._app.home, self._app._environ)
        return open_engine(at, import_base(base, at).digest, name=base)
