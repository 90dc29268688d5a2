import os
import pickle
import zipfile

import pytest
import torch

import clip
from clip.weights import check_weights, read_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Hostile(torch.nn.Module):
    """Its `__setstate__` runs in torch.jit.load: it saves a tensor, that is writes a file."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight = state[0]
        self.training = state[1]
        torch.save(state[0], "owned")

    def forward(self, x):
        return x


class Reduced:
    """Its pickle calls a function."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def hostile_archive(path):
    torch.jit.script(Hostile()).save(str(path))


def hostile_tree(path):
    """An archive whose module tree calls a function of Python's."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps(Reduced(), protocol=2))
        archive.writestr("w/constants.pkl", pickle.dumps((Reduced(),), protocol=2))
        archive.writestr("w/version", "3\n")


def hostile_zip(path):
    torch.save({"state_dict": Reduced()}, path)


def hostile_pickle(path):
    torch.save({"state_dict": Reduced()}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path):
    path.write_bytes(pickle.dumps(Reduced()))


HOSTILE = [hostile_archive, hostile_tree, hostile_zip, hostile_pickle, plain_pickle]


def test_the_hostile_archive_is_hostile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile_archive(tmp_path / "w.pt")
    try:
        torch.jit.load(str(tmp_path / "w.pt"))
    except RuntimeError:
        pytest.skip("this torch refuses the operation")
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("form", ["{}", "ViT-S-32-alt:{}"])
def test_nothing_in_a_file_is_run(kind, suffix, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    kind(path)
    with pytest.raises(ValueError, match="weights"):
        clip.load(form.format(path))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.__name__)
def test_nothing_in_a_folder_is_run(kind, tmp_path, monkeypatch):
    from clip.load import TINY_DIR

    monkeypatch.chdir(tmp_path)
    (tmp_path / "open_clip_config.json").write_bytes((TINY_DIR / "open_clip_config.json").read_bytes())
    kind(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="MODEL.BACKBONE.NAME"):
        clip.load(str(tmp_path))
    assert not (tmp_path / "owned").exists()


def traced(path):
    """A traced CLIP, as OpenAI's archives are, and its state by torch's own loader."""
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    text = {"width": 64, "heads": 1, "layers": 2}
    model = open_clip.create_model("ViT-B-32", vision_cfg=vision, text_cfg=text, embed_dim=32, force_quick_gelu=True)
    model.eval()
    example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int))
    torch.jit.trace(model, example, check_trace=False).save(str(path))
    return model, torch.jit.load(str(path)).state_dict()


def test_tensors_of_a_traced_archive_are_those_that_torch_loads(tmp_path):
    path = tmp_path / "w.pt"
    model, state = traced(path)
    assert check_weights(path) == "torchscript"
    ours = read_weights(path)
    assert set(state) - set(ours) == {"attn_mask"} and set(ours) <= set(state)
    assert all(torch.equal(ours[key], state[key]) for key in ours)
    images, tokens = torch.randn(2, 3, 32, 32), clip.tokenize(["a cat", "a dog"])
    loaded = clip.load(str(path))
    assert torch.allclose(loaded.encode_image(images), model.encode_image(images), atol=1e-5)
    assert torch.allclose(loaded.encode_text(tokens), model.encode_text(tokens), atol=1e-5)


def test_an_archive_for_an_architecture(tmp_path):
    import open_clip

    path = tmp_path / "w.pt"
    model = open_clip.create_model("ViT-S-32-alt").eval()
    example = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int))
    torch.jit.trace(model, example, check_trace=False).save(str(path))
    assert torch.equal(clip.load(f"ViT-S-32-alt:{path}").model.visual.proj, model.visual.proj)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32]
)
def test_dtypes_strides_offsets_and_empty_tensors(dtype, tmp_path):
    class Tensors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(24).to(dtype).view(4, 6)
            self.register_buffer("part", base[1:3, 2:5])
            self.register_buffer("turned", base.t())
            self.register_buffer("scalar", torch.tensor(3).to(dtype))
            self.register_buffer("nothing", torch.zeros(0, 2, dtype=dtype))

        def forward(self, x):
            return x

    module = Tensors()
    torch.jit.script(module).save(str(tmp_path / "w.pt"))
    state = read_weights(tmp_path / "w.pt")
    assert set(state) == {"part", "turned", "scalar", "nothing"}
    for name, tensor in module.named_buffers():
        assert state[name].dtype == dtype and torch.equal(state[name], tensor), name


def rewritten(source, target, change):
    """A copy of an archive with each entry's bytes given through `change(name, bytes) -> (bytes, compression)`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data, compression = change(name, old.read(name))
            new.writestr(name, data, compression)


def test_shapes_larger_than_the_file_are_refused(tmp_path):
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("x", torch.zeros(1).expand(10**9))

        def forward(self, x):
            return x

    torch.jit.script(One()).save(str(tmp_path / "wide.pt"))
    with pytest.raises(ValueError, match="wide.pt cannot be read: .*tensor of .1000000000. has 1 values"):
        read_weights(tmp_path / "wide.pt")


def test_packed_values_are_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(64, 64)).save(str(tmp_path / "w.pt"))
    rewritten(tmp_path / "w.pt", tmp_path / "packed.pt", lambda name, data: (data, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="packed.pt cannot be read: .*are compressed"):
        read_weights(tmp_path / "packed.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\n  <HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer"),
        (b'{"message": "Not Found"}', "is JSON text"),
        (b"\xef\xbb\xbf[1, 2]", "is JSON text"),
        (b"PK\x03\x04 and no more", "is cut off"),
        (b"not weights", "holds no weights"),
        (bytes(range(1, 200)), "holds no weights"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "ViT-B-32:{}"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
def test_files_that_are_no_weights_say_what_they_are(content, message, form, suffix, tmp_path):
    path = tmp_path / f"saved{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"saved{suffix} .*{message}") as error:
        clip.load(form.format(path))
    assert "weights_only" not in str(error.value)


def test_a_checkpoint_with_objects_names_them_without_torchs_advice(tmp_path):
    import argparse

    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, path)
    for form in ("{}", "ViT-S-32-alt:{}"):
        with pytest.raises(
            ValueError, match="more than tensors.*argparse.Namespace.*save its state dict alone"
        ) as error:
            clip.load(form.format(path))
        assert "weights_only" not in str(error.value)


def test_cut_off_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1000)}, str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="w.safetensors cannot be read: .*incomplete"):
        read_weights(path)


def test_a_prefix_of_wrapped_models_is_taken_off(tmp_path):
    torch.save({"state_dict": {"module.a.b": torch.ones(2), "module.module.c": torch.ones(1)}}, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt")) == {"a.b", "module.c"}
