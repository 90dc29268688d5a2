"""The rendered data sets: pictures, files on disk, and what happens when rendering is disturbed."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from datasets import shapes
from datasets.rendered import contact_sheet
from datasets.rendered.outlines import COUNTS
from datasets.rendered.render import DOMAINS, VOCABULARIES, render

GOLDEN_CLASSES = [("Shapes", "bird"), ("Patterns", "plaid"), ("Digits", "eight"), ("Counts", "five stars")]
# Mean grey values of the four quarters of picture 0.
GOLDEN = {
    "photo": [[64, 63, 62, 62], [105, 116, 90, 99], [73, 81, 65, 77], [42, 47, 92, 91]],
    "sketch": [[236, 234, 222, 229], [172, 180, 180, 174], [225, 235, 222, 235], [232, 228, 235, 241]],
    "painting": [[57, 61, 57, 69], [134, 122, 126, 116], [142, 141, 121, 125], [144, 142, 127, 117]],
    "cartoon": [[104, 124, 113, 122], [88, 86, 90, 94], [123, 125, 115, 108], [106, 104, 107, 105]],
}
ALL_CLASSES = [(name, c) for name, classes in VOCABULARIES.items() for c in classes]


def draw(name, class_name, domain, seed="test", size=32):
    return np.asarray(render(name, class_name, domain, random.Random(f"{seed}"), size))


# ------------------------------------------------------------------------------------------------ pictures


def test_vocabularies():
    assert {name: len(classes) for name, classes in VOCABULARIES.items()} == {
        "Shapes": 36,
        "Patterns": 12,
        "Digits": 10,
        "Counts": 12,
    }
    assert DOMAINS == ("photo", "sketch", "painting", "cartoon")
    assert all(c == c.lower().strip() and "_" not in c for _, c in ALL_CLASSES)
    assert all(list(classes) != sorted(classes) for classes in VOCABULARIES.values())


@pytest.mark.parametrize("name", VOCABULARIES)
def test_pictures_are_deterministic_and_differ(name):
    seen = set()
    for class_name in VOCABULARIES[name]:
        for domain in DOMAINS:
            first = draw(name, class_name, domain)
            assert first.shape == (32, 32, 3) and first.dtype == np.uint8
            assert first.std() > 4, f"nothing to see on {domain} {class_name}"
            assert (first == draw(name, class_name, domain)).all()
            seen |= {first.tobytes(), draw(name, class_name, domain, seed=1).tobytes()}
    assert len(seen) == 2 * len(DOMAINS) * len(VOCABULARIES[name])


def test_rendering_does_not_touch_the_global_generators():
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    draw("Shapes", "fish", "photo")
    draw("Shapes", "fish", "painting")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("domain", DOMAINS)
def test_pictures_stay_those_of_this_version(domain):
    """Published weights and numbers hold for these pictures: count up `shapes.VERSION` when they change."""
    for (name, class_name), values in zip(GOLDEN_CLASSES, GOLDEN[domain], strict=True):
        image = render(name, class_name, domain, shapes.image_rng(name, class_name, domain, 0), 64)
        assert np.asarray(image.convert("L").reduce(32), dtype=int).ravel() == pytest.approx(values, abs=2)


@pytest.mark.parametrize("size", [16, 47, 64, 224, 600])
def test_any_size(size):
    assert {render("Shapes", "bird", d, random.Random(0), size).size for d in DOMAINS} == {(size, size)}


def test_styles_look_as_they_should():
    """Sketches are pale and colourless, cartoons have few colours, photos and paintings have many."""
    for class_name in ("heart", "house", "key"):
        pictures = {d: draw("Shapes", class_name, d, size=64).astype(int) for d in DOMAINS}
        assert pictures["sketch"].mean() > 200
        assert np.ptp(pictures["sketch"], axis=2).max() < 40
        colours = {d: len(np.unique(p.reshape(-1, 3), axis=0)) for d, p in pictures.items()}
        assert colours["cartoon"] < colours["photo"] / 3
        assert colours["painting"] > colours["sketch"]


@pytest.mark.parametrize("class_name", COUNTS)
def test_counted_objects_are_as_many_as_named_and_apart(class_name):
    number = ["one", "two", "three", "four", "five", "six"].index(class_name.split()[0]) + 1
    assert class_name.endswith("s") == (number > 1)
    for seed in range(30):
        (part,) = COUNTS[class_name](random.Random(seed))
        assert len(part.paths) == number
        centres = [path.mean(axis=0) for path in part.paths]
        radii = [np.hypot(*(path - centre).T).max() for path, centre in zip(part.paths, centres, strict=True)]
        for i in range(number):
            for j in range(i):
                assert np.hypot(*(centres[i] - centres[j])) > 0.95 * (radii[i] + radii[j])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Shape", "fish", "photo", 64), "dataset: 'Shape'.*Shapes.*Patterns"),
        (("Shapes", "fisch", "photo", 64), "class name: 'fisch'.*Did you mean fish"),
        (("Shapes", "fish", "foto", 64), "domain: 'foto'.*photo.*sketch"),
        (("Shapes", "fish", "photo", 8), "size: got 8"),
    ],
)
def test_unknown_arguments(arguments, message):
    *names, size = arguments
    with pytest.raises(ValueError, match=message):
        render(*names, random.Random(0), size)


def test_contact_sheet(tmp_path):
    contact_sheet.main([str(tmp_path / "a.png"), "--dataset", "Digits", "--size", "16", "--per-domain", "1"])
    assert (tmp_path / "a.png").stat().st_size > 1000


# ------------------------------------------------------------------------------------------------- readers


@pytest.fixture
def small(monkeypatch):
    """Sets of few and small pictures."""
    monkeypatch.setattr(shapes, "IMAGES", {"train": 2, "val": 1, "test": 2})
    monkeypatch.setattr(shapes, "SIZE_PX", 16)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def domains_of(items):
    return {Path(d.impath).parts[-3] for d in items}


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_layout_and_split(small, config, root):
    data = shapes.Counts(config())
    assert (len(data.train_x), len(data.val), len(data.test)) == (2 * 48, 48, 2 * 48)
    assert domains_of(data.train_x) == domains_of(data.test) == set(DOMAINS)
    folder = root / "counts"
    assert (folder / "images/photo/three_stars/0001.png").is_file()
    assert len(list(folder.rglob("*.png"))) == 4 * 12 * 5
    split = json.loads((folder / "split_zhou_Counts.json").read_text())
    assert [len(split[part]) for part in ("train", "val", "test")] == [96, 48, 96]
    assert split["train"][0] == ["photo/three_stars/0001.png", 0, "three stars"]
    names = {label: c for _, label, c in split["test"]}
    assert [names[i] for i in range(12)] == list(VOCABULARIES["Counts"])
    paths = [row[0] for part in split.values() for row in part]
    assert len(set(paths)) == len(paths) == 4 * 12 * 5
    assert os.listdir(root) == ["counts"]


@pytest.mark.parametrize("name", ["Shapes", "Patterns", "Digits", "Counts"])
def test_registered_with_full_size_and_documented_counts(name):
    from dassl.data.datasets import DATASET_REGISTRY

    assert DATASET_REGISTRY.get(name) is getattr(shapes, name)
    total = len(VOCABULARIES[name]) * len(DOMAINS) * sum(shapes.IMAGES.values())
    assert f"{len(VOCABULARIES[name])} classes" in getattr(shapes, name).__doc__
    assert f"{total:,} in all" in getattr(shapes, name).__doc__


def test_domain_selection(small, config, root):
    data = shapes.Digits(config(SOURCE_DOMAINS=["photo", "cartoon"], TARGET_DOMAINS=["sketch"]))
    assert domains_of(data.train_x) == domains_of(data.val) == {"photo", "cartoon"}
    assert domains_of(data.test) == {"sketch"}
    assert len(data.train_x) == 2 * 10 * 2
    assert len(data.test) == 10 * 5  # an unseen domain is for testing only, so all of it
    seen = shapes.Digits(config(SOURCE_DOMAINS=["sketch"]))
    assert domains_of(seen.train_x) == domains_of(seen.test) == {"sketch"}
    assert len(seen.test) == 10 * 2
    with pytest.raises(ValueError, match="SOURCE_DOMAINS.*'skech'.*photo"):
        shapes.Digits(config(SOURCE_DOMAINS=["skech"]))


def test_few_shots_and_class_halves(small, config, root):
    base = shapes.Digits(config(SOURCE_DOMAINS=["photo"], NUM_SHOTS=1, SUBSAMPLE_CLASSES="base"))
    new = shapes.Digits(config(SOURCE_DOMAINS=["photo"], NUM_SHOTS=1, SUBSAMPLE_CLASSES="new"))
    names = [{d.classname for d in data.train_x} for data in (base, new)]
    assert len(base.train_x) == len(new.train_x) == 5
    assert names[0].isdisjoint(names[1]) and names[0] | names[1] == set(VOCABULARIES["Digits"])
    assert {d.label for d in new.test} == set(range(5))


def test_same_files_every_time_and_no_second_rendering(small, config, root, monkeypatch):
    for folder in ("a", "b"):
        shapes.Digits(config(root / folder, SOURCE_DOMAINS=["photo"]))
    first = {p.name: p.read_bytes() for p in (root / "a").rglob("*") if p.is_file()}
    assert first == {p.name: p.read_bytes() for p in (root / "b").rglob("*") if p.is_file()}
    monkeypatch.setattr(shapes, "render", lambda *_: pytest.fail("rendered again"))
    assert len(shapes.Digits(config(root / "a", SOURCE_DOMAINS=["photo"])).test) == 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_rendering_leaves_nothing(small, config, root, monkeypatch, error):
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > 7:
            raise error("stop")
        return render(*arguments)

    monkeypatch.setattr(shapes, "render", failing)
    with pytest.raises(error):
        shapes.Digits(config())
    assert files(root) == []
    monkeypatch.setattr(shapes, "render", render)
    assert len(shapes.Digits(config()).train_x) == 80


def test_killed_rendering_is_cleared_away_later(small, config, root):
    old, running = root / ".digits-unfinished-old", root / ".digits-unfinished-running"
    for folder in (old, running):
        (folder / "images").mkdir(parents=True)
    os.utime(old, (0, 0))
    shapes.Digits(config())
    assert sorted(os.listdir(root)) == [".digits-unfinished-running", "digits"]


def test_two_processes_at_once(small, config, root, monkeypatch):
    folder = str(root / "digits")
    original = shapes._draw_all

    def slow(name, unfinished):
        original(name, unfinished)
        monkeypatch.setattr(shapes, "_draw_all", original)
        shapes.render_dataset(name, folder)  # the other process finishes first
        (root / "digits/split_fewshot").mkdir()

    monkeypatch.setattr(shapes, "_draw_all", slow)
    assert shapes.render_dataset("Digits", folder) == folder
    assert os.listdir(root) == ["digits"]
    assert (root / "digits/split_fewshot").is_dir()  # the first one's folder stayed
    assert len(shapes.Digits(config()).test) == 80


def test_outdated_and_foreign_folders_are_refused(small, config, root, monkeypatch):
    shapes.Digits(config())
    before = files(root)
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    with pytest.raises(ValueError, match="another version.*version.*Delete the folder"):
        shapes.Digits(config())
    assert files(root) == before
    (root / "digits/rendered.json").unlink()
    with pytest.raises(ValueError, match="was not rendered by this reader.*DATASET.ROOT"):
        shapes.Digits(config())


def test_a_read_only_root_is_left_alone(small, config, root):
    root.mkdir(exist_ok=True)
    root.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="read-only"):
            shapes.Digits(config())
        assert files(root) == []
    finally:
        root.chmod(0o755)
