import gc

import pytest
import torch

import clip
from benchmarks.naive import NaiveGOPro
from clip import PromptTree
from clip.keep import Keep
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
    assert (tiles, size) == (8, 32) and len(tree.tokens) == 256
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


def gradients(model, tree, budget=None, dtype=None, **more):
    """Features, and gradients in the context and in what stands in its place later."""
    context = 0.1 * torch.randn(3, 4, model.text_width, generator=torch.Generator().manual_seed(0))
    leaves = [model.embed_words("a photo of a") + context]
    given = {key: make(context) for key, make in more.items()}
    if tree.class_rows:
        leaves = [leaves[0][:1].repeat(tree.num_classes, 1, 1)]
    leaves += [x[1] if isinstance(x, tuple) else x for x in given.values()]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    given = {
        key: (x[0], leaf) if isinstance(x, tuple) else leaf
        for (key, x), leaf in zip(given.items(), leaves[1:], strict=True)
    }
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        features = model.encode_prompts(leaves[0], tree, budget, **given)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    return [features.detach(), *torch.autograd.grad((features * weights).sum(), leaves)]


def own_rows(context):
    return 2, 0.1 * torch.randn(len(NAMES), 4, context.shape[2], generator=torch.Generator().manual_seed(2))


KINDS = {
    "fp32": (torch.float32, {}),
    "fp16": (torch.float16, {}),
    "bf16": (torch.bfloat16, {}),
    "amp": (torch.float32, {"dtype": torch.bfloat16}),
    "deep": (torch.float32, {"deep": lambda context: context.expand(2, -1, -1, -1) * 2}),
    "deep, then of each class": (
        torch.float32,
        {"deep": lambda context: context[:1] * 2, "class_context": own_rows},
    ),
    "of each class": (torch.float32, {}),
    "within the names": (torch.float32, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_block_keeps_changes_neither_features_nor_gradients(monkeypatch, kind):
    dtype, more = KINDS[kind]
    model = clip.load("tiny", dtype=dtype)
    position = "middle" if kind == "within the names" else "end"
    tree = model.prompt_tree(NAMES, 4, position, own_context=kind == "of each class")
    expected = gradients(model, tree, **more)
    assert all(x.isfinite().all() and x.any() for x in expected)
    chosen = [[keep] * 100 for keep in Keep] + [[Keep(i % len(Keep)) for i in range(100)]]
    for keep in chosen:
        monkeypatch.setattr("clip.prompts.choose", lambda blocks, budget, keep=keep: keep[: len(blocks)])
        for got, wanted in zip(gradients(model, tree, **more), expected, strict=True):
            assert torch.equal(got, wanted), keep[0]


def test_no_budget_changes_features_or_gradients():
    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    expected = gradients(model, tree)
    for budget in (0, 1, 10**5, 10**6, 10**12):
        for got, wanted in zip(gradients(model, tree, budget), expected, strict=True):
            assert torch.equal(got, wanted), budget
    model.activation_bytes = 1
    assert all(map(torch.equal, gradients(model, tree), expected))


def images_of_each_block(monkeypatch):
    """A list that gets how many images go through at once, block by block."""
    import clip.prompts

    seen, original = [], clip.prompts._run_block

    def count(block, x, batch, *args):
        seen.append(batch)
        return original(block, x, batch, *args)

    monkeypatch.setattr(clip.prompts, "_run_block", count)
    return seen


def test_with_gradients_too_images_go_through_in_parts(monkeypatch):
    import clip.blocks

    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    seen = images_of_each_block(monkeypatch)
    results = []
    for part_bytes, expected in ((2**20, [3]), (2**10 * (6 + len(tree.tokens)) // 2, [2, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr(clip.blocks, "PART_BYTES", part_bytes)
        seen.clear()
        results.append(gradients(model, tree))
        assert seen[::4] == expected  # blocks
    for other in results[1:]:
        for got, wanted in zip(other, results[0], strict=True):
            assert torch.allclose(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_without_gradient_images_go_through_in_parts(monkeypatch):
    import clip.blocks

    model = clip.load("tiny")
    tree = model.prompt_tree(NAMES, 4)
    context = torch.randn(3, 4, 64)
    seen = images_of_each_block(monkeypatch)
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
    """What is held for a backward pass through the encoder, but for what all blocks share: weights and mask."""
    leaf = torch.randn(12, 4, 64, requires_grad=True)

    def storages():  # hooks hold autograd's own, a closure the input of what is computed again
        gc.collect()
        plain = (torch.Tensor, torch.nn.Parameter)  # other tests leave fake and sparse ones, which have no storage
        found = (x for x in gc.get_objects() if type(x) in plain and x.layout is torch.strided)
        return {x.untyped_storage().data_ptr(): x.untyped_storage() for x in found}

    before = storages()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        features = model.encode_prompts(leaf, tree, budget)
    kept = sum(len(storage) for pointer, storage in storages().items() if pointer not in before)
    return kept - len(features.untyped_storage()) - 4 * tree.attention_mask(5, 12, torch.float32).numel()


@pytest.mark.parametrize("keep", Keep)
def test_what_is_kept_is_foretold(monkeypatch, keep):
    model = clip.load("tiny")
    foretold = []

    def all_alike(blocks, budget):
        foretold.append(sum(block.kept(keep) for block in blocks))
        return [keep] * len(blocks)

    monkeypatch.setattr("clip.prompts.choose", all_alike)
    for names in (NAMES, MANY):
        kept = bytes_kept(model, model.prompt_tree(names, 4), None)
        assert 0.95 * foretold[-1] < kept < 1.3 * foretold[-1]


def test_a_budget_is_used_and_not_exceeded():
    model = clip.load("tiny")
    tree = model.prompt_tree(MANY, 4)
    most, least = bytes_kept(model, tree, 2**40), bytes_kept(model, tree, 0)
    assert least < most / 5
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        assert share - 0.15 < bytes_kept(model, tree, int(share * most)) / most < share + 0.05
