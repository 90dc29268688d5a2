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
# Several tiles, some of which begin inside a subtree.
MANY = [*NAMES, *(f"boeing 737 {kind}" for kind in "abcdefghijklmnopqrstuvwxyz"), *(f"{i} {i + 1}" for i in range(20))]


def sees(tree):
    """Per node, the tokens on the path from its first one to itself, read off the tiles' masks."""
    tiles, size, _ = tree.visible.shape
    found = []
    for t in range(tiles):
        keys = [*tree.above[t].tolist(), *range(t * size, (t + 1) * size)]
        for mask in tree.visible[t].tolist():
            nodes = sorted(key for key, seen in zip(keys, mask, strict=True) if seen)
            found.append([int(tree.tokens[node]) for node in nodes])
    return found


def test_tree_shares_common_beginnings_and_reads_each_end_token():
    tree = PromptTree([[1, 2, EOT], [1, 3, EOT], [1, EOT], [4, EOT]])
    assert tree.num_classes == 4 and tree.longest == 3
    assert tree.num_nodes == len(tree.tokens) == 8 and tree.above.shape == (1, 0)
    assert tree.tokens.tolist() == [1, 2, EOT, 3, EOT, EOT, 4, EOT]
    assert tree.depths.tolist() == [0, 1, 2, 1, 2, 1, 0, 1]
    assert tree.eot.tolist() == [2, 4, 5, 7]
    assert sees(tree) == [[1], [1, 2], [1, 2, EOT], [1, 3], [1, 3, EOT], [1, EOT], [4], [4, EOT]]


def test_tiles_see_ancestors_that_stand_before_them():
    # One long common beginning, then more classes than a tile holds, then more of another.
    names = [[1, 2, 3, i, EOT] for i in range(10, 60)] + [[5, i, i + 1, EOT] for i in range(10, 60)]
    tree = PromptTree(names)
    tiles, size, _ = tree.visible.shape
    assert tree.num_nodes == 3 + 2 * 50 + 1 + 3 * 50 == 254
    assert (tiles, size) == (4, 64) and len(tree.tokens) == 256
    seen = sees(tree)
    assert [seen[node] for node in tree.eot.tolist()] == names
    assert seen[254:] == [[EOT], [EOT]]  # padding sees itself, or its softmax would have no terms
    assert [len(path) - 1 for path in seen[:254]] == tree.depths.tolist()[:254]


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


@pytest.mark.parametrize("names", [NAMES, MANY], ids=["a tile", "many tiles"])
@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/32"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_equals_full_computation_with_gradients(device, backbone, names):
    model = clip.load(backbone, pretrained=False, device=device)
    words = "a photo of a"
    context = model.embed_words(words) + 0.1 * torch.randn(2, 4, model.text_width).to(device)
    weights = torch.randn(2, len(names), model.embed_dim).to(device)
    results = []
    for compute in (
        lambda c: torch.nn.functional.normalize(model.encode_prompts(c, model.prompt_tree(names, 4)), dim=-1),
        lambda c: full_computation(model, c, names, words),
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


def test_without_gradient_images_go_through_in_parts(monkeypatch):
    import clip.blocks
    import clip.prompts

    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    context = torch.randn(3, 4, 64)
    seen = []
    original = clip.prompts._run_block

    def count(block, x, batch, *args):
        seen.append(batch)
        return original(block, x, batch, *args)

    monkeypatch.setattr(clip.prompts, "_run_block", count)
    results = []
    for budget, part_bytes, expected in ((None, 2**20, 3), (1, 2**20, 1), (None, 1, 1)):
        monkeypatch.setattr(clip.blocks, "PART_BYTES", part_bytes)
        seen.clear()
        with torch.no_grad():
            results.append(model.encode_prompts(context, tree, budget))
        assert set(seen) == {expected} and len(seen) == 3 // expected * 4  # blocks
    for other in results[1:]:
        assert torch.allclose(other, results[0], atol=1e-5)


def bytes_kept(model, tree, budget):
    """What a backward pass through the encoder keeps, weights left out."""
    leaf = torch.randn(3, 4, 64, requires_grad=True)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.encode_prompts(leaf, tree, budget)
    del features
    return sum(len(storage) for storage in kept.values())


def test_kept_bytes_foretell_what_a_backward_pass_keeps():
    from clip.blocks import kept_bytes

    model = clip.load("tiny")
    for names in (NAMES, MANY):
        tree = model.prompt_tree(names, 4)
        rows = 3 * (5 + len(tree.tokens))
        foretold = 4 * kept_bytes(rows, 64, 4)
        assert 0.8 * foretold < bytes_kept(model, tree, 2**40) < 1.1 * foretold


def test_a_small_budget_keeps_the_last_blocks_only():
    from clip.blocks import kept_bytes

    model = clip.load("tiny")
    tree = model.prompt_tree(MANY, 4)
    block = kept_bytes(3 * (5 + len(tree.tokens)), 64, 4)
    kept = [bytes_kept(model, tree, blocks * block + 1) for blocks in (0, 1, 2, 3, 4)]
    assert kept == sorted(kept) and len(set(kept)) == 5
    assert kept[0] < kept[4] / 4
