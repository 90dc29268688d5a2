"""What the frozen tower gives, computed once: the same bits with and without, and never those of something else."""

import multiprocessing
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import clip
import trainers.features
from dassl.data import data_manager
from dassl.engine.optimisation import PRECISIONS
from dassl.evaluation import Classification
from dassl.utils import load_checkpoint
from protocols.definitions import trainers as methods
from trainers.features import FeatureCache, File, _write

SHORT = {
    "TipAdapter": ("TRAINER.TIPADAPTER.AUGMENT_EPOCH", "2", "TRAINER.TIPADAPTER.SEARCH_STEP", "(5, 5)"),
    "PromptSRC": ("TRAINER.PROMPTSRC.TEMPLATES", "clip7"),
}
SHORT["TipAdapterF"] = SHORT["TipAdapter"]
# Whose training, and whose tests, read nothing but what the frozen tower gives.
READS_FEATURES = {
    "CoOp",
    "CoCoOp",
    "KgCoOp",
    "ProGrad",
    "ProDA",
    "PRE",
    "TCP",
    "CLIPAdapter",
    "TipAdapter",
    "TipAdapterF",
}
READS_TESTS = READS_FEATURES | {"ZeroshotCLIP", "GOPro"}
FROZEN = {  # variants that leave the image tower alone
    "text LoRA": ("CLIPLoRA", "TRAINER.CLIPLORA.ENCODER", "text"),
    "PromptSRC without vision": ("PromptSRC", "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "0", *SHORT["PromptSRC"]),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(Classification, "pictures", lambda self: {})  # half of a short run's time
    return tmp_path / "features"


@pytest.fixture
def logits(monkeypatch):
    """Logits of the tests and validations since the last clear()."""
    kept = []
    process = Classification.process

    def keep(self, output, label):
        kept.append(output.clone())
        process(self, output, label)

    monkeypatch.setattr(Classification, "process", keep)
    return kept


def files(cache, kind=""):
    return [path for path in sorted(cache.glob("*.features")) if kind in path.stem]


def content(cache):
    return {path.name: path.read_bytes() for path in files(cache)}


def compare(run, cache, logits, trainer, *settings):
    """Runs without, with an empty and with a filled folder: the same bits; what each read and encoded, in images."""
    seen, read, encoded = [], [], []
    encode, decode = clip.backbone.encode_images, data_manager.read_image

    def count_encoded(visual, blocks, images, *args):
        encoded[-1] += len(images)
        return encode(visual, blocks, images, *args)

    def count_read(*args):
        read[-1] += 1
        return decode(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip.backbone, "encode_images", count_encoded)
        patch.setattr(data_manager, "read_image", count_read)
        for name, folder in (("without", ""), ("fills", cache), ("reads", cache)):
            logits.clear()
            read.append(0), encoded.append(0)
            out = f"{trainer} {name} {abs(hash(settings))}"
            results, top = run(out, "TEST.FEATURE_CACHE", str(folder), *settings, trainer=trainer)
            states = [load_checkpoint(str(path))["state_dict"] for path in sorted(top.glob("*/model*.tar*"))]
            seen.append((results, (top / "metrics.jsonl").read_text(), list(logits), states))
    for other in seen[1:]:
        assert other[:2] == seen[0][:2]
        assert len(other[2]) == len(seen[0][2]) > 0
        assert all(torch.equal(a, b) for a, b in zip(other[2], seen[0][2], strict=True))
        for a, b in zip(other[3], seen[0][3], strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return read, encoded


@pytest.mark.parametrize("method", methods())
def test_every_method_gets_the_same_bits(run, backbones, cache, logits, method):
    read, encoded = compare(run, cache, logits, method, *SHORT.get(method, ()))
    assert read[1] <= read[0] and encoded[1] <= encoded[0]  # TipAdapter's second epoch fills the bank again
    if method in READS_FEATURES or method == "ZeroshotCLIP":
        assert read[2] == encoded[2] == 0
    elif method == "GOPro":  # trains on views of its own; 20 images are tested
        assert read[2] == read[0] - 20 and encoded[2] == encoded[0] - 20
    else:  # trains and tests with a tower of its own
        assert read[2] == 20 and encoded[2] == encoded[0]
    assert bool(files(cache, "blocks")) == (method == "GOPro")
    assert bool(files(cache, "pixels")) == (method not in ("ZeroshotCLIP", "GOPro", "TipAdapter"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
@pytest.mark.parametrize("method", sorted(READS_TESTS - {"CoOp", "GOPro"}))
def test_in_every_precision(run, backbones, cache, logits, method, precision):
    key = "ZSCLIP" if method == "ZeroshotCLIP" else "TIPADAPTER" if "Tip" in method else method.upper()
    compare(run, cache, logits, method, f"TRAINER.{key}.PREC", precision, *SHORT.get(method, ()))


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
@pytest.mark.parametrize("method", ["CoOp", "GOPro"])
def test_in_other_precisions(run, backbones, cache, logits, method, precision):
    compare(run, cache, logits, method, f"TRAINER.{method.upper()}.PREC", precision)
    assert files(cache)


@pytest.mark.parametrize("variant", FROZEN)
def test_variants_that_leave_the_tower_alone(run, backbones, cache, logits, variant):
    method, *settings = FROZEN[variant]
    read, encoded = compare(run, cache, logits, method, *settings)
    assert read[2] == encoded[2] == 0


@pytest.mark.parametrize("method", ["GOPro", "CoOp"])
def test_validations_that_choose_a_model(run, backbones, cache, logits, method):
    _, (without, fills, _) = compare(run, cache, logits, method, "TEST.FINAL_MODEL", "best_val")
    assert fills == without - 10  # 10 validation images, encoded in the first of two epochs


def test_methods_share_one_file(run, backbones, cache, monkeypatch):
    with_cache = ("TEST.FEATURE_CACHE", str(cache))
    _, plain = run("plain", "TEST.FEATURE_CACHE", "", trainer="ZeroshotCLIP")
    run("GOPro", *with_cache, trainer="GOPro")
    run("CoOp", *with_cache, trainer="CoOp")
    before = content(cache)
    kinds = sorted(name.split("-")[1] for name in before)
    assert kinds == ["blocks", "features", *["training_features"] * 2, *["training_pixels"] * 2]  # of two epochs
    monkeypatch.setattr(clip.FrozenCLIP, "encode_image", None)
    for method in ("ZeroshotCLIP", "CoCoOp", "TCP", "KgCoOp"):
        run(method, *with_cache, trainer=method)
    assert content(cache) == before
    figures = plain.with_name("ZeroshotCLIP") / "metrics.jsonl"
    assert figures.read_text() == (plain / "metrics.jsonl").read_text()  # of what GOPro's test wrote


def test_methods_share_the_pixels_that_they_train_on(run, backbones, cache, monkeypatch):
    with_cache = ("TEST.FEATURE_CACHE", str(cache))
    run("VPT", *with_cache, trainer="VPT")
    before, read, decode = content(cache), [], data_manager.read_image
    monkeypatch.setattr(data_manager, "read_image", lambda *args: read.append(args) or decode(*args))
    for method in ("MaPLe", "CLIPLoRA"):
        run(method, *with_cache, trainer=method)
    assert content(cache) == before and len(read) == 2 * 20  # of the tests


def test_pixels_have_a_small_share(run, backbones, cache, logits, capsys):
    read, _ = compare(run, cache, logits, "VPT", "TEST.FEATURE_CACHE_MB", "17")  # 0.17 MB; they take 0.1728
    assert not files(cache) and read[0] == read[2]
    assert "since 0.17 MB are more than 0.17 MB, 1% of TEST.FEATURE_CACHE_MB" in capsys.readouterr().out


def test_transforms_that_end_otherwise_share_no_pixels(run, backbones, cache, logits):
    for name in ("cutout", "gaussian_noise", "instance_norm"):
        compare(run, cache, logits, "VPT", "INPUT.TRANSFORMS", f"('random_flip', 'normalize', '{name}')")
    assert not files(cache)
    compare(run, cache, logits, "VPT", "INPUT.TRANSFORMS", "('random_flip', 'colorjitter', 'normalize')")
    assert len(files(cache, "pixels")) == 2


def test_batch_sizes_and_workers(run, backbones, cache, logits):
    for settings in (("DATALOADER.TEST.BATCH_SIZE", "7"), ("DATALOADER.TEST.BATCH_SIZE", "20")):
        compare(run, cache, logits, "GOPro", *settings)
    for settings in (("DATALOADER.TRAIN_X.BATCH_SIZE", "3"), ("DATALOADER.NUM_WORKERS", "2")):
        for method in ("CoOp", "VPT"):
            compare(run, cache, logits, method, *settings)
    assert len(files(cache, "blocks")) == 2


def test_an_epoch_that_ends_early_is_not_kept(run, backbones, cache, logits):
    _, encoded = compare(run, cache, logits, "CoOp", "OPTIM.MAX_ITER", "3")
    assert len(files(cache, "training_features")) == len(files(cache, "pixels")) == 1 and encoded == [
        8 + 4 + 20,
        8 + 4 + 20,
        4,
    ]


def test_a_resumed_run_reads_what_there_is(run, backbones, cache):
    settings = ("TEST.FEATURE_CACHE", str(cache), "TRAIN.CHECKPOINT_FREQ", "1")
    _, whole = run("whole", *settings, trainer="CoOp")
    shutil.copytree(whole, cut := whole.with_name("cut"))
    for name in ("done", "results.json", "prompt_learner/model.pth.tar-2"):
        (cut / name).unlink()
    run("cut", *settings, trainer="CoOp")
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_other_settings_and_changed_images_have_files_of_their_own(run, backbones, cache, image_root):
    settings = ("TEST.FEATURE_CACHE", str(cache))
    run("a", *settings, trainer="ZeroshotCLIP")
    variants = [
        ("TRAINER.ZSCLIP.PREC", "bf16"),
        ("INPUT.INTERPOLATION", "bilinear"),
        ("INPUT.TRANSFORMS", "('normalize', 'instance_norm')"),
        ("DATALOADER.TEST.BATCH_SIZE", "7"),
        ("DATASET.SUBSAMPLE_CLASSES", "base"),
        ("DATASET.SUBSAMPLE_CLASSES", "new"),
    ]
    for i, pair in enumerate(variants):
        run(f"b{i}", *settings, *pair, trainer="ZeroshotCLIP")
        assert len(files(cache)) == 2 + i
    for i, pair in enumerate([(), ("OPTIM.LR", "0.1"), ("SEED", "2"), ("INPUT.RRCROP_SCALE", "(0.5, 1.0)")]):
        run(f"c{i}", *settings, *pair, trainer="CoOp")
        assert len(files(cache, "training_features")) == len(files(cache, "pixels")) == (2, 2, 4, 6)[i]  # of two epochs
    count = len(files(cache))
    for target in image_root.rglob("*.png"):  # whichever part of the split it is in
        os.utime(target, (1, 1))
    run("d", *settings, trainer="ZeroshotCLIP")
    assert len(files(cache)) == count + 1


def test_other_code_or_another_machine_computes_anew(run, backbones, cache, monkeypatch):
    settings = ("TEST.FEATURE_CACHE", str(cache))
    run("a", *settings, trainer="ZeroshotCLIP")
    for i, name in enumerate(("_code", "_processor")):
        monkeypatch.setattr(trainers.features, name, lambda: "another")
        run(f"b{i}", *settings, trainer="ZeroshotCLIP")
        assert len(files(cache)) == 2 + i


DAMAGE = {
    "cut": lambda content: content[:150],
    "a flipped bit": lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
    "empty": lambda content: b"",
    "something else": lambda content: b"PK\x03\x04 not an array",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_written_anew(run, backbones, cache, damage, capsys):
    settings = ("TEST.FEATURE_CACHE", str(cache))
    before, _ = run("a", *settings, trainer="ZeroshotCLIP")
    (kept,) = files(cache)
    content = kept.read_bytes()
    kept.write_bytes(DAMAGE[damage](content))
    assert run("b", *settings, trainer="ZeroshotCLIP")[0] == before
    assert kept.read_bytes() == content
    assert f"{kept} is damaged" in capsys.readouterr().out


def test_lines_say_what_is_done_where_and_how_large(run, backbones, cache, capsys):
    for name, word in (("a", "kept for other runs in"), ("b", "read from")):
        run(name, "TEST.FEATURE_CACHE", str(cache), trainer="ZeroshotCLIP")
        size = files(cache)[0].stat().st_size / 1e6
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Features of"))
        found = re.fullmatch(rf"Features of the 20 test images: {word} {cache} \((.*) MB\)", line)
        assert float(found[1]) == pytest.approx(size, rel=0.05)


def test_by_default_in_the_cache_folder_of_the_user(run, backbones, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    run("off", "TEST.FEATURE_CACHE", "", trainer="ZeroshotCLIP")
    assert not (tmp_path / "home" / "gopro").exists()  # matplotlib may keep its fonts beside it
    run("a", trainer="ZeroshotCLIP")
    assert len(files(tmp_path / "home" / "gopro" / "features")) == 1


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nowhere"])
def test_the_default_never_stops_a_run(run, monkeypatch, home, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home)
    cfg = run.config("a")
    cache = FeatureCache(cfg, "weights", "fp32", torch.device("cpu"))
    assert cache.folder == Path(home, ".cache", "gopro", "features")
    file = File(cache.folder / "a.features", (2, 3))
    parts = list(cache.batches("Features", [file], 2, iter([(torch.ones(2, 3),)])))
    assert torch.equal(parts[0][0], torch.ones(2, 3))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Features: computed anew each time, since {cache.folder} cannot be written")


def full(*args, **kwargs):
    raise OSError(28, "no space left on the disk")


Usage = namedtuple("Usage", "free")
OBSTACLES = {
    "cannot be written": ("dassl.utils.tools.open_atomically", full, "/proc/nowhere"),
    "no space left": ("trainers.features.open_atomically", full, None),
    "a quarter of what is free": ("shutil.disk_usage", lambda _: Usage(10), None),
    "a quarter of the free memory": ("psutil.virtual_memory", lambda: namedtuple("M", "available")(10), None),
}


@pytest.mark.parametrize("words", OBSTACLES)
def test_without_room_the_run_goes_on_and_says_so(run, backbones, cache, monkeypatch, capsys, words):
    place, stand_in, folder = OBSTACLES[words]
    expected, _ = run("a", "TEST.FEATURE_CACHE", "", trainer="CoOp")
    capsys.readouterr()
    if folder is None:
        monkeypatch.setattr(place, stand_in)
    assert run("b", "TEST.FEATURE_CACHE", folder or str(cache), trainer="CoOp")[0] == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if words in line]
    told = ["Features of the 20 test images", "Features of the 8 training", "Pixels of the 8 training images"]
    assert all(line.startswith(what) for line, what in zip(sorted(lines), told, strict=True))
    assert not list(cache.glob("*"))


def test_a_file_in_the_way_is_an_error_before_the_work(run, backbones, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"TEST\.FEATURE_CACHE must name a folder, got '.*file/x', where none can be"):
        run("a", "TEST.FEATURE_CACHE", str(tmp_path / "file" / "x"), trainer="ZeroshotCLIP")


@pytest.fixture
def store(run, cache):
    """A cache of at most 1 MB."""
    cfg = run.config("a", "TEST.FEATURE_CACHE", str(cache), "TEST.FEATURE_CACHE_MB", "1")
    return FeatureCache(cfg, "weights", "fp32", torch.device("cpu"))


def test_the_folder_stays_below_its_bound(store, cache, capsys):
    def use(name, rows=100):
        file = File(cache / f"{name}.features", (rows, 1000))
        for (part,) in store.batches(name, [file], rows, iter([(torch.ones(rows, 1000),)])):
            assert torch.equal(part, torch.ones(rows, 1000))

    use("a"), use("b")  # 0.4 MB each
    (own := cache / "own.npy").write_bytes(bytes(900_000))
    for i, name in enumerate("ab"):
        os.utime(cache / f"{name}.features", (i, i))
    use("a")
    use("c")
    assert [path.name for path in sorted(cache.iterdir())] == ["a.features", "c.features", "own.npy"]
    assert f"{cache}: 1 files unused for longest made room" in capsys.readouterr().out
    use("d", rows=300)
    assert [path.name for path in sorted(cache.iterdir())] == ["a.features", "c.features", "own.npy"]
    assert "d: computed anew each time, since 1.2 MB are more than TEST.FEATURE_CACHE_MB 1" in capsys.readouterr().out
    assert own.stat().st_size == 900_000


def write_often(file, times):
    for _ in range(times):
        _write(file, [torch.arange(60_000, dtype=torch.float32).view(file.shape)])


def test_two_processes_that_write_at_once(store, cache):
    file = File(cache / "x.features", (300, 200))
    write_often(file, 1)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(file, 30)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store._sound.clear()
        rows = store._read(file)
        assert rows is not None and rows[-1, -1] == 59_999
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0] and [p.name for p in cache.iterdir()] == ["x.features"]
