"""What a home holds and where it came from: lists, one artifact, its pages, its lineage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.core.event import Event

if TYPE_CHECKING:
    from .app import App
    from .lineage import Lineage


class Records:
    """`app.records`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def listing(
        self, kind: str | None = None, *, tags: Sequence[str] = (), owner: str | None = None, purpose: str | None = None
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Released names with their versions, or with `kind` every artifact of that kind; newest first. `tags`, `owner` and
        `purpose` leave those of which a recipe says so (`data.about`), and what was made from them."""
        from .wanted import Wanted

        wanted = Wanted(tuple(tags), owner, purpose)
        wanted.refuse(kind)
        if kind is None:
            rows = []
            for version in reversed(self._app.store.catalog.history()):
                artifact = self._app.store.catalog.get(version.digest)
                if not wanted.has(self._app.store, artifact):
                    continue
                rows.append(
                    {
                        "name": str(version),
                        "digest": version.digest,
                        "created_s": version.created_s,
                        "summary": dict(artifact.summary),
                    }
                )
            return sorted(rows, key=lambda row: -row["created_s"])
        known = (
            "source",
            "dataset",
            "model",
            "report",
            "benchmark",
            "package",
            "release",
            "reference",
            "run",
        )
        if kind not in known:
            from luthier.core.errors import did_you_mean

            raise SpecError(f"there is no kind {kind!r}.", remedy=did_you_mean(kind, known))
        if kind == "run":
            return self._runs()
        return [
            {
                "digest": a.digest,
                "kind": a.kind,
                "created_s": a.created_s,
                "summary": dict(a.summary),
                **self._about(a),
            }
            for a in self._app.store.catalog.all(kind)
            if wanted.has(self._app.store, a)
        ]

    def _about(self, artifact: Artifact) -> dict[str, Any]:
        told = self._app.data.about(artifact.digest) if artifact.kind == "dataset" else None
        return {"about": dict(told)} if told else {}

    def _runs(self) -> list[dict[str, Any]]:
        runs: dict[str, dict[str, Any]] = {}
        for event in self._app.store.ledger.read(kind=["run.started", "run.finished"]):
            row = runs.setdefault(
                event.subject, {"run": event.subject, "created_s": event.time_s, "state": "not finished"}
            )
            row |= {
                k: v for k, v in event.data.items() if k in ("name", "state", "release", "reason", "seconds")
            }
        return sorted(runs.values(), key=lambda row: -row["created_s"])

    def show(self, reference: str, *, verify: bool = False) -> dict[str, Any]:
        """One artifact, whole: spec, parents, files, names, and the folder its files can be read from."""
        artifact = self._app.store.catalog.get(reference)
        damaged = [f.path for f in self._app.store.verify(artifact)] if verify else None
        return {
            "kind": artifact.kind, "digest": artifact.digest, "key": artifact.key,
            "names": [str(v) for v in self._app.store.catalog.names_of(artifact.digest)],
            "created_s": artifact.created_s, "summary": dict(artifact.summary), "spec": dict(artifact.spec),
            "parents": dict(artifact.parents),
            "files": [{"path": f.path, "sha256": f.sha256, "size_bytes": f.size_bytes} for f in artifact.files],
            "folder": str(self._app.store.folder(artifact)) if artifact.files else None,
            "report": self._report_of(artifact),
            **self._waivers_of(artifact),
            **self._about(artifact),
            **({"damaged": damaged} if verify else {}),
        }  # fmt: skip

    def _waivers_of(self, artifact: Artifact) -> dict[str, Any]:
        """What a release was let pass, and whether the ledger knows of it."""
        from luthier.governance.waiver import EVENT, WaiverSpec

        if not (waivers := artifact.spec.get("waivers")):
            return {}
        events = list(self._app.store.ledger.read(kind=EVENT, subject=artifact.parents["report"]))
        known = [WaiverSpec.model_validate(one) for event in events for one in event.data["waivers"]]
        told = [WaiverSpec.model_validate(one) for one in waivers]
        return {"waivers": [{**one.plain(), "recorded": one in known} for one in told]}

    def _report_of(self, artifact: Artifact) -> str | None:
        for version in self._app.store.catalog.names_of(artifact.digest):
            path = self._app.home / "reports" / f"{version}.html"
            if path.exists():
                return str(path)
        return None

    def page(self, reference: str) -> Path:
        """The page of a release (NAME, NAME@VERSION) or of a search (NAME-search). Raises NotFound."""
        from .pages import page_of

        return page_of(self._app.store, self._app.home / "reports", reference)

    def pictures(self, reference: str, folder: Path | None = None) -> list[Path]:
        """Every drawing of that page as a PNG file, in `folder` or in a folder beside the page that has its name."""
        from .report.png import write

        page = self.page(reference)
        return write(page, folder or page.with_suffix(""))

    def lineage(self, reference: str, *, all_rows: bool = False) -> Lineage:
        """Where something came from and what came of it; see app/lineage for the references."""
        from .lineage import trace

        return trace(self._app.store, reference, all_rows=all_rows)

    def record_answer(self, response_id: str, **facts: Any) -> None:
        """One fact per served answer: which release gave it. No text is kept."""
        self._app.store.ledger.append(Event("answer", response_id, facts))
