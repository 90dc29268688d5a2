import pytest
import torch

from trainers.groups import mean_over_groups

WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_is_the_mean_over_all_whatever_the_groups(size):
    torch.manual_seed(0)
    x, y, unused = (torch.randn(5, 3, requires_grad=True) for _ in range(3))
    fixed, sizes = torch.randn(5, 3), []

    def function(rows, x, y, fixed, unused):
        sizes.append(len(x))
        each = WEIGHTS[rows] * (x * y.exp() + fixed).square().sum(1)
        return [each.mean(), x.mean()]

    inputs = (x, y, fixed, unused)
    loss, other = mean_over_groups(function, size, 8.0, *inputs)
    assert sum(sizes) == 5 and max(sizes) == min(size, 5)
    assert loss.requires_grad and not other.requires_grad
    expected, expected_other = function(slice(None), *inputs)
    assert torch.allclose(loss, expected) and torch.allclose(other, expected_other)
    leaves = [x, y, unused]
    got = torch.autograd.grad(8 * loss, leaves, allow_unused=True)
    wanted = torch.autograd.grad(8 * expected, leaves, allow_unused=True)
    assert got[2] is wanted[2] is None
    for a, b in zip(got[:2], wanted[:2], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_loss_scale_keeps_small_gradients_in_half_precision():
    x, scale = torch.ones(4, requires_grad=True), 65536.0

    def function(rows, x):
        return [1e-5 * (1e-4 * x.half()).float().mean()]  # a gradient of 1e-9 / 4 passes through half precision

    for inside, expected in ((1.0, 0.0), (scale, 1e-9 / 4)):
        (loss,) = mean_over_groups(function, 2, inside, x)
        (gradient,) = torch.autograd.grad(scale * loss, x)
        assert torch.allclose(gradient / scale, torch.full((4,), expected), rtol=1e-2, atol=0)


def test_an_overflow_in_a_group_shows_in_the_gradient():
    x = torch.ones(4, requires_grad=True)
    (loss,) = mean_over_groups(lambda rows, x: [x.half().float().sum()], 2, 1e6, x)
    (gradient,) = torch.autograd.grad(1e6 * loss, x)
    assert loss.isfinite() and not gradient.isfinite().any()
