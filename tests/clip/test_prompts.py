import pytest
import torch

import clip
from benchmarks.naive import NaiveGOPro
from clip import PromptTree
from clip.tokenizer import EOT

NAMES = [
    "dog",
    "golden retriever",
    "golden eagle",
    "golden",
    "boeing 737-200",
    "boeing 737-300",
    "a b c d e f",
    "dog",
]


def test_tree_shares_common_beginnings_and_reads_each_end_token():
    tree = PromptTree([[1, 2, EOT], [1, 3, EOT], [1, EOT], [4, EOT]])
    assert tree.tokens.tolist() == [1, 4, 2, 3, EOT, EOT, EOT, EOT]
    assert tree.levels == [(0, 2), (2, 6), (6, 8)]
    assert tree.depths.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert tree.eot.tolist() == [6, 7, 4, 5]
    assert tree.path(2).tolist() == [[0, 2, 6], [0, 3, 7]]
    assert tree.num_classes == 4 and tree.longest == 3


def test_equal_names_share_one_end_token():
    tree = PromptTree([[1, EOT], [1, EOT]])
    assert tree.num_nodes == 2 and tree.eot.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [[], [[]], [[1, 2]], [[EOT, 1, EOT]]])
def test_tree_refuses_sequences_without_a_single_end(bad):
    with pytest.raises(ValueError, match="class"):
        PromptTree(bad)


def full_computation(model, context, names, words):
    """Features and gradients by rows padded to the whole context, one image at a time."""
    naive = NaiveGOPro(model.model, model.tokenize, names, words)
    out = []
    for one in context:
        rows = torch.cat([naive.prefix, one.expand(len(names), -1, -1), naive.suffix], dim=1)
        out.append(naive.encode_text(rows))
    return torch.stack(out)


@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/32"])
def test_equals_full_computation_with_gradients(backbone):
    model = clip.load(backbone, pretrained=False)
    words = "a photo of a"
    context = model.embed_words(words) + 0.1 * torch.randn(3, 4, model.text_width)
    weights = torch.randn(3, len(NAMES), model.embed_dim)
    results = []
    for compute in (
        lambda c: torch.nn.functional.normalize(model.encode_prompts(c, model.prompt_tree(NAMES, 4)), dim=-1),
        lambda c: full_computation(model, c, NAMES, words),
    ):
        leaf = context.clone().requires_grad_()
        features = compute(leaf)
        (features * weights).sum().backward()
        results.append((features.detach(), leaf.grad))
    (fast, fast_grad), (full, full_grad) = results
    assert torch.allclose(fast, full, rtol=0, atol=1e-5 * full.abs().max().item())
    assert torch.allclose(fast_grad, full_grad, rtol=0, atol=1e-5 * full_grad.abs().max().item())


def test_one_context_for_all_images_equals_encode_text():
    model = clip.load("tiny", pretrained=False)
    text = model.encode_text(model.tokenize([f"a photo of a {name}." for name in NAMES]))
    fast = model.encode_prompts(model.embed_words("a photo of a"), model.prompt_tree(NAMES, 4))
    assert fast.shape == text.shape
    assert torch.allclose(fast, text, atol=1e-5 * text.abs().max().item())


def test_an_image_depends_on_its_own_context_only():
    model = clip.load("tiny", pretrained=False)
    tree = model.prompt_tree(NAMES, 2)
    context = torch.randn(3, 2, model.text_width)
    together = model.encode_prompts(context, tree)
    alone = model.encode_prompts(context[1:2], tree)
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_bad_shapes_and_names_are_refused():
    model = clip.load("tiny", pretrained=False)
    tree = model.prompt_tree(["dog"], 4)
    with pytest.raises(ValueError, match=r"context must be \[B, M, 64\], got \[1, 4, 63\]"):
        model.encode_prompts(torch.zeros(1, 4, 63), tree)
    with pytest.raises(ValueError, match="exceed the context of 32"):
        model.encode_prompts(torch.zeros(1, 30, 64), tree)
    with pytest.raises(ValueError, match=r"'cat cat.*needs 32 tokens.*leaves 27 after 4"):
        model.prompt_tree(["dog", "cat " * 30], 4)
    with pytest.raises(ValueError, match="class 1 has an empty name"):
        model.prompt_tree(["dog", " "], 4)


def test_short_memory_changes_neither_features_nor_gradients():
    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    context = model.embed_words("a photo of a") + 0.1 * torch.randn(3, 4, model.text_width)
    results = []
    for budget in (None, 1):
        leaf = context.clone().requires_grad_()
        features = model.encode_prompts(leaf, tree, budget)
        features.square().sum().backward()
        results.append((features.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(model.encode_prompts(context, tree, 1), results[0][0], atol=1e-5)


def test_without_gradient_a_small_budget_takes_one_image_at_a_time(monkeypatch):
    import clip.prompts

    model = clip.load("tiny")
    seen = []
    original = clip.prompts._run_block

    def count(block, x, *args):
        seen.append(len(x))
        return original(block, x, *args)

    monkeypatch.setattr(clip.prompts, "_run_block", count)
    tree = model.prompt_tree(NAMES, 4)
    with torch.no_grad():
        model.encode_prompts(torch.randn(3, 4, 64), tree, budget=1)
    assert set(seen) == {1} and len(seen) == 3 * 4  # images x blocks


def test_with_gradient_a_small_budget_keeps_one_state_a_block(monkeypatch):
    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    kept = []
    for budget in (2**40, 1):
        leaf = torch.randn(3, 4, 64, requires_grad=True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model.encode_prompts(leaf, tree, budget)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4
