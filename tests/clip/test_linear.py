"""Products with frozen weights: whichever library makes them, the result is `F.linear`'s."""

import pytest
import torch
import torch.nn.functional as F

import clip.linear
from clip.linear import ONEDNN_WIDTH, linear

WIDE, NARROW = (ONEDNN_WIDTH, 2 * ONEDNN_WIDTH), (ONEDNN_WIDTH, ONEDNN_WIDTH // 2)


@pytest.fixture
def products(monkeypatch):
    """Shapes of what oneDNN is asked for."""
    made, product = [], clip.linear._product
    monkeypatch.setattr(clip.linear, "_product", lambda x, *given: made.append(x.shape) or product(x, *given))
    return made


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.7, 1.7), (1 / 1.7, 1.0)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", [WIDE, WIDE[::-1], NARROW])
def test_product_and_gradient(sizes, turned, bias, factors, products):
    if factors != (1, 1) and not bias:
        pytest.skip("factors come with a bias")
    (given, out), (alpha, beta) = sizes, factors
    torch.manual_seed(0)
    weight = torch.randn(given, out).t() if turned else torch.randn(out, given)
    add = torch.randn(out) if bias else None
    x = torch.randn(30, given, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    result = linear(x, weight, add, alpha, beta)
    expected = alpha * exact @ weight.double().t() + (0 if add is None else beta * add.double())
    grad = torch.randn(30, out)
    result.backward(grad)
    expected.backward(grad.double())
    assert torch.allclose(result.double(), expected, atol=1e-4)
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-4)
    assert len(products) == (2 if clip.linear._ONEDNN and sizes != NARROW else 0)


def test_rows_of_many_dimensions(products):
    x, weight, bias = torch.randn(2, 3, 4, WIDE[0]), torch.randn(*WIDE[::-1]), torch.randn(WIDE[1])
    assert torch.allclose(linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-4)
    turned = x.transpose(0, 2)
    assert torch.allclose(linear(turned, weight, bias), F.linear(turned, weight, bias), atol=1e-4)
    assert len(products) == 2 * clip.linear._ONEDNN


def test_what_else_there_is_stays_with_pytorch(products):
    x, weight = torch.randn(3, WIDE[0]), torch.randn(*WIDE[::-1])
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), F.linear(x.bfloat16(), weight.bfloat16()))
    assert linear(x.to("meta"), weight.to("meta")).shape == (3, WIDE[1])
    learned = weight.clone().requires_grad_()
    linear(x, learned).sum().backward()
    assert learned.grad is not None
    assert not products
