"""The fast engine for several streams at once on a processor: OpenVINO's runtime, in this process, with continuous batching of ours.

It serves a whole model, in Q8_0: a package's own file, or one that is made of its weights, with the adapter merged into them, and kept by
digest. Each release has a model of its own in memory.

    labels      exact: the prompt is read once, and all labels beside each other after it
    grammars    masked by the same library as in the plain engine (llguidance)
    logits      all there: alternatives of each token, and draws from before or after any bar
    votes       samples of the same distribution as evaluation drew, but not the same ones
    not here    models with a head of their own, families that GGUF files are not written for
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from luthier.models.grammar import Held, vocabulary
from luthier.models.said import Certain, Step
from luthier.serving.backend import Drawn, LabelTokens, Unwanted, Wish, among
from luthier.serving.batching import Batch, Scoring, Writing
from luthier.serving.engine import Health, Unavailable
from luthier.serving.gguf_cache import FORMATS, making, refuse_head
from luthier.serving.llamacpp_engine import STREAMS, TOKENS_A_STREAM
from luthier.serving.opening import Opening, Settings, one_of, refuse_others, whole_number
from luthier.serving.package_engine import PackageEngine

SETTINGS = ("streams", "threads", "precision")
FORM = FORMATS["q8_0"]


class OpenVinoEngine(PackageEngine):
    """`open` is how it is made."""

    @staticmethod
    def check(settings: Settings) -> tuple[int, int | None, str]:
        """Streams, threads, precision. Raises as `open` does for what no model would change."""
        from luthier.models import paged

        refuse_others(settings, "openvino", SETTINGS)
        paged.need()
        return (
            whole_number(settings, "streams", STREAMS, 256),
            whole_number(settings, "threads", None, 1024),
            one_of(settings, "precision", paged.PRECISIONS),
        )

    @classmethod
    def open(cls, what: Opening) -> OpenVinoEngine:
        """Settings: `streams` (8), `threads` (one a core), `precision` (auto: as the processor is fastest; or f32). Raises SpecError,
        ModelError, MissingPart."""
        streams, threads, precision = cls.check(what.settings)
        backend = OpenVinoBackend(
            graph_of(what), what.base_folder, streams=streams, threads=threads, precision=precision
        )
        return cls(backend, what.facts, other=what.other)


def graph_of(what: Opening) -> Path:
    """The folder that models.paged reads. Made where it is missing, which takes seconds for a small model and minutes for a large one.
    Raises ModelError, MissingPart."""
    from luthier.models import merge, paged, to_gguf

    refuse_head(what, "OpenVINO")
    out = what.cache / f"{what.digest}-openvino-{paged.version()}"
    if out.is_dir():
        return out
    own = what.gguf.get(FORM)
    if own is None:
        to_gguf.refuse(what.base_folder)
    with making(what.cache) as place:
        weights, fresh = place / "model.gguf", place / "graph"
        if own is None:
            whole = what.base_folder
            if what.adapter_folder is not None:
                whole = place / "merged"
                merge.merge(what.base_folder, what.adapter_folder, whole, dtype="fp32")
            to_gguf.write(whole, weights, FORM, {"general.name": "merged"})
            own = weights
        paged.made(own, fresh)
        try:
            fresh.rename(out)
        except OSError:  # another process was faster, and made the same
            if not out.is_dir():
                raise
    return out


class OpenVinoBackend(Drawn):
    name = "openvino"
    draws_as_measured = False
    writes = True

    def __init__(
        self, graph: Path, speaks: Path, *, streams: int, threads: int | None, precision: str
    ) -> None:
        self.slots = streams
        self._graph, self._speaks = graph, speaks
        self._threads, self._precision = threads, precision
        self._batch: Batch | None = None
        self._template: Any = None
        self._answers = LabelTokens()
        self._works_in = precision

    @property
    def template(self) -> Any:
        return self._template

    @property
    def told(self) -> str:
        """What it answers from, for a person."""
        from luthier.models.paged import version

        return f"q8_0, products in {self._works_in}; {self.slots} streams; OpenVINO {version()}"

    def load(self) -> None:
        if self._batch is not None and self._batch.alive:
            return
        from luthier.models.llamacpp import cores
        from luthier.models.paged import Paged
        from luthier.models.template import Template
        from luthier.models.weights import describe, load_tokenizer

        context = describe(self._speaks).context
        template = Template(load_tokenizer(self._speaks), context)
        template.need_chat()
        tokens = min(self.slots * context, max(context, self.slots * TOKENS_A_STREAM))
        model = Paged(self._graph, tokens=tokens, threads=self._threads or cores(), precision=self._precision)
        self._works_in = model.precision
        self._batch, self._template = Batch(model, self.slots), template

    def close(self) -> None:
        batch, self._batch, self._template = self._batch, None, None
        if batch is not None:
            batch.close()

    def health(self) -> Health:
        ready = self._batch is not None and self._batch.alive
        return Health(ready, "ready" if ready else "not loaded")

    def write(self, wish: Wish, unwanted: Unwanted) -> Generator[Step, None, None]:
        template = self._template
        batch, text, ends = self._loaded(), Certain(template, wish.stop), frozenset(template.end_ids)
        grammar = wish.grammar
        task = Writing(
            wish.prompt_ids,
            wish.max_tokens,
            ends,
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed,
            logprobs=wish.logprobs,
            held=None if grammar is None else Held(grammar, vocabulary(template.tokenizer, ends)),
            cache_salt=wish.cache_salt,
        )
        batch.enter(task)
        with closing(task.listen(unwanted)) as said:
            for made, one in enumerate(said, 1):
                if one.token in ends:
                    yield Step(one.token, text.finish(), one.logprob, one.top, "stop")
                    return
                delta, stopped = text.add(one.token)
                if stopped or made == wish.max_tokens:
                    rest = "" if stopped else text.finish()
                    finish = "stop" if stopped else "length"
                    yield Step(one.token, delta + rest, one.logprob, one.top, finish)  # type: ignore[arg-type]
                    return
                yield Step(one.token, delta, one.logprob, one.top)

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], unwanted: Unwanted, cache_salt: str = ""
    ) -> Sequence[float]:
        from luthier.models.template import TooLong

        batch, answers = self._loaded(), self._answers.of(self._template, labels, cache_salt)
        longest = len(prompt_ids) + max(map(len, answers)) - 1
        if longest > self._template.context:
            raise TooLong(longest, self._template.context)
        task = Scoring(prompt_ids, answers, cache_salt)
        batch.enter(task)
        with closing(task.listen(unwanted)) as told:
            [totals] = told
        return among(totals)

    def number(self, prompt_ids: Sequence[int], unwanted: Unwanted) -> float | None:
        return None

    def _loaded(self) -> Batch:
        if self._batch is None:
            raise Unavailable("The model is not loaded.", remedy="Load it, or wait until it is ready.")
        return self._batch
