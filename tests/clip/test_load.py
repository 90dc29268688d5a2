import json
import logging
import shutil
import warnings
from pathlib import Path

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

    resnets = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"]
    assert list(OPENAI_MODELS) == [*resnets, "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
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
        ("ViT-B/61", ValueError, r"unknown backbone 'ViT-B/61'. Did you mean .*ViT-B/16"),
        ("ViT-B-16:laion3b", ValueError, "unknown tag 'laion3b'.*laion2b_s34b_b88k"),
        ("ViT-B-16", ValueError, "ViT-B-16 needs a tag: .*openai"),
        ("ViT-B-16-SigLIP:webli", ValueError, "text tower that is not CLIP's .vocab_size 32000"),
        ("ViT-H-14-worldwide:metaclip2_worldwide", ValueError, "hf_tokenizer_name facebook/xlm-v-base"),
        ("ViT-L-14-CLIPA:datacomp1b", ValueError, "hf_tokenizer_name bert-base-uncased"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", ValueError, "multimodal_cfg"),
        ("MobileCLIP-S1:datacompdr", ValueError, "no_causal_mask True"),
        ("RN50:laion2b", ValueError, "unknown tag 'laion2b'; RN50 has: openai, yfcc15m, cc12m"),
        ("~/nowhere/w.pt", FileNotFoundError, f"{Path.home()}/nowhere/w.pt does not exist"),
        ("roberta-ViT-B-32:laion2b_s12b_b32k", ValueError, "text tower that is not CLIP's"),
        ("/nowhere/ViT-B-16.pt", FileNotFoundError, "/nowhere/ViT-B-16.pt does not exist"),
        ("ViT-B-16:/nowhere/w.pt", FileNotFoundError, "/nowhere/w.pt, which does not exist"),
    ],
)
def test_bad_names(name, error, message):
    with pytest.raises(error, match=message):
        clip.load(name)


class Asked(Exception):
    """Ends `load` where open_clip would build the model."""


@pytest.fixture
def asked(monkeypatch):
    """Names -> what `load` asks open_clip for; nothing is built or downloaded."""
    import open_clip

    calls = []

    def record(model, **options):
        calls.append((model, options))
        raise Asked

    def ask(name):
        calls.clear()
        with pytest.raises(ValueError, match=r"cannot build|text tower that is not CLIP's") as error:
            clip.load(name)
        assert bool(calls) == ("cannot build" in str(error.value))
        return calls[0] if calls else (None, {})

    monkeypatch.setattr(open_clip, "create_model", record)
    return ask


def test_every_tag_gets_the_activation_it_was_trained_with(asked):
    import open_clip

    built = {}
    for model, tag in open_clip.list_pretrained():
        base, options = asked(f"{model}:{tag}")
        if base is not None:
            built[model, tag] = options["force_quick_gelu"]
            assert options["pretrained"] == tag
            assert not open_clip.get_model_config(base).get("quick_gelu")  # only the option decides
    trained = {key: bool(open_clip.get_pretrained_cfg(*key).get("quick_gelu")) for key in built}
    assert built == trained
    assert sum(trained.values()) > 40 and sum(not x for x in trained.values()) > 60
    for model, tag in built:  # the other architecture's name: the tag decides all the same
        other = model.removesuffix("-quickgelu") if "quickgelu" in model else f"{model}-quickgelu"
        assert asked(f"{other}:{tag}")[1]["force_quick_gelu"] == trained[model, tag], (other, tag)


def test_quickgelu_architectures_differ_in_the_activation_alone():
    from open_clip import get_model_config, list_models

    quick = [name for name in list_models() if name.endswith("-quickgelu")]
    assert quick
    for name in quick:
        assert get_model_config(name) == {**get_model_config(name.removesuffix("-quickgelu")), "quick_gelu": True}


def test_text_towers_with_other_tokens_are_refused_before_anything_is_downloaded(asked):
    import open_clip

    refused, kept = set(), set()
    for model, tag in open_clip.list_pretrained():
        text = open_clip.get_model_config(model)["text_cfg"]
        foreign = "hf_tokenizer_name" in text or "hf_model_name" in text or text["vocab_size"] != 49408
        if asked(f"{model}:{tag}")[0] is None:
            refused.add(model)
        else:
            kept.add(model)
            assert not foreign, model
    assert {"ViT-H-14-worldwide", "ViT-H-14-worldwide-378", "ViT-bigG-14-CLIPA", "roberta-ViT-B-32"} <= refused
    assert {"RN50", "convnext_base", "EVA02-B-16", "ViT-B-16", "PE-Core-B-16", "ViTamin-S"} <= kept


@pytest.mark.parametrize(
    ("name", "quick"),
    [
        ("ViT-S-32-alt:FILE", False),
        ("ViT-S-32-alt-quickgelu:FILE", True),
        ("FILE", True),
    ],
)
def test_the_activation_of_a_file_is_assumed_aloud(name, quick, tmp_path, capsys):
    import open_clip

    path = tmp_path / "w.pt"
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), path)
    name = name.replace("FILE", str(path))
    activations = {type(m).__name__ for m in clip.load(name).modules() if "GELU" in type(m).__name__}
    assert activations == {"QuickGELU" if quick else "GELU"}
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 and ("QuickGELU" if quick else "GELU") + " is assumed" in out[0]
    other = out[0].split("MODEL.BACKBONE.NAME to ")[1]
    if ":" in name:  # what the line names is the other activation
        clip.load(other)
        assert ("GELU" if quick else "QuickGELU") + " is assumed" in capsys.readouterr().out


def test_a_tag_that_decides_against_the_architectures_name_says_so(capsys):
    model = clip.load("ViT-B-32:openai", pretrained=False)
    assert "ViT-B-32:openai: these weights were trained with QuickGELU, which is used" in capsys.readouterr().out
    assert {type(m).__name__ for m in model.modules() if "GELU" in type(m).__name__} == {"QuickGELU"}
    clip.load("ViT-B-32-quickgelu:openai", pretrained=False)
    assert capsys.readouterr().out == ""


def test_what_open_clip_warns_of_is_printed_once_and_logging_is_left_as_it_was(monkeypatch, capsys):
    import open_clip

    original, root = open_clip.create_model, logging.getLogger()

    def warn(*args, **options):
        for _ in range(2):
            warnings.warn("weights of another year", UserWarning, stacklevel=1)
            logging.warning("a checkpoint of two")
        return original(*args, **options)

    before = (root.level, list(root.filters), list(root.handlers))
    monkeypatch.setattr(open_clip, "create_model", warn)
    clip.load("tiny")
    assert capsys.readouterr().out.splitlines() == [
        "open_clip: a checkpoint of two",
        "open_clip: weights of another year",
    ]
    assert (root.level, root.filters, root.handlers) == before


def small_resnet(**options):
    import open_clip

    vision = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    return open_clip.create_model("RN50", vision_cfg=vision, embed_dim=96, **options).eval()


def test_a_resnet_file_gives_its_final_feature(tmp_path):
    model = small_resnet(force_quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "rn.pt")
    loaded = clip.load(str(tmp_path / "rn.pt"))
    assert (loaded.image_size, loaded.embed_dim, loaded.vision_layers) == (64, 96, 0)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images))


def test_a_resnet_by_openais_name_and_by_tag(asked):
    for name, architecture in (("RN50", "RN50"), ("RN50x4", "RN50x4"), ("RN101:yfcc15m", "RN101")):
        model, options = asked(name)
        assert model == architecture and options["force_quick_gelu"]


def test_home_is_found_in_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(TINY_DIR, tmp_path / "weights")
    assert torch.equal(clip.load("~/weights").model.visual.proj, clip.load("tiny").model.visual.proj)
    torch.save(small_resnet().state_dict(), tmp_path / "w.pt")
    assert clip.load("~/w.pt").embed_dim == 96
    with pytest.raises(ValueError, match="cannot build 'ViT-B-32:~/w.pt'.*Missing key"):
        clip.load("ViT-B-32:~/w.pt")


def test_random_weights_of_a_file_are_not_those_of_the_file(tmp_path):
    model, path = small_resnet(), str(tmp_path / "rn.pt")
    model.visual.conv1.weight.data.fill_(7.0)
    torch.save(model.state_dict(), path)
    weights = [clip.load(path, pretrained=False).model.visual.conv1.weight for _ in range(2)]
    assert torch.equal(*weights) and not (weights[0] == 7).any()


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


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "open_clip_config.json is no config"),
        ("[]", "open_clip_config.json is no config"),
        ('{"model_cfg": {"embed_dim": 8}}', "is no config of open_clip's: .*vision_cfg"),
        ({"text_cfg": {"hf_tokenizer_name": "some/one"}}, "text tower that is not CLIP's .hf_tokenizer_name some/one"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:some/one"}}, "image tower from elsewhere"),
    ],
)
def test_a_folders_config_is_checked_before_open_clip_sees_it(config, message, tmp_path):
    if isinstance(config, dict):
        own = json.loads((TINY_DIR / "open_clip_config.json").read_text())
        for tower, values in config.items():
            own["model_cfg"][tower].update(values)
        config = json.dumps(own)
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        clip.load(str(tmp_path))


def test_a_folder_without_weights_or_with_a_pointer_to_them(tmp_path):
    shutil.copy(TINY_DIR / "open_clip_config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="folder without weights"):
        clip.load(str(tmp_path))
    (tmp_path / "open_clip_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="open_clip_model.safetensors is a Git LFS pointer"):
        clip.load(str(tmp_path))


def test_wrong_dtype():
    with pytest.raises(ValueError, match="dtype must be one of"):
        clip.load("tiny", dtype=torch.float64)


def test_the_shipped_weights_are_small_and_their_record_is_there():
    assert (TINY_DIR / "open_clip_model.safetensors").stat().st_size < 10_000_000
    record = json.loads((TINY_DIR / "training.json").read_text())
    assert set(record) == {"recipe", "minutes", "zero_shot_pct"}
