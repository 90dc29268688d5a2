"""Loaders: what a batch holds, and that it depends on seed, epoch and image alone."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from dassl.data import DataManager, DatasetWrapper, build_data_loader, data_manager, samplers
from dassl.data.datasets import ClassList, Datum
from dassl.data.transforms import AVAI_CHOICES, build_transform

MakeCfg = Callable[..., Any]


class Numbers(torch.utils.data.Dataset[int]):
    """The images' numbers alone."""

    def __init__(self, cfg: Any, data_source: list[Datum], **kwargs: Any) -> None:
        self.size = len(data_source)

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return self.size


def epoch_of(loader: Any, epoch: int) -> list[dict[str, Any]]:
    loader.sampler.set_epoch(epoch)
    loader.dataset.set_epoch(epoch)
    return list(loader)


def assert_same_batches(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert list(a) == list(b)
        for key, value in a.items():
            for x, y in zip(value, b[key], strict=True):
                assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, key


SAMPLERS = {
    "RandomSampler": {},
    "SequentialSampler": {},
    "RandomDomainSampler": {"n_domain": 2},
    "SeqDomainSampler": {},
}


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("images", [16, 23, 27, 31])  # of batches of 8: none or an incomplete one left over
@pytest.mark.parametrize("sampler", [*SAMPLERS, "RandomClassSampler"])
def test_the_batches_of_several_processes_are_together_those_of_one(
    sampler: str, images: int, count: int, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [Datum(f"{i}.png", label=i % 4, domain=i % 4) for i in range(images)]
    given = SAMPLERS.get(sampler, {"n_ins": 2})

    def batches(rank: int, world: int, epoch: int) -> list[list[int]]:
        for module in (samplers, data_manager):
            monkeypatch.setattr(module, "get_world_size", lambda: world)
        monkeypatch.setattr(samplers, "get_rank", lambda: rank)
        loader = build_data_loader(make_cfg(), sampler, data, 8 // world, dataset_wrapper=Numbers, **given)
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [batch.tolist() for batch in loader]

    for epoch in range(2):
        whole = batches(0, 1, epoch)
        shares = [batches(rank, count, epoch) for rank in range(count)]
        assert whole and {len(share) for share in shares} == {len(whole)}
        for i, batch in enumerate(whole):
            assert {len(share[i]) for share in shares} == {8 // count}  # no incomplete one
            assert sorted(index for share in shares for index in share[i]) == sorted(batch)


# Batches ------------------------------------------------------------------------------------------------------------


def test_batch_holds_dassls_keys(make_cfg: MakeCfg) -> None:
    manager = DataManager(make_cfg())
    batch = next(iter(manager.train_loader_x))
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    assert batch["img"].shape == (4, 3, 8, 8) and batch["img"].dtype == torch.float32
    for i, index in enumerate(batch["index"].tolist()):
        item = manager.dataset.train_x[index]
        assert (batch["label"][i], batch["domain"][i], batch["impath"][i]) == (item.label, item.domain, item.impath)


def test_several_transforms_give_img_img2_img3_each_from_the_decoded_image(make_cfg: MakeCfg) -> None:
    corners = [lambda image, i=i: functional.to_tensor(image)[:, i : i + 2, :2] for i in (0, 2, 4)]
    manager = DataManager(make_cfg(), custom_tfm_train=corners, custom_tfm_test=corners[0])
    batch = next(iter(manager.train_loader_x))
    assert set(batch) == {"img", "img2", "img3", "label", "domain", "impath", "index"}
    for i, path in enumerate(batch["impath"]):
        pixels = functional.to_tensor(Image.open(path).convert("RGB"))
        for key, top in (("img", 0), ("img2", 2), ("img3", 4)):
            assert torch.equal(batch[key][i], pixels[:, top : top + 2, :2])
    assert "img2" not in next(iter(manager.test_loader))


def test_k_transforms_give_different_copies_in_training_only(make_cfg: MakeCfg) -> None:
    manager = DataManager(make_cfg("DATALOADER.K_TRANSFORMS", "2"))
    copies = next(iter(manager.train_loader_x))["img"]
    assert [copy.shape for copy in copies] == [(4, 3, 8, 8)] * 2
    assert not torch.equal(*copies)
    assert isinstance(next(iter(manager.test_loader))["img"], torch.Tensor)


def test_img0_is_the_whole_image_resized_without_augmentation(make_cfg: MakeCfg, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.arange(16 * 8 * 3, dtype=np.uint8).reshape(8, 16, 3)).save(path)
    cfg = make_cfg("DATALOADER.RETURN_IMG0", "True")
    item = DatasetWrapper(cfg, [Datum(str(path))], build_transform(cfg), is_train=True)[0]
    resized = functional.to_tensor(functional.resize(Image.open(path), [8, 8]))
    expected = functional.normalize(resized, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    torch.testing.assert_close(item["img0"], expected)
    assert not torch.equal(item["img"], item["img0"])


def test_without_a_transform_the_image_itself_is_given(make_cfg: MakeCfg, toy_root: Path) -> None:
    path = str(toy_root / "toy" / "train" / "red" / "0.png")
    assert DatasetWrapper(make_cfg(), [Datum(path)])[0]["img"].size == (12, 12)
    with pytest.raises(ValueError, match="K_TRANSFORMS is 3, but there is no transform"):
        DatasetWrapper(make_cfg("DATALOADER.K_TRANSFORMS", "3"), [Datum(path)], is_train=True)


def test_own_dataset_wrapper_is_used(make_cfg: MakeCfg) -> None:
    class Plain(torch.utils.data.Dataset):
        def __init__(self, cfg: Any, data_source: Any, transform: Any, is_train: bool) -> None:
            self.labels = [item.label for item in data_source]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> int:
            return self.labels[index]

    manager = DataManager(make_cfg(), dataset_wrapper=Plain)
    assert torch.cat(list(manager.test_loader)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_manager_has_dassls_attributes(make_cfg: MakeCfg) -> None:
    manager = DataManager(make_cfg("DATASET.SOURCE_DOMAINS", "('a', 'b')"))
    assert manager.num_classes == 3
    assert manager.num_source_domains == 2
    assert manager.lab2cname == {0: "blue", 1: "green", 2: "red"}
    assert (len(manager.train_loader_x), len(manager.val_loader), len(manager.test_loader)) == (3, 2, 3)
    assert manager.train_loader_u is None


def test_summary_counts_the_images(make_cfg: MakeCfg, capsys: pytest.CaptureFixture[str]) -> None:
    DataManager(make_cfg("VERBOSE", "True", "DATASET.SOURCE_DOMAINS", "('a', 'b')"))
    rows = {line[:10].strip(): line[10:].strip() for line in capsys.readouterr().out.splitlines()}
    counts = {"# classes": "3", "# train_x": "15", "# val": "6", "# test": "9"}
    assert rows == {"Dataset": "ToyImages", "Source": "a, b", **counts}


# Determinism --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opts", [(), ("DATALOADER.K_TRANSFORMS", "2", "DATALOADER.RETURN_IMG0", "True")])
def test_number_of_workers_changes_no_bit_over_epochs(opts: tuple[str, ...], make_cfg: MakeCfg) -> None:
    alone, helped = (
        DataManager(make_cfg(*opts, "DATALOADER.NUM_WORKERS", workers)).train_loader_x for workers in ("0", "2")
    )
    assert helped.persistent_workers
    for epoch in range(3):
        assert_same_batches(epoch_of(alone, epoch), epoch_of(helped, epoch))


def test_epoch_can_be_drawn_again_in_any_order(make_cfg: MakeCfg) -> None:
    loader = DataManager(make_cfg()).train_loader_x
    first = {epoch: epoch_of(loader, epoch) for epoch in (0, 1, 2)}
    assert_same_batches(epoch_of(DataManager(make_cfg()).train_loader_x, 2), first[2])
    assert_same_batches(epoch_of(loader, 0), first[0])


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(make_cfg: MakeCfg) -> None:
    def images(seed: str, epoch: int) -> dict[str, torch.Tensor]:
        batches = epoch_of(DataManager(make_cfg("SEED", seed)).train_loader_x, epoch)
        return {path: image for batch in batches for path, image in zip(batch["impath"], batch["img"], strict=True)}

    base = images("1", 0)
    for other in (images("1", 1), images("2", 0)):
        assert list(base) != list(other)
        assert not any(torch.equal(image, other[path]) for path, image in base.items() if path in other)


def test_augmentation_of_an_image_does_not_depend_on_its_place_in_the_epoch(make_cfg: MakeCfg) -> None:
    dataset = DataManager(make_cfg()).train_loader_x.dataset
    forwards = [dataset[i]["img"] for i in range(15)]
    backwards = [dataset[i]["img"] for i in reversed(range(15))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_two_copies_of_one_image_are_augmented_differently(make_cfg: MakeCfg, toy_root: Path) -> None:
    item = Datum(str(toy_root / "toy" / "train" / "red" / "0.png"))
    cfg = make_cfg()
    dataset = DatasetWrapper(cfg, [item, item], build_transform(cfg), is_train=True)
    assert not torch.equal(dataset[0]["img"], dataset[1]["img"])


def test_transforms_may_draw_from_any_generator(make_cfg: MakeCfg, toy_root: Path) -> None:
    item = Datum(str(toy_root / "toy" / "train" / "red" / "0.png"))
    draws = [lambda image: random.random(), lambda image: np.random.rand(), lambda image: torch.rand(()).item()]
    dataset = DatasetWrapper(make_cfg(), [item], draws, is_train=True)
    first, again = dataset[0], dataset[0]
    dataset.set_epoch(1)
    later = dataset[0]
    for key in ("img", "img2", "img3"):
        assert first[key] == again[key] != later[key]


def test_reading_data_leaves_the_global_generators_alone(make_cfg: MakeCfg) -> None:
    manager = DataManager(make_cfg())

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = states()
    epoch_of(manager.train_loader_x, 0)
    list(manager.test_loader)
    assert states() == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_workers_give_the_same_batches(method: str, make_cfg: MakeCfg) -> None:
    names = [name for name in AVAI_CHOICES if name not in ("random_crop", "center_crop")]
    cfg = make_cfg(
        "DATALOADER.NUM_WORKERS", "2", "INPUT.TRANSFORMS", names, "INPUT.GB_K", "5", "DATALOADER.RETURN_IMG0", "True"
    )

    def batches(start_method: str) -> list[list[dict[str, Any]]]:
        manager = DataManager(cfg)
        for loader in (manager.train_loader_x, manager.test_loader):
            loader.multiprocessing_context = start_method
        return [epoch_of(manager.train_loader_x, epoch) for epoch in range(2)] + [list(manager.test_loader)]

    for one, other in zip(batches("fork"), batches(method), strict=True):
        assert_same_batches(one, other)


def test_no_transform_needs_transforms_of_ones_own(make_cfg: MakeCfg) -> None:
    cfg = make_cfg("INPUT.NO_TRANSFORM", "True", "DATALOADER.RETURN_IMG0", "True")
    for given in ({}, {"custom_tfm_train": functional.to_tensor}, {"custom_tfm_test": functional.to_tensor}):
        with pytest.raises(ValueError, match="INPUT.NO_TRANSFORM True is for trainers that bring transforms"):
            DataManager(cfg, **given)
    manager = DataManager(cfg, custom_tfm_train=functional.to_tensor, custom_tfm_test=functional.to_tensor)
    batch = next(iter(manager.train_loader_x))
    assert batch["img"].shape == (4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE) and batch["img0"].shape == (4, 3, 8, 8)


# Sizes and errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "batch_size", "train", "test"),
    [
        (15, 4, [4, 4, 4], [4, 4, 4, 3]),
        (15, 15, [15], [15]),
        (15, 32, [15], [15]),  # the only batch is kept
        (15, 1, [1] * 15, [1] * 15),
        (1, 4, [1], [1]),
    ],
)
def test_incomplete_last_batch_is_dropped_in_training_unless_it_is_the_only_one(
    images: int, batch_size: int, train: list[int], test: list[int], make_cfg: MakeCfg
) -> None:
    cfg = make_cfg()
    data = DataManager(cfg).dataset.train_x[:images]
    for is_train, expected in ((True, train), (False, test)):
        loader = build_data_loader(cfg, "RandomSampler", data, batch_size, tfm=build_transform(cfg), is_train=is_train)
        assert [len(batch["label"]) for batch in loader] == expected
        assert len(loader) == len(expected)


def test_loader_without_images_or_with_an_impossible_batch_size_is_refused(make_cfg: MakeCfg) -> None:
    cfg = make_cfg()
    data = DataManager(cfg).dataset.train_x
    with pytest.raises(ValueError, match="ToyImages: no training images"):
        build_data_loader(cfg, data_source=[])
    with pytest.raises(ValueError, match="ToyImages: no test images"):
        build_data_loader(cfg, data_source=None, is_train=False)
    with pytest.raises(ValueError, match="BATCH_SIZE must be at least 1, got 0"):
        build_data_loader(cfg, data_source=data, batch_size=0)
    with pytest.raises(ValueError, match="RandomDomainSampler makes no batch of 16 of 15 images"):
        build_data_loader(cfg, "RandomDomainSampler", data, batch_size=16)


def test_sets_may_lack_training_and_validation_images_but_not_test_images(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = toy.DatasetBase.__init__
    without = {"train_x"}
    monkeypatch.setattr(
        toy.DatasetBase,
        "__init__",
        lambda self, **lists: init(self, **{k: v for k, v in lists.items() if k not in without}),
    )
    manager = DataManager(make_cfg("DATASET.VAL_PERCENT", "0"))
    assert manager.train_loader_x is None and manager.val_loader is None
    assert manager.num_classes == 3
    without = {"test"}
    with pytest.raises(ValueError, match="no test images"):
        DataManager(make_cfg())
    without = {"train_x", "test"}
    with pytest.raises(ValueError, match="ToyImages has neither training nor test images"):
        DataManager(make_cfg())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_train", [True, False])
def test_broken_image_is_named_in_one_line(is_train: bool, workers: int, make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg("DATALOADER.NUM_WORKERS", str(workers))
    whole = DataManager(cfg).dataset.train_x[0].impath
    broken = tmp_path / "broken image.png"
    broken.write_bytes(Path(whole).read_bytes()[:200])
    data = [Datum(whole), Datum(str(broken))]
    loader = build_data_loader(cfg, "SequentialSampler", data, 1, tfm=build_transform(cfg), is_train=is_train)

    def read() -> None:
        with pytest.raises(OSError, match="cannot read image") as caught:
            list(loader)
        assert str(caught.value).startswith(f"cannot read image {broken}: ")
        assert len(str(caught.value).splitlines()) == 1

    # In a process that ends at once: PyTorch waits five seconds for a worker that has raised.
    assert toy.wait_for(toy.in_child(read)) == 0


def test_missing_image_is_named_in_one_line(make_cfg: MakeCfg) -> None:
    cfg = make_cfg()
    loader = build_data_loader(cfg, data_source=[Datum("/no/such.png")], tfm=build_transform(cfg))
    with pytest.raises(OSError, match=r"^cannot read image /no/such.png: [^\n]*$"):
        list(loader)


def test_persistent_workers_live_on_over_epochs(make_cfg: MakeCfg) -> None:
    loader = DataManager(make_cfg("DATALOADER.NUM_WORKERS", "1")).train_loader_x
    pids = []
    for epoch in range(2):
        epoch_of(loader, epoch)
        pids.append([worker.pid for worker in loader._iterator._workers])
    assert pids[0] == pids[1]


def test_class_names_alone_get_no_loaders(make_cfg: MakeCfg) -> None:
    manager = DataManager(make_cfg(), dataset=ClassList(["cat", "dog"]))
    assert manager.train_loader_x is manager.train_loader_u is manager.val_loader is manager.test_loader is None
    assert (manager.num_classes, manager.lab2cname) == (2, {0: "cat", 1: "dog"})
