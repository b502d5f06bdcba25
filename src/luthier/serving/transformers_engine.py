"""The plain engine: a model folder in this process, one answer at a time, with a KV cache. The reference: what is measured is
measured so, and every other engine is held against it.

It is not the fast engine: two requests never share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.models.said import Step
from luthier.models.spec import Dtype
from luthier.outputs.answering import Sample, samples
from luthier.outputs.other import Other
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.abilities import Vectors
from luthier.serving.asked import plain_ids
from luthier.serving.backend import Unwanted, Wish
from luthier.serving.engine import Cancelled, Health, always_wanted
from luthier.serving.opening import Opening, Settings, refuse_others
from luthier.serving.package import PackageFacts, read_facts
from luthier.serving.package_engine import PackageEngine


class TransformersEngine(PackageEngine):
    """`base_folder` is a whole model; `adapter_folder` an adapter on it, whose facts then count.

    `facts` overrides what the folder says, for a model that was never packaged. `longest_answer` and `other` as in PackageEngine.
    """

    def __init__(
        self,
        base_folder: Path,
        adapter_folder: Path | None = None,
        *,
        facts: PackageFacts | None = None,
        dtype: Dtype = "fp32",
        device: str = "cpu",
        longest_answer: int = 1024,
        other: Other | None = None,
    ) -> None:
        self._own = TransformersBackend(base_folder, adapter_folder, dtype=dtype, device=device)
        facts = facts or read_facts(adapter_folder or base_folder)
        super().__init__(self._own, facts, longest_answer=longest_answer, other=other)

    @staticmethod
    def check(settings: Settings) -> None:
        """Raises SpecError."""
        refuse_others(settings, "transformers")

    @classmethod
    def open(cls, what: Opening) -> TransformersEngine:
        """As `luthier serve --engine` does. Raises SpecError for settings, of which it has none."""
        cls.check(what.settings)
        return cls(
            what.base_folder,
            what.adapter_folder,
            facts=what.facts,
            dtype=what.dtype,
            device=what.device,
            other=what.other,
        )

    def embed(self, texts: Sequence[str | tuple[int, ...]], unwanted: Unwanted = always_wanted) -> Vectors:
        with self._free:
            self._must_be_ready()
            ids = [plain_ids(self._own.template, text, None, "input") for text in texts]
            return Vectors(tuple(map(tuple, self._own.vectors(ids, unwanted))), sum(map(len, ids)))


class TransformersBackend:
    name = "transformers"
    slots = 1
    draws_as_measured = True

    def __init__(self, base_folder: Path, adapter_folder: Path | None, *, dtype: Dtype, device: str) -> None:
        self._base_folder = base_folder
        self._adapter_folder = adapter_folder
        self._dtype = dtype
        self._device = device
        self._model: Any = None
        self._template: Any = None
        self._gives_number = False
        self._unwanted: Callable[[], bool] = always_wanted
        self.writes = True

    @property
    def template(self) -> Any:
        return self._template

    def load(self) -> None:
        from luthier.models import template, weights
        from luthier.models.head import Number, head_of

        if self._model is not None:
            return
        context = weights.describe(self._base_folder).context
        made = template.Template(weights.load_tokenizer(self._base_folder), context)
        made.need_chat()
        self._model = weights.load(
            self._adapter_folder or self._base_folder,
            dtype=self._dtype,
            device=self._device,
            base_folder=self._base_folder if self._adapter_folder else None,
        )
        head = head_of(self._model)
        self.writes = head is None
        self._gives_number = isinstance(getattr(head, "gives", None), Number)
        for layer in _layers(self._model):
            layer.register_forward_pre_hook(self._stop_if_unwanted)
        self._template = made

    def _stop_if_unwanted(self, *_: Any) -> None:
        """Before every layer: reading a long prompt takes many seconds, and one layer of it a fraction of one."""
        if self._unwanted():
            raise Cancelled

    @contextmanager
    def _wanted(self, unwanted: Unwanted) -> Iterator[None]:
        self._unwanted = unwanted
        try:
            yield
        finally:
            self._unwanted = always_wanted

    def close(self) -> None:
        self._model = self._template = None

    def health(self) -> Health:
        ready = self._model is not None
        return Health(ready, "ready" if ready else "not loaded")

    def write(self, wish: Wish, unwanted: Unwanted) -> Generator[Step, None, None]:
        from luthier.models.generate import generate

        with self._wanted(unwanted):
            yield from generate(
                self._model,
                self._template,
                wish.prompt_ids,
                max_tokens=wish.max_tokens,
                temperature=wish.temperature,
                top_p=wish.top_p,
                seed=wish.seed,
                stop=wish.stop,
                logprobs=wish.logprobs or 0,
                grammar=wish.grammar,
            )

    def samples(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        spec: AnsweringSpec,
        unwanted: Unwanted,
        cache_salt: str = "",
    ) -> tuple[Sample, ...]:
        with self._wanted(unwanted):
            [drawn] = samples(self._model, self._template, [prompt_ids], max_tokens, spec)
            return drawn

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], unwanted: Unwanted, cache_salt: str = ""
    ) -> Sequence[float]:
        from luthier.models.generate import score_choices

        with self._wanted(unwanted):
            return score_choices(self._model, self._template, [prompt_ids], labels)[0]

    def vectors(self, texts: Sequence[Sequence[int]], unwanted: Unwanted) -> list[list[float]]:
        from luthier.models.pooled import mean_vectors

        with self._wanted(unwanted):
            return mean_vectors(self._model, self._template, texts)

    def number(self, prompt_ids: Sequence[int], unwanted: Unwanted) -> float | None:
        if not self._gives_number:
            return None
        from luthier.models.head import numbers

        with self._wanted(unwanted):
            return float(numbers(self._model, self._template, [prompt_ids])[0])


def _layers(model: Any) -> list[Any]:
    """The blocks that every token passes in turn, whatever the family calls them."""
    from torch.nn import ModuleList

    depth = model.config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == depth]
    return [layer for modules in lists for layer in modules]
