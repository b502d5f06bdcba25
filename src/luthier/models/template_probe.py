"""Renders an unknown chat template under limits, in its own process: `python -I -m luthier.models.template_probe`.

The template comes on standard input. Exit 0: it renders. Otherwise the last line of standard error says why.
The environment is the one transformers renders with (sandboxed, immutable); limits of time and memory are ours,
because a sandbox has none: two nested loops run for hours.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

CPU_SECONDS = 8
MEMORY_BYTES = 512 * 1024 * 1024
LARGEST_OUTPUT = 1_000_000

_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "What is the capital of France?"}
_ASSISTANT = {"role": "assistant", "content": "Paris."}
# The first must render; the others may be refused by the template itself (some know no system message).
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [_USER],
    [_USER, _ASSISTANT],
    [_SYSTEM, _USER],
    [_SYSTEM, _USER, _ASSISTANT, _USER, _ASSISTANT],
    [_USER, _ASSISTANT] * 20,
)


def render_all(template: str) -> str | None:
    """None when the template renders, else what is wrong with it. Call it only where it can be killed."""
    from jinja2.exceptions import TemplateError

    try:
        compiled = _environment().from_string(template)
    except TemplateError as error:
        return f"it is not a Jinja template ({error})"
    for i, messages in enumerate(_CONVERSATIONS):
        for answer_next in (False, True):
            try:
                text = compiled.render(
                    messages=messages,
                    add_generation_prompt=answer_next,
                    tools=None,
                    documents=None,
                    bos_token="<s>",  # noqa: S106 (a token of text)
                    eos_token="</s>",  # noqa: S106
                    pad_token="",
                    unk_token="",
                )
            except TemplateError as error:
                if i == 0:
                    return f"it refuses a single question ({error})"
                continue
            except (
                TypeError,
                ValueError,
                KeyError,
                AttributeError,
                ArithmeticError,
                RecursionError,
            ) as error:
                return f"it fails with {type(error).__name__}: {error}"
            if len(text) > LARGEST_OUTPUT:
                return f"it turned a short conversation into {len(text):,} characters"
    return None


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, with which a template marks answers; here it only has to parse."""

        tags = {"generation"}  # noqa: RUF012 (the interface of jinja2)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: "2024-01-01"
    return environment


def main() -> int:
    template = sys.stdin.read()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        fault = render_all(template)
    except MemoryError:
        fault = f"it needs more than {MEMORY_BYTES // 2**20} MiB of memory"
    if fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
