"""The transpose of 16-bit matrices against torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.ops import transpose


@given(rows=st.integers(0, 600), columns=st.integers(0, 80), padding=st.integers(0, 3))
def test_agrees_with_torch(rows, columns, padding):
    matrix = torch.arange(rows * (columns + padding)).to(torch.int16).view(torch.bfloat16)
    matrix = matrix.view(rows, columns + padding)[:, :columns]
    result = transpose(matrix)
    assert torch.equal(result.view(torch.int16), matrix.T.view(torch.int16))
    assert result.is_contiguous()


def test_columns_need_not_lie_side_by_side():
    matrix = torch.randn(20, 30).bfloat16().T
    assert torch.equal(transpose(matrix), matrix.T)


def test_other_numbers_are_seen_from_the_side():
    matrix = torch.randn(3, 4)
    assert transpose(matrix).data_ptr() == matrix.data_ptr()


def test_passes_opcheck():
    for test in ("test_schema", "test_faketensor"):
        torch.library.opcheck(torch.ops.sru_asr.transpose, (torch.randn(9, 17).bfloat16(),), test_utils=test)


@pytest.mark.parametrize("matrix", [torch.zeros(3), torch.zeros(2, 3)])
def test_an_error_says_what_was_expected(matrix):
    with pytest.raises(RuntimeError, match="sru_asr::transpose: expected a matrix of 16-bit numbers"):
        torch.ops.sru_asr.transpose(matrix)


def test_its_gradient_is_a_transpose():
    matrix = torch.randn(9, 17).bfloat16().requires_grad_()
    weights = torch.randn(17, 9).bfloat16()
    (grad,) = torch.autograd.grad((transpose(matrix) * weights).sum(), matrix)
    assert torch.equal(grad, weights.T)
