"""The small real model: right weights, right tokenizer, right template, and every parity once more at its size."""

import math
from pathlib import Path

import pytest
import torch

from luthier.models import weights
from luthier.models.adapters import Lora
from luthier.models.choices import score_choices, score_plainly
from luthier.models.generate import answer, generate, sequence_loss
from luthier.models.inspection import inspect
from luthier.models.known import KNOWN
from luthier.models.merge import merge
from luthier.models.spec import LoraSpec

pytestmark = pytest.mark.model

ENGLISH = (
    "Photosynthesis is the process by which green plants, algae and some bacteria convert light energy into chemical "
    "energy. During photosynthesis, plants take in carbon dioxide from the air and water from the soil. Using energy "
    "from sunlight, they turn these into glucose, a kind of sugar, and oxygen. The oxygen is released into the air, "
    "and the glucose is used by the plant to grow. Photosynthesis takes place mostly in the leaves, inside small "
    "structures called chloroplasts, which contain a green pigment called chlorophyll."
)
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def test_facts_and_ends(real_folder, real, real_template):
    facts = weights.describe(real_folder)
    assert (facts.parameters, facts.layers, facts.context, facts.dtype) == (134_515_008, 30, 8192, "bf16")
    assert facts.tied and real.get_output_embeddings().weight is real.get_input_embeddings().weight
    tokenizer = real_template.tokenizer
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == (
        "<|im_end|>",
        "<|im_start|>",
        "<|im_end|>",
    )
    assert real_template.end_ids == {2}
    inspect(real_folder)


def test_template_and_tokens(real_template):
    ids = real_template.prompt(FRANCE)
    assert real_template.tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    # Digits stand alone, a word takes its space along.
    pieces = real_template.tokenizer.convert_ids_to_tokens(real_template.encode_text("in 2024 café").ids)
    assert pieces[:-1] == ["in", "Ġ", "2", "0", "2", "4", "ĠcafÃ©"]


@pytest.mark.slow
def test_weights_and_tokens_equal_transformers_own_reading(real, real_template):
    from importlib import metadata

    from transformers import AutoModelForCausalLM, AutoTokenizer

    row = KNOWN["smollm2-135m-instruct"]
    file = Path(str(metadata.distribution(row.distribution).locate_file(row.file)))
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    assert set(theirs) == set(real.state_dict())
    for name, tensor in real.state_dict().items():
        # Ours is rounded to bf16: 8 bits, so half a unit in 2^8.
        torch.testing.assert_close(tensor, theirs[name], rtol=2**-8, atol=1e-30)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Not runs of spaces before a digit: there the generic reader forgets that this model splits digits first.
    text = "Hello, it's 2024! 3.14 café 😀\n\n\tdef f(x):\n    return x**2  # don't\r\nYou'll <|im_end|>"
    assert real_template.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_perplexity_of_english(real, real_template):
    loss, count = sequence_loss(real, [real_template.encode_text(ENGLISH)])[0]
    # 4.75 measured, on weights equal to transformers' own reading of the file; swapped halves of q and k, or a
    # wrong head, give hundreds to thousands.
    assert count == 100
    assert 4 < math.exp(loss / count) < 6


def test_a_sane_reply(real, real_template):
    assert "Paris" in answer(real, real_template, [real_template.prompt(FRANCE)], 24)[0]


def test_packed_and_cached_and_tree(real, real_template):
    labels = ["MIT", "GPL-2.0", "GPL-2.0-only", "BSD-3-Clause"]
    system = {"role": "system", "content": "Which licence is this notice? Answer with its identifier."}
    notices = ["Permission is hereby granted, free of charge", "GNU GPL version 2"]
    prompts = [real_template.prompt([system, {"role": "user", "content": n}]) for n in notices]
    fast = torch.tensor(score_choices(real, real_template, prompts, labels))
    plain = torch.tensor(score_plainly(real, real_template, prompts, labels))
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)

    one = ["".join(s.text_delta for s in generate(real, real_template, p, max_tokens=6)) for p in prompts]
    assert answer(real, real_template, prompts, 6) == one


def test_adapter_in_plain_peft_and_merged_in_plain_transformers(real_folder, real_template, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = Lora().attach(weights.load(real_folder), LoraSpec(rank=8), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in Lora().trainable(model):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.eval()
    ids = torch.tensor([real_template.prompt(FRANCE)])
    (tmp_path / "adapter").mkdir()
    Lora().save(model, tmp_path / "adapter", "smollm2-135m-instruct")
    with torch.no_grad():
        ours = model(input_ids=ids, use_cache=False).logits
        base = AutoModelForCausalLM.from_pretrained(real_folder, dtype=torch.float32)
        untuned = base(input_ids=ids).logits
        plain = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(plain(input_ids=ids).logits, ours, atol=1e-3, rtol=1e-3)
    assert (untuned - ours).abs().max() > 0.5  # the adapter does something
    merge(real_folder, tmp_path / "adapter", tmp_path / "merged", dtype="fp32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, ours, atol=2e-3, rtol=2e-3)
