"""Every family in the table: packed = alone, tree = plain, batched decoding = one full pass per token."""

import pytest
import torch

from luthier.models import attention, weights
from luthier.models.choices import score_plainly
from luthier.models.families import FAMILIES
from luthier.models.generate import answer, score_choices
from luthier.models.inspection import inspect
from luthier.models.template import Template
from luthier.models.testing import tiny_model

# What a family needs beyond the usual settings; a small window makes sliding layers matter.
SETTINGS = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, tmp_path, logits):
    folder = tiny_model(tmp_path / "m", family=family, **SETTINGS.get(family, {}))
    inspect(folder)
    model = weights.load(folder)
    template = Template(weights.load_tokenizer(folder), 512)

    lengths = [3, 21, 12]
    ids = torch.randint(3, 500, (36,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        packed = model(input_ids=torch.tensor([ids]), **attention.packed(lengths), use_cache=False).logits[0]
    alone = torch.cat([logits(model, ids[:3]), logits(model, ids[3:24]), logits(model, ids[24:])])
    torch.testing.assert_close(packed, alone, atol=2e-4, rtol=2e-4)

    prompts = [template.prompt([{"role": "user", "content": "refund " * n + "parcel"}]) for n in (1, 4, 9)]
    fast = score_choices(model, template, prompts, ["billing", "billing delivery", "x"])
    plain = score_plainly(model, template, prompts, ["billing", "billing delivery", "x"])
    torch.testing.assert_close(torch.tensor(fast), torch.tensor(plain), atol=2e-4, rtol=1e-4)

    def slowly(prompt):
        out = list(prompt)
        for _ in range(12):
            token = int(logits(model, out)[-1].argmax())
            if token in template.end_ids:
                break
            out.append(token)
        return template.decode(out[len(prompt) :])

    assert answer(model, template, prompts, 12) == [slowly(prompt) for prompt in prompts]
