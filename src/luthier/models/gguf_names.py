"""What GGUF calls things: tensors, families, and the rules that cut text before a byte-level BPE. One table for reading and
writing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import ModelError

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type -> GGUF's architecture, of those whose every tensor and setting is carried over."""
ROTATED = ("llama",)
"""Architectures whose rows of q and k are interleaved in GGUF."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FREQUENCIES = "rope_freqs.weight"
"""Factors of Llama 3's rotary scaling; a setting in transformers, so no tensor there."""

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "llama-bpe": _LETTERS + r"\p{N}{1,3}" + _REST,
    "qwen2": _LETTERS + r"\p{N}" + _REST,
    "tekken": _TEKKEN,
}
"""GGUF's name of a pre-tokenizer -> the pattern that cuts text, before bytes are mapped to letters."""
DIGITS = {"smollm": True, "gpt-2": False}
"""Those that cut by GPT-2's own pattern, and whether digits are split one by one before it."""
WHOLE_WORDS = ("llama-bpe", "tekken")
"""Those where a word that is a token as it stands is not merged from its parts."""


def hugging_face_name(name: str) -> str:
    """
    >>> hugging_face_name("blk.3.attn_q.bias"), hugging_face_name("token_embd.weight")
    ('model.layers.3.self_attn.q_proj.bias', 'model.embed_tokens.weight')
    """
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in LAYER_NAMES:
        return f"model.layers.{int(parts[1])}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in OUTER_NAMES:
        return f"{OUTER_NAMES[parts[0]]}.{parts[1]}"
    raise ModelError(
        f"the GGUF file holds an unknown tensor {name!r}.", remedy="Use a file of the Llama family."
    )


def gguf_name(name: str) -> str:
    """
    >>> gguf_name("model.layers.3.self_attn.q_norm.weight"), gguf_name("lm_head.weight")
    ('blk.3.attn_q_norm.weight', 'output.weight')
    """
    stem, _, last = name.rpartition(".")
    for ours, theirs in OUTER_NAMES.items():
        if stem == theirs:
            return f"{ours}.{last}"
    parts = stem.split(".", 3)
    if parts[:2] == ["model", "layers"] and len(parts) == 4:
        for ours, theirs in LAYER_NAMES.items():
            if parts[3] == theirs:
                return f"blk.{parts[2]}.{ours}.{last}"
    raise ModelError(
        f"the tensor {name!r} has no place in a GGUF file of this family.", remedy="Export it as merged."
    )


def pre_tokenizer(written: Mapping[str, Any]) -> str:
    """GGUF's name for what a tokenizer.json does before and beside its merges. Raises ModelError where there is none."""
    model = written["model"]
    normalizer = written.get("normalizer")
    if (
        model.get("type", "BPE") != "BPE"
        or model.get("byte_fallback")
        or model.get("continuing_subword_prefix")
    ):
        raise _unknown("it is no byte-level BPE")
    if (
        normalizer is not None and normalizer["type"] != "NFC"
    ):  # llama.cpp leaves NFC out: text is expected in it
        raise _unknown(f"it rewrites text by {normalizer['type']}")
    steps = written.get("pre_tokenizer") or {"type": "none"}
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    last = steps[-1]
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        raise _unknown("it does not end in bytes without a space of their own")
    name = _by_digits(steps[:-1]) if last.get("use_regex", True) else _by_split(steps[:-1])
    if name is None:
        raise _unknown("it cuts text by a rule that llama.cpp has no name for")
    if bool(model.get("ignore_merges")) != (name in WHOLE_WORDS):
        raise _unknown(f"it treats whole words otherwise than {name}")
    return name


def _by_digits(steps: list[dict[str, Any]]) -> str | None:
    if not steps:
        return "gpt-2"
    one = steps[0]
    return "smollm" if len(steps) == 1 and one["type"] == "Digits" and one["individual_digits"] else None


def _by_split(steps: list[dict[str, Any]]) -> str | None:
    if len(steps) != 1 or steps[0]["type"] != "Split" or steps[0].get("invert"):
        return None
    pattern = steps[0]["pattern"].get("Regex")
    isolated = steps[0]["behavior"] == "Isolated"
    return next((name for name, known in SPLITS.items() if isolated and pattern == known), None)


def _unknown(why: str) -> ModelError:
    return ModelError(
        f"this model's tokenizer cannot be written to a GGUF file: {why}.",
        remedy=f"Known are byte-level BPE tokenizers that cut as {', '.join([*DIGITS, *SPLITS])}; export it as merged, int8 or int4.",
    )
