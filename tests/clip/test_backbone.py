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
    features = tiny.encode_image_statistics(images)
    for hook in hooks:
        hook.remove()
    assert features.final.shape == (2, 128) and features.mean.shape == features.var.shape == (2, 5, 128)
    assert torch.allclose(features.final, tiny.model.visual(images), atol=1e-5)
    for layer, x in enumerate(tokens):
        assert x.shape == (2, 37, 128)  # 36 patches and the class token
        assert torch.allclose(features.mean[:, layer], x.mean(1), atol=1e-5)
        assert torch.allclose(features.var[:, layer], ((x - x.mean(1, keepdim=True)) ** 2).mean(1), atol=1e-4)


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
