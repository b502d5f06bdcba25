"""A run that is stopped and goes on ends in the bytes of one that was not, for methods that draw, estimate or keep
something of their own."""

import pytest

from luthier.core.errors import Interrupted

WRITTEN = {
    "dpo": "dpo",
    "kto": {"kto": {"beta": 0.5}},
    "grpo": {"grpo": {"rewards": [{"length": {"max": 8}}], "generations": 3, "max_tokens": 6, "kl": 0.1}},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_stopped_and_gone_on_is_the_same_to_the_bit(new_work, make_record, name):
    def told(i):
        record = make_record(i)
        right = record["messages"][-1]["content"]
        return {
            **record,
            "rejected": {"billing": "delivery", "delivery": "billing"}[right],
            "rating": float(i % 2),
        }

    rows = [told(i) for i in range(16)]
    wish = {"method": WRITTEN[name], "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}}
    files = []
    for stop_after in (None, 7):
        work = new_work(f"{name}-{stop_after}", train=rows[:12], validation=rows[12:])
        wish["batch"] = {"rows": 4, "micro_tokens": 150}
        if stop_after is not None:
            for work.stop_after_checks in (3, stop_after):
                with pytest.raises(Interrupted):
                    work.run(**wish, epochs=2)
            work.stop_after_checks = None
        work.run(**wish, epochs=2)
        files.append(work.files())
    assert work.told("resumed") and files[0] == files[1]
