import math

import pytest
import torch

from benchmarks.naive import naive_nt_xent
from trainers.losses import nt_xent


def test_equals_the_sum_of_its_terms():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    assert nt_xent(a, b, 0.1).item() == pytest.approx(naive_nt_xent(a, b, 0.1).item(), rel=1e-5)


def test_closed_form_for_two_orthogonal_images():
    # Equal views, orthogonal images: each term is -log(e^(1/t) / (e^(1/t) + 2)).
    x = torch.eye(2)
    expected = math.log(1 + 2 * math.exp(-1 / 0.5))
    assert nt_xent(x, x, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_is_symmetric_and_ignores_length():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    assert torch.allclose(nt_xent(a, b), nt_xent(b, a))
    assert torch.allclose(nt_xent(a, b), nt_xent(3 * a, 0.2 * b), atol=1e-5)


def test_one_image_has_no_negatives_and_a_zero_gradient():
    a = torch.randn(1, 6, requires_grad=True)
    loss = nt_xent(a, torch.randn(1, 6))
    loss.backward()
    assert loss.item() == 0 and torch.equal(a.grad, torch.zeros(1, 6))


def test_half_precision_inputs_are_computed_in_fp32():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    assert nt_xent(a.half(), b.half(), 0.01).dtype == torch.float32
    assert torch.isfinite(nt_xent(a.half(), b.half(), 0.001))


@pytest.mark.parametrize(
    ("first", "second", "temperature"),
    [((4, 6), (4, 5), 0.1), ((4,), (4,), 0.1), ((4, 6), (4, 6), 0.0)],
)
def test_bad_arguments(first, second, temperature):
    with pytest.raises(ValueError, match=r"nt_xent needs two \[B, E\]|temperature must be positive"):
        nt_xent(torch.zeros(first), torch.zeros(second), temperature)
