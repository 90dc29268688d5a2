import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn

import clip
from clip.blocks import PART_BYTES, finish, is_residual_block, rows_in_cache
from clip.keep import Block, Keep, choose

BLOCK = Block(rows=1000, width=64, itemsize=4, gathered=2.4)


def test_the_sizes_of_what_is_kept_are_those_of_the_documented_arrays():
    number = 1000 * 64 * 4
    kept = [BLOCK.kept(keep) / number for keep in Keep]
    # residual states, heads, hidden layer, what attention makes
    assert kept == pytest.approx([2 + 3 + 4 + 3.4, 2 + 3 + 4, 2 + 3, 2, 1])
    half = BLOCK._replace(itemsize=2)
    assert [half.kept(keep) / number for keep in Keep] == pytest.approx([2 + 5.2, 2 + 3.5, 2 + 1.5, 2, 1])
    assert BLOCK._replace(out=250).kept(Keep.HIDDEN) / number == pytest.approx(1 + 3 + 1 + 0.25)
    assert BLOCK._replace(shared=True).kept(Keep.HIDDEN) / number == pytest.approx(1 + 4)


def test_a_plenty_keeps_all_and_nothing_keeps_inputs_alone():
    blocks = [BLOCK] * 3
    assert choose(blocks, 3 * BLOCK.kept(Keep.ALL)) == [Keep.ALL] * 3
    assert choose(blocks, 0) == [Keep.INPUT] * 3
    assert choose([], 0) == []


def test_the_cheapest_goes_first_in_all_blocks():
    blocks = [BLOCK] * 3
    below = 3 * BLOCK.kept(Keep.ALL) - 1
    assert choose(blocks, below) == [Keep.HIDDEN, Keep.ALL, Keep.ALL]
    assert choose(blocks, 3 * BLOCK.kept(Keep.HIDDEN)) == [Keep.HIDDEN] * 3
    assert choose(blocks, 3 * BLOCK.kept(Keep.HIDDEN) - 1) == [Keep.HEADS, Keep.HIDDEN, Keep.HIDDEN]
    for budget in range(0, 3 * BLOCK.kept(Keep.ALL), BLOCK.kept(Keep.INPUT)):
        total = sum(block.kept(keep) for block, keep in zip(blocks, choose(blocks, budget), strict=True))
        assert total <= max(budget, 3 * BLOCK.kept(Keep.INPUT))


def test_what_saves_nothing_is_left():
    shared = BLOCK._replace(shared=True)  # its own input would have to be kept instead
    assert choose([shared], 0) == [Keep.HEADS]


@pytest.mark.parametrize("scale", [None, 0.5], ids=["plain", "layer scale"])
@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("keep", [Keep.ALL, Keep.HEADS])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_follows_attention_has_the_gradients_of_the_plain_computation(monkeypatch, parts, keep, activation, scale):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(32, 4, ls_init_value=scale, act_layer=activation).requires_grad_(False)
    assert is_residual_block(block)
    monkeypatch.setattr("clip.blocks.PART_BYTES", PART_BYTES if parts == 1 else 4 * 128 * 4)
    rows = 10  # 4, 4 and 2
    assert -(-rows // rows_in_cache(block)) == parts
    x, attended, weights = (torch.randn(rows, 32) for _ in range(3))

    def plain(x, attended):
        x = x + block.ls_1(block.attn.out_proj(attended))
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    results = []
    for compute in (plain, lambda x, attended: finish(block, x, attended, keep=keep)):
        leaves = [x.clone().requires_grad_(), attended.clone().requires_grad_()]
        out = compute(*leaves)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for got, wanted in zip(*results, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


class Random:
    """An update in low rank that draws random numbers, as with dropout."""

    def __init__(self, width):
        self.down = torch.randn(4, width, requires_grad=True)

    def in_proj(self, x, weight, bias):
        low = nn.functional.dropout(x, 0.5) @ self.down.t()
        return nn.functional.linear(x, weight, bias) + 0.01 * (low @ self.down).repeat(1, *[1] * (x.ndim - 2), 3)

    def out_proj(self, x, weight, bias):
        return nn.functional.linear(x, weight, bias)


@pytest.mark.parametrize("tower", ["text", "image"])
def test_what_a_block_keeps_changes_no_gradient_of_updates_and_tokens(monkeypatch, tower):
    torch.manual_seed(0)
    model = clip.load("tiny")
    width, layers = (
        (model.text_width, model.text_layers) if tower == "text" else (model.vision_width, model.vision_layers)
    )
    updates = [Random(width) for _ in range(layers)]
    given = (0.1 * torch.randn(2, 3, width)).requires_grad_()  # a context for two images, or tokens for two blocks
    images, tree = torch.randn(2, 3, 60, 60), model.prompt_tree(["dog", "golden eagle"], 3)

    def gradients():
        torch.manual_seed(1)
        if tower == "text":
            out = model.encode_prompts(given, tree, updates=updates)
        else:
            out = model.encode_image(images, given, updates)
        leaves = [given, *(update.down for update in updates)]
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    expected = gradients()
    assert all(x.isfinite().all() and x.any() for x in expected)
    module = "clip.prompts.choose" if tower == "text" else "clip.images.choose"
    for keep in Keep:
        monkeypatch.setattr(module, lambda blocks, budget, keep=keep: [keep] * len(blocks))
        assert all(map(torch.equal, gradients(), expected)), keep


def test_a_small_budget_keeps_less_of_the_image_tower_too(monkeypatch):
    model, kept = clip.load("tiny"), []

    def note(blocks, budget):
        kept.append(choose(blocks, budget))
        return kept[-1]

    monkeypatch.setattr("clip.images.choose", note)
    tokens = torch.randn(1, 2, model.vision_width, requires_grad=True)
    for budget in (None, 1):
        model.encode_image(torch.randn(2, 3, 60, 60), tokens, budget=budget)
    model.activation_bytes = 1
    model.encode_image(torch.randn(2, 3, 60, 60), tokens)
    layers = model.vision_layers
    assert kept == [[Keep.ALL] * layers, [Keep.INPUT] * layers, [Keep.INPUT] * layers]
