"""Tip-Adapter's alpha and beta are chosen on validation images, which may not be the test images."""

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
