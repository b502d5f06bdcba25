"""From what a request asks to token ids and a grammar, by a model's own template. Not here: conversations (models/template)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError, MissingPart, ModelError, SpecError
from luthier.models.grammar import Grammar
from luthier.serving.engine import ContextLengthExceeded, Refused, Request
from luthier.serving.package import PackageFacts

if TYPE_CHECKING:
    from luthier.models.template import Template


def plain_ids(
    template: Template, text: str | tuple[int, ...], max_tokens: int | None, param: str
) -> list[int]:
    """Of plain text, control tokens in it as characters; ids as they are. Raises Refused, which names `param`."""
    if isinstance(text, str):
        ids = template.tokens(template.shielded(text), opens=True)
    else:
        ids, size = list(text), len(template.tokenizer)
        if (wrong := next((one for one in ids if not 0 <= one < size), None)) is not None:
            raise Refused(
                f"{wrong} is no token of this model, which has {size}.", param=param, code="invalid_value"
            )
    if not ids:
        raise Refused("There is no token in it.", param=param, code="invalid_value", remedy="Give some text.")
    if len(ids) + (max_tokens or (param == "prompt")) > template.context:
        raise ContextLengthExceeded(len(ids), max_tokens, template.context, param)
    return ids


def refuse_tools(request: Request, facts: PackageFacts) -> None:
    """Raises Refused where tools are offered to a package whose answers are something else than what the model writes."""
    way = facts.answering
    if request.tools and (facts.constrain or way.vote is not None or way.grammar() is not None):
        raise Refused(
            "This package holds its answers to labels, a grammar or a vote, so it cannot call tools.",
            param="tools",
            code="unsupported_parameter",
        )


def call_grammar(template: Template, request: Request) -> Grammar:
    """What holds an answer to a call of `request.must_call`. Raises Refused."""
    from luthier.models.call_form import call_form

    functions = [tool["function"] for tool in request.tools]
    try:
        form = call_form(template)
        if form is None:
            raise SpecError(
                "this model writes calls in a way that cannot be demanded of it.",
                remedy="Use tool_choice auto.",
            )
        grammar = Grammar.of_calls(form, [one for one in functions if one["name"] in request.must_call])
        grammar.check()
    except (ModelError, SpecError, MissingPart) as error:
        raise refused(error, "tool_choice", "unsupported_parameter") from None
    return grammar


def refused(error: LuthierError, param: str, code: str) -> Refused:
    """An error of the floors below, as a client is told it."""
    return Refused(
        f"{error.message[0].upper()}{error.message[1:]}", param=param, code=code, remedy=error.remedy
    )
