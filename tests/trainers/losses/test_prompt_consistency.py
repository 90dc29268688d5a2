import pytest
import torch
import torch.nn.functional as F

from trainers.losses import prompt_consistency


def unit(*shape):
    return F.normalize(torch.randn(shape), dim=-1)


def test_sum_is_two_minus_two_cos_a_pair():
    text, moco, augmix = unit(2, 3, 8), unit(2, 3, 8), unit(2, 3, 8)
    cosines = (text * moco).sum(-1) + (text * augmix).sum(-1)
    assert prompt_consistency(text, moco, augmix, "sum").item() == pytest.approx(
        (4 - 2 * cosines).mean().item(), rel=1e-5
    )


def test_mean_is_the_element_wise_mse_of_the_published_code():
    text, moco, augmix = unit(2, 3, 8), unit(2, 3, 8), unit(2, 3, 8)
    expected = F.mse_loss(text, moco) + F.mse_loss(text, augmix)
    assert prompt_consistency(text, moco, augmix, "mean").item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_reaches_all_three_views():
    views = [unit(2, 3, 8).requires_grad_() for _ in range(3)]
    prompt_consistency(*views).backward()
    assert all(view.grad.abs().max() > 0 for view in views)


def test_equal_views_cost_nothing():
    text = unit(2, 3, 8)
    assert prompt_consistency(text, text, text).item() == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"three \[B, C, E\] tensors, got \[\[2, 3, 8\], \[2, 3, 8\], \[2, 8\]\]"):
        prompt_consistency(unit(2, 3, 8), unit(2, 3, 8), unit(2, 8))
    with pytest.raises(ValueError, match="reduction must be one of .*'batchmean'"):
        prompt_consistency(unit(2, 3, 8), unit(2, 3, 8), unit(2, 3, 8), "batchmean")
