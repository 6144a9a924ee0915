"""Tensors that PyTorch itself saved, as the pixels of published numbers are."""

import numpy as np
import pytest
import torch

from npsiglip import InputError
from npsiglip.published.inputs import read_tensor


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["contiguous", "channels last"])
def test_saved_tensors_are_read(tmp_path, order):
    tensor = torch.rand(2, 5, 3, 4).permute(order)[1:]  # with an offset in its storage
    torch.save(tensor, tmp_path / "x.pt")
    found = read_tensor(tmp_path / "x.pt")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensor.numpy())


@pytest.mark.parametrize(
    "content", [torch.zeros(2, dtype=torch.float64), {"pixels": torch.zeros(2)}, torch.nn.Linear(1, 1)]
)
def test_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt"):
        read_tensor(tmp_path / "x.pt")
