"""What is written one tensor at a time is what safetensors reads and what `folder` finds sound."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from luthier.models.folder import read_header
from luthier.models.tensor_file import Tensors, TensorWriter, format_of

KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.int8, torch.uint8]


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6
    )
)
def test_a_round_trip(tmp_path_factory, what):
    folder = tmp_path_factory.mktemp("t")
    tensors = {f"t{i}": (torch.randn(shape) * 50).to(kind) for i, (kind, shape) in enumerate(what)}
    with TensorWriter(
        folder / "m.safetensors", {n: (format_of(x.dtype), tuple(x.shape)) for n, x in tensors.items()}
    ) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)
    read_header(folder / "m.safetensors")
    theirs, ours = load_file(folder / "m.safetensors"), Tensors(folder)
    for name, tensor in tensors.items():
        assert torch.equal(theirs[name], tensor) and torch.equal(ours.read(name), tensor)
        assert ours.read(name).dtype == tensor.dtype


def test_what_was_not_planned_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="planned"),
        TensorWriter(tmp_path / "m.safetensors", {"a": ("F32", (2,))}) as file,
    ):
        file.write("a", torch.zeros(3))
    with (
        pytest.raises(ValueError, match="b was planned and never written"),
        TensorWriter(tmp_path / "m.safetensors", {"a": ("F32", (2,)), "b": ("F32", (1,))}) as file,
    ):
        file.write("a", torch.zeros(2))
