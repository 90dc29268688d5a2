import pytest
import torch

import clip


@pytest.fixture(scope="module")
def tiny():
    return clip.load("tiny")


def test_dimensions_are_read_off_the_model(tiny):
    assert (tiny.image_size, tiny.vision_width, tiny.vision_layers) == (60, 128, 5)
    assert (tiny.text_width, tiny.embed_dim, tiny.context_length) == (64, 128, 32)
    assert tiny.mean == (0.5, 0.5, 0.5) and tiny.std == (0.25, 0.25, 0.25)


def test_statistics_are_those_of_the_tokens_after_each_block(tiny):
    images = torch.randn(2, 3, 60, 60)
    tokens = []
    hooks = [b.register_forward_hook(lambda m, a, o: tokens.append(o)) for b in tiny.model.visual.transformer.resblocks]
    tiny.model.visual(images)
    for hook in hooks:
        hook.remove()
    features = tiny.encode_image_statistics(images)
    assert len(tokens) == 5
    assert features.final.shape == (2, 128) and features.mean.shape == features.var.shape == (2, 5, 128)
    assert torch.allclose(features.final, tiny.model.visual(images), atol=1e-5)
    for layer, x in enumerate(tokens):
        assert x.shape == (2, 37, 128)  # 36 patches and the class token
        assert torch.allclose(features.mean[:, layer], x.mean(1), atol=1e-5)
        assert torch.allclose(features.var[:, layer], ((x - x.mean(1, keepdim=True)) ** 2).mean(1), atol=1e-4)


def test_the_final_feature_alone_is_the_same_and_no_statistics_are_computed(tiny, monkeypatch):
    images = torch.randn(2, 3, 60, 60)
    expected = tiny.encode_image_statistics(images).final
    monkeypatch.setattr(torch, "stack", None)  # what puts the statistics together
    assert torch.equal(tiny.encode_image(images), expected)
    with pytest.raises(TypeError):
        tiny.encode_image_statistics(images)


def custom(model="RN50", vision=None, text=None):
    import open_clip

    sizes = {"RN50": {"layers": [1, 1, 1, 1], "width": 16}, "ViT-S-32": {"layers": 2, "width": 64}}[model]
    narrow = {"width": 64, "heads": 2, "layers": 2, **(text or {})}
    return open_clip.create_model(
        model,
        vision_cfg={"image_size": 64, **sizes, **(vision or {})},
        text_cfg=narrow,
        embed_dim=96,
        load_weights=False,
    )


def test_a_tower_without_blocks_gives_all_but_statistics():
    model = clip.FrozenCLIP(custom(), "small ResNet")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.encode_image(images), model.model.visual(images))
    names = ["dog", "golden retriever"]
    prompts = model.encode_prompts(model.embed_words("a photo of a"), model.prompt_tree(names, 4))
    text = model.encode_text(model.tokenize([f"a photo of a {name}." for name in names]))
    assert torch.allclose(prompts, text, atol=1e-5)
    with pytest.raises(
        ValueError, match="SomeMethod reads token statistics.*'small ResNet'.*ModifiedResNet.*Use a ViT"
    ):
        model.check_blocks("SomeMethod", "reads token statistics")
    with pytest.raises(ValueError, match="encode_image_statistics reads token statistics"):
        model.encode_image_statistics(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tower_of_timms_with_a_text_tower_of_its_own(dtype):
    model = clip.load("ViTamin-S:datacomp1b", pretrained=False, dtype=dtype)
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(model.encode_image(images), model.model.encode_image(images.to(dtype)).float())
    prompts = model.encode_prompts(model.embed_words("a photo of a"), model.prompt_tree(["dog", "cat"], 4))
    text = model.encode_text(model.tokenize(["a photo of a dog.", "a photo of a cat."]))
    assert torch.cosine_similarity(prompts, text).min() > 0.999
    with pytest.raises(ValueError, match="TimmModel"):
        model.check_blocks("SomeMethod", "reads token statistics")


def test_blocks_that_compute_something_else_are_known_by_their_parameters():
    odd = clip.FrozenCLIP(custom("ViT-S-32", vision={"qk_norm": True}), "odd")
    images = torch.randn(2, 3, 64, 64)
    assert odd.vision_layers == 0
    assert torch.equal(odd.encode_image(images), odd.model.visual(images))
    with pytest.raises(ValueError, match="text tower whose blocks or output this package does not know"):
        clip.FrozenCLIP(custom("ViT-S-32", text={"scale_heads": True}), "odd")
    plain = clip.FrozenCLIP(custom("ViT-S-32", vision={"ls_init_value": 0.1}), "layer scale")
    assert plain.vision_layers == 2
    assert torch.allclose(plain.encode_image(images), plain.model.visual(images), atol=1e-5)


def test_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="'odd' has 1000 tokens, CLIP's vocabulary 49408"):
        clip.FrozenCLIP(custom("ViT-S-32", text={"vocab_size": 1000}), "odd")


def test_no_gradient_reaches_the_image_tower_and_it_stays_in_eval_mode(tiny):
    tiny.train()
    assert not tiny.training and not any(m.training for m in tiny.modules())
    assert not any(p.requires_grad for p in tiny.parameters())
    assert not tiny.encode_image_statistics(torch.randn(1, 3, 60, 60)).final.requires_grad


def test_hooks_are_removed_even_after_an_error(tiny):
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 60, 60\] for tiny, got \[1, 3, 32, 32\]"):
        tiny.encode_image_statistics(torch.zeros(1, 3, 32, 32))
    tiny.encode_image_statistics(torch.zeros(1, 3, 60, 60))
    assert not any(b._forward_hooks for b in tiny.model.visual.transformer.resblocks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_give_close_features_in_fp32(tiny, dtype):
    low = clip.load("tiny", dtype=dtype)
    assert low.dtype == dtype
    images = torch.randn(2, 3, 60, 60).clamp(-2, 2)
    ours, full = low.encode_image_statistics(images), tiny.encode_image_statistics(images)
    assert ours.final.dtype == ours.mean.dtype == torch.float32
    assert torch.cosine_similarity(ours.final, full.final).min() > 0.999
    names = ["circle", "square"]
    context = tiny.embed_words("a photo of a").expand(2, -1, -1)
    low_text = low.encode_prompts(context, low.prompt_tree(names, 4))
    text = tiny.encode_prompts(context, tiny.prompt_tree(names, 4))
    assert low_text.dtype == torch.float32
    assert torch.cosine_similarity(low_text, text, dim=-1).min() > 0.999
