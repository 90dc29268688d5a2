"""Tip-Adapter's alpha and beta are chosen on validation images, which may not be the test images."""

import processes
import pytest

from trainers import base


@pytest.mark.parametrize("method", ["TipAdapter", "TipAdapterF"])
def test_test_images_that_stand_in_for_validation_images_choose_nothing(run, monkeypatch, method):
    read = base.build_dataset

    def stand_in(cfg):  # as ImageNet has it
        data = read(cfg)
        data._val = data._test
        return data

    monkeypatch.setattr(base, "build_dataset", stand_in)
    with pytest.raises(ValueError, match=f"{method} chooses .* has none of its own here; .*SEARCH_SCALE \\(\\) keeps"):
        run("refused", trainer=method)
    run("kept", "TRAINER.TIPADAPTER.SEARCH_SCALE", "()", trainer=method)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_choose_on_all_validation_images(count, run, backbones):
    def choice(folder):
        return [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("Validation images")]

    _, one = run("one", trainer="TipAdapter")
    processes.together(lambda: run("several", trainer="TipAdapter"), count)
    lines = choice(one.with_name("several"))
    assert lines == choice(one) and lines and all("of 10" in line for line in lines)
