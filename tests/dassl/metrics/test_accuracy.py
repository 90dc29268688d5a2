"""Accuracy of a batch."""

import pytest
import torch

from dassl.metrics import compute_accuracy

SCORES = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])
LABELS = torch.tensor([0, 1, 0, 2])  # first, second, third and second choice


def test_top_1_in_percent_as_a_list_of_one_tensor() -> None:
    (accuracy,) = compute_accuracy(SCORES, LABELS)
    assert accuracy.shape == (1,)
    assert accuracy.item() == 25


def test_top_k_counts_the_k_highest_scores() -> None:
    assert [x.item() for x in compute_accuracy(SCORES, LABELS, topk=(1, 2, 3))] == [25, 75, 100]
    assert [x.item() for x in compute_accuracy(SCORES, LABELS, topk=(2,))] == [75]


def test_first_of_several_outputs_counts() -> None:
    assert compute_accuracy((SCORES, SCORES.flip(1)), LABELS)[0].item() == 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_works_on_the_cpu(dtype: torch.dtype) -> None:
    assert compute_accuracy(SCORES.to(dtype), LABELS)[0].item() == 25
