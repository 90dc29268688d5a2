import json
import shutil

import pytest
import torch

import clip
from clip.load import OPENAI_MODELS, TINY_DIR


@pytest.mark.parametrize(
    ("name", "dims"),
    [("ViT-B/32", (224, 768, 12, 512, 512)), ("ViT-B-16-plus-240:laion400m_e31", (240, 896, 12, 640, 640))],
)
def test_random_weights_have_the_real_architecture_and_are_reproducible(name, dims):
    torch.manual_seed(1)
    first = clip.load(name, pretrained=False)
    torch.manual_seed(2)
    second = clip.load(name, pretrained=False)
    assert (
        first.image_size,
        first.vision_width,
        first.vision_layers,
        first.text_width,
        first.embed_dim,
    ) == dims
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_loading_random_weights_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    clip.load("tiny", pretrained=False)
    assert torch.equal(torch.rand(3), expected)


def test_openai_names_are_open_clip_models_with_quick_gelu():
    from open_clip import get_model_config

    assert list(OPENAI_MODELS) == ["ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    assert all(get_model_config(name)["quick_gelu"] for name in OPENAI_MODELS.values())
    assert clip.available_models() == ["tiny", *OPENAI_MODELS]


def openai_state(model):
    return {k: v.clone() for k, v in model.model.state_dict().items() if k != "attn_mask"}


@pytest.fixture(scope="module")
def vit():
    return clip.load("ViT-B/32", pretrained=False)


@pytest.mark.parametrize("kind", ["pt", "safetensors", "jit"])
def test_a_local_file_of_openai_weights(kind, vit, tmp_path):
    path = tmp_path / f"ViT-B-32.{'pt' if kind == 'jit' else kind}"
    state = openai_state(vit)
    if kind == "pt":
        torch.save(state, path)
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, str(path))
    else:
        torch.jit.script(_Holder(state)).save(str(path))
    loaded = clip.load(str(path))
    assert (loaded.image_size, loaded.embed_dim) == (224, 512)
    images = torch.randn(1, 3, 224, 224)
    # OpenAI's files keep their linear weights in half precision, so the loader rounds them.
    assert torch.cosine_similarity(loaded.encode_image(images), vit.encode_image(images)).min() > 0.999


class _Holder(torch.nn.Module):
    """A module whose state dict has the given dotted keys, as OpenAI's JIT archives have."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            *path, leaf = key.split(".")
            at = self
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))

    def forward(self, x):
        return x


def test_a_weight_file_for_an_open_clip_architecture(vit, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(vit.model.state_dict(), path)
    loaded = clip.load(f"ViT-B-32-quickgelu:{path}")
    assert torch.equal(loaded.model.visual.proj, vit.model.visual.proj)


def test_a_folder_in_open_clips_layout(tmp_path):
    shutil.copy(TINY_DIR / "open_clip_config.json", tmp_path)
    shutil.copy(TINY_DIR / "open_clip_model.safetensors", tmp_path)
    assert torch.equal(clip.load(str(tmp_path)).model.visual.proj, clip.load("tiny").model.visual.proj)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ValueError, "MODEL.BACKBONE.NAME is empty"),
        ("ViT-B/61", ValueError, r"unknown backbone 'ViT-B/61'; did you mean .*ViT-B/16"),
        ("RN50:openai", ValueError, "RN50:openai.*image tower without transformer blocks"),
        ("ViT-B-16:laion3b", ValueError, "unknown tag 'laion3b'.*laion2b_s34b_b88k"),
        ("ViT-B-16", ValueError, "ViT-B-16 needs a tag: .*openai"),
        ("ViT-B-16-SigLIP:webli", ValueError, "without transformer blocks"),
        ("roberta-ViT-B-32:laion2b_s12b_b32k", ValueError, "text tower that is not CLIP's"),
        ("/nowhere/ViT-B-16.pt", FileNotFoundError, "/nowhere/ViT-B-16.pt does not exist"),
        ("ViT-B-16:/nowhere/w.pt", FileNotFoundError, "/nowhere/w.pt, which does not exist"),
    ],
)
def test_bad_names(name, error, message):
    with pytest.raises(error, match=message):
        clip.load(name)


def test_no_network_is_one_error_that_says_what_to_do(monkeypatch):
    import open_clip.factory

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    with pytest.raises(ConnectionError, match="ViT-B/16.*not on this machine.*MODEL.BACKBONE.PRETRAINED False"):
        clip.load("ViT-B/16")


def test_a_broken_weight_file_is_named(tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="broken.pt is no file of OpenAI CLIP weights"):
        clip.load(str(path))


def test_a_resnet_file_is_refused(tmp_path):
    path = tmp_path / "rn50.pt"
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="ResNet; GOPro needs a ViT"):
        clip.load(str(path))


def test_a_weight_file_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ValueError, match="evil.pt"):
        clip.load(str(path))
    assert not (tmp_path / "owned").exists()


def test_a_folder_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="without open_clip_config.json"):
        clip.load(str(tmp_path))


def test_wrong_dtype():
    with pytest.raises(ValueError, match="dtype must be one of"):
        clip.load("tiny", dtype=torch.float64)


def test_the_shipped_weights_are_small_and_their_record_is_there():
    assert (TINY_DIR / "open_clip_model.safetensors").stat().st_size < 10_000_000
    record = json.loads((TINY_DIR / "training.json").read_text())
    assert set(record) == {"recipe", "minutes", "zero_shot_pct"}
