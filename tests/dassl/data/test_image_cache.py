import pickle

import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.image_cache import ImageCache


def picture(colour, size=(5, 3)):
    return Image.new("RGB", size, colour)


class Decoder:
    """Counts its calls."""

    def __init__(self, image):
        self.image, self.calls = image, 0

    def __call__(self):
        self.calls += 1
        return self.image.copy()


def test_decodes_once_and_gives_the_same_pixels():
    cache, decoders = ImageCache(3, 1000), [Decoder(picture((i, 10, 20), (4 + i, 3))) for i in range(3)]
    for _ in range(3):
        for i in (2, 0, 1):
            image = cache.get(i, decoders[i])
            assert image.mode == "RGB" and image.size == (4 + i, 3)
            assert image.tobytes() == decoders[i].image.tobytes()
            image.putpixel((0, 0), (255, 255, 255))  # the caller's copy, not the kept one
    assert [decoder.calls for decoder in decoders] == [1, 1, 1]


def test_what_finds_no_room_is_decoded_each_time():
    cache, decoders = ImageCache(3, 2 * 45), [Decoder(picture((i, 0, 0))) for i in range(3)]
    for _ in range(2):
        for i in range(3):
            assert cache.get(i, decoders[i]).tobytes() == decoders[i].image.tobytes()
    assert [decoder.calls for decoder in decoders] == [1, 1, 2]


def test_a_copy_for_a_spawned_process_keeps_nothing():
    cache, decoder = pickle.loads(pickle.dumps(ImageCache(1, 1000))), Decoder(picture((1, 2, 3)))
    cache.get(0, decoder)
    cache.get(0, decoder)
    assert decoder.calls == 2


def loader(folder, workers, cache_mb):
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.INPUT.SIZE = (8, 8)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "normalize")
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.CACHE_MB = cache_mb
    from dassl.data.transforms import build_transform

    data = [Datum(str(folder / f"{i}.png"), label=0, classname="a") for i in range(6)]
    return build_data_loader(cfg, data_source=data, batch_size=2, tfm=build_transform(cfg, is_train=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_equal_those_without_a_cache_and_survive_lost_files(tmp_path, workers):
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        pixels = torch.randint(256, (12, 10, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
    plain, kept = loader(tmp_path, workers, 0), loader(tmp_path, workers, 1)

    def epoch(of, number):
        of.dataset.set_epoch(number)
        return torch.cat([batch["img"] for batch in of])

    expected = [epoch(plain, number) for number in range(2)]
    assert not torch.equal(*expected)  # new crops each epoch
    first = epoch(kept, 0)
    for file in tmp_path.iterdir():
        file.unlink()
    # Whichever worker gets an image now, one of them has decoded it.
    assert torch.equal(first, expected[0]) and torch.equal(epoch(kept, 1), expected[1])


def test_a_negative_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="DATALOADER.CACHE_MB must not be negative .* got -1"):
        loader(tmp_path, 0, -1)
