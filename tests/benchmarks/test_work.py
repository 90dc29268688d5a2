"""Counted operations against PyTorch's own counter and by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import clip
from benchmarks import models
from benchmarks.work import Tower, Work, image_work, text_work

SMALL = Tower(layers=3, width=4, hidden=8, output=2, itemsize=4)


@pytest.fixture(scope="module")
def tiny():
    return clip.load("tiny", pretrained=False)


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_one_prompt_by_hand():
    # Width 4, hidden 8: queries, keys, values 96, keys and values 64, the rest 32 + 128, attention 16 a pair.
    work = text_work(SMALL, [[7, 9]], batch=1, context=1)
    first = 1 * (96 + 160) + 2 * 160 + 2 * 96
    middle = 3 * (96 + 160)
    last = 3 * 64 + 1 * (32 + 160)
    pairs = (3 + 4 + 2) * 2 + 4  # the two nodes' and the context's in two blocks, then the end's alone
    assert work.flops == first + middle + last + 16 * pairs + 2 * 4 * 2
    weights, stream = 3 * (4 * 16 + 2 * 32) * 4, 2 * 3 * 3 * 4 * 4
    assert work.bytes == weights + stream
    assert text_work(SMALL, [[7, 9]], 1, 1, backward=True).bytes == 2 * work.bytes


def test_shared_first_words_and_equal_names_are_counted_once():
    one = text_work(SMALL, [[7, 9]], 2, 1)
    assert text_work(SMALL, [[7, 9], [7, 9]], 2, 1) == one
    shared, apart = ([[7, 5, 9], [7, 6, 9]], [[7, 5, 9], [8, 6, 9]])
    assert text_work(SMALL, shared, 2, 1).flops < text_work(SMALL, apart, 2, 1).flops


def test_work_grows_with_images_but_for_what_they_share():
    once, twice = (text_work(SMALL, [[7, 9]], batch, 1).flops for batch in (1, 2))
    assert twice == 2 * once - 2 * 96


def test_image_tower_equals_the_counter(tiny):
    images = models.views(tiny, 2, 1)[0].requires_grad_()  # with gradients PyTorch takes no fused, uncounted path
    tower = Tower.of(tiny.model.visual.transformer.resblocks, tiny.embed_dim)
    patch = tiny.model.visual.conv1.kernel_size[0]
    expected = counted(lambda: tiny.model.encode_image(images))
    attention = 4 * ((tiny.image_size // patch) ** 2 + 1) ** 2 * tower.width * tower.layers * 2
    got = image_work(tower, 2, tiny.image_size, patch).flops
    assert got in (expected, expected + attention)  # the counter knows not every kernel of attention


def test_the_text_floor_is_below_what_ours_does_and_near(tiny):
    names = models.class_names(30)
    tree, context = tiny.prompt_tree(names, 4), torch.randn(3, 4, tiny.text_width)
    forward = models.text_floor(tiny, 3, 30).flops
    done = counted(lambda: tiny.encode_prompts(context, tree))
    assert 0.7 * done < forward < 1.02 * done
    leaf = context.clone().requires_grad_()
    both = models.text_floor(tiny, 3, 30, backward=True).flops
    done = counted(lambda: tiny.encode_prompts(leaf, tree).sum().backward())
    assert 0.4 * done < both < 1.02 * done


def test_floor_is_the_longer_of_both_times():
    rates = {"matmul_flops": 100.0, "copy_bytes": 10.0}
    expected = {"flops": 1000, "bytes": 10, "rates": rates, "seconds": 10, "share": 0.5}
    assert Work(1000, 10).floor(rates, 20) == expected
    assert Work(1000, 300).floor(rates, 60)["seconds"] == 30
    assert Work(10, 4).over(2) + Work(1, 1) == Work(6, 3)
