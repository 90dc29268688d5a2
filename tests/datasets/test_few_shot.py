"""Few-shot picks and class halves, against independent transcriptions of CoOp's rules."""

import json
import math
import random
from collections import defaultdict

import pytest

from dassl.data.datasets import Datum
from datasets import base, few_shot
from tests.datasets.lists import made_up, paths


def coop_few_shot(items: list[Datum], shots: int) -> list[Datum]:
    """CoOp's rule, written anew; draws from the global generator."""
    by_label = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    chosen = []
    for label in by_label:
        pool = by_label[label]
        chosen += random.sample(pool, shots) if shots <= len(pool) else pool
    return chosen


def coop_half(items: list[Datum], all_items: list[Datum], half: str) -> list[tuple[str, int, str]]:
    labels = sorted({d.label for d in all_items})
    m = math.ceil(len(labels) / 2)
    kept = {"all": labels, "base": labels[:m], "new": labels[m:]}[half]
    return [(d.impath, kept.index(d.label), d.classname) for d in items if d.label in kept]


@pytest.mark.parametrize("half", ["all", "base", "new"])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 17])
def test_picks_are_coops(config, tmp_path, seed, shots, half):
    train, val, test = made_up(200, 9, 5), made_up(80, 9, 6), made_up(50, 9, 7)
    random.seed(seed)
    expected_train, expected_val = coop_few_shot(train, shots), coop_few_shot(val, min(shots, 4))
    cfg = config(SEED=seed, NUM_SHOTS=shots, SUBSAMPLE_CLASSES=half)
    for _ in range(2):  # drawn, then read from the cache
        got = base.finalize(cfg, str(tmp_path), train, val, test)
        for items, expected in zip(got, (expected_train, expected_val, test), strict=True):
            assert [(d.impath, d.label, d.classname) for d in items] == coop_half(expected, train, half)
    assert (tmp_path / "split_fewshot" / f"shot_{shots}-seed_{seed}.json").exists()


def test_picks_leave_the_global_generator_alone(config, tmp_path):
    items = made_up(60, 4, 0)
    random.seed(3)
    expected = random.random()
    random.seed(3)
    base.finalize(config(NUM_SHOTS=2), str(tmp_path), items, items, items)
    assert random.random() == expected


def test_all_images_without_shots(config, tmp_path):
    items = made_up(40, 4, 0)
    train, val, test = base.finalize(config(), str(tmp_path), items, None, items)
    assert paths(train) == paths(items) == paths(test)
    assert val is None
    assert not (tmp_path / "split_fewshot").exists()


@pytest.mark.parametrize("shots", [0, -2, -16])
def test_bad_shots(config, tmp_path, shots):
    items = made_up(10, 2, 0)
    with pytest.raises(ValueError, match=f"NUM_SHOTS is {shots}.*-1"):
        base.finalize(config(NUM_SHOTS=shots), str(tmp_path), items, items, items)


def test_small_classes_are_taken_whole_and_named(config, tmp_path, capsys):
    items = [Datum(f"/d/{i}.jpg", label=int(i >= 10), classname=["many", "few"][i >= 10]) for i in range(13)]
    train, _, _ = base.finalize(config(NUM_SHOTS=5), str(tmp_path), items, None, items)
    assert sum(d.label == 0 for d in train) == 5
    assert paths(train)[5:] == ["/d/10.jpg", "/d/11.jpg", "/d/12.jpg"]
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1
    assert "fewer than 5 training images" in warnings[0]
    assert "few (3)" in warnings[0]
    assert "many" not in warnings[0]


class TestCache:
    def picks(self, cfg, folder, items, sources=()):
        return paths(base.finalize(cfg, str(folder), items, items, items, sources)[0])

    def file(self, folder):
        (found,) = (folder / "split_fewshot").iterdir()
        return found

    def test_is_what_is_read(self, config, tmp_path):
        items, cfg = made_up(60, 3, 0, str(tmp_path)), config(NUM_SHOTS=2)
        first = self.picks(cfg, tmp_path, items)
        content = json.loads(self.file(tmp_path).read_text())
        assert [str(tmp_path / row[0]) for row in content["train"]] == first
        content["train"][0], content["train"][1] = content["train"][1], content["train"][0]
        self.file(tmp_path).write_text(json.dumps(content))
        assert self.picks(cfg, tmp_path, items) == [first[1], first[0], *first[2:]]

    @pytest.mark.parametrize("damage", ["other list", "no json", "other image", "too few", "wrong type", "empty"])
    def test_that_does_not_fit_is_made_anew(self, config, tmp_path, capsys, damage):
        items, cfg = made_up(60, 3, 0), config(NUM_SHOTS=2)
        first = self.picks(cfg, tmp_path, items)
        file = self.file(tmp_path)
        good = file.read_text()
        content = json.loads(good)
        if damage == "other list":
            content["digest"] = "0" * 64
        elif damage == "other image":
            content["train"][0][0] = "/data/nowhere.jpg"
        elif damage == "too few":
            content["val"] = content["val"][1:]
        elif damage == "wrong type":
            content = [1, 2]
        file.write_text({"no json": good[:50], "empty": ""}.get(damage, json.dumps(content)))
        capsys.readouterr()
        assert self.picks(cfg, tmp_path, items) == first
        assert "Picking again" in capsys.readouterr().out
        assert file.read_text() == good

    def test_of_other_source_domains_has_its_own_file(self, config, tmp_path):
        cfg = config(NUM_SHOTS=1)
        self.picks(cfg, tmp_path, made_up(30, 3, 0), ["photo", "sketch"])
        self.picks(cfg, tmp_path, made_up(30, 3, 1), ["photo"])
        self.picks(cfg, tmp_path, made_up(30, 3, 2))
        names = sorted(p.name for p in (tmp_path / "split_fewshot").iterdir())
        assert names == [
            "shot_1-seed_1-photo+sketch.json", "shot_1-seed_1-photo.json", "shot_1-seed_1.json",
        ]  # fmt: skip

    def test_is_not_used_without_a_seed(self, config, tmp_path):
        self.picks(config(NUM_SHOTS=1, SEED=-1), tmp_path, made_up(30, 3, 0))
        assert not (tmp_path / "split_fewshot").exists()

    def test_in_a_read_only_folder(self, config, tmp_path, capsys):
        items, cfg = made_up(30, 3, 0), config(NUM_SHOTS=2)
        expected = self.picks(cfg, tmp_path / "other", items)
        capsys.readouterr()
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        try:
            assert self.picks(cfg, folder, items) == expected
        finally:
            folder.chmod(0o755)
        assert list(folder.iterdir()) == []
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert "not saved" in lines[0]
        assert str(folder) in lines[0]


class TestSubsample:
    def test_odd_numbers_give_the_base_one_more(self):
        items = made_up(40, 7, 0)
        (base,) = few_shot.subsample_classes(items, subsample="base")
        (new,) = few_shot.subsample_classes(items, subsample="new")
        assert sorted({(d.label, d.classname) for d in base}) == [(i, f"c{i}") for i in range(4)]
        assert sorted({(d.label, d.classname) for d in new}) == [(i, f"c{i + 4}") for i in range(3)]

    def test_labels_come_from_the_first_list(self):
        train, test = made_up(20, 4, 0), made_up(40, 6, 0)
        _, got = few_shot.subsample_classes(train, test, subsample="new")
        assert {d.classname for d in got} == {"c2", "c3"}

    def test_unknown_word(self):
        with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES: 'bas'.*mean base.*all, base, new"):
            few_shot.subsample_classes(made_up(5, 2, 0), subsample="bas")

    def test_one_class_leaves_no_new_one(self):
        with pytest.raises(ValueError, match="1 class"):
            few_shot.subsample_classes(made_up(5, 1, 0), subsample="new")
