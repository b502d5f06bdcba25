import pytest

from luthier.core.errors import SpecError
from luthier.models.place import Place, place


def test_a_device_that_is_not_there_is_refused_by_its_section(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match=r"evaluate\.device is cuda, and torch sees no CUDA device"):
        place("cuda", "auto", "evaluate")
    assert place("auto", "fp32") == Place("cpu", "fp32")


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_the_processor_has_it(monkeypatch, fast, dtype):
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert place("cpu").dtype == dtype
