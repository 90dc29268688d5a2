import re

import pytest

from dassl import names
from dassl.config import flatten, get_cfg_default
from dassl.names import choose, did_you_mean, is_config_key


def test_close_names_are_given_whatever_their_case():
    assert did_you_mean("gopor", ["GOPro", "ZeroshotCLIP"]) == " Did you mean GOPro?"
    assert did_you_mean("xyz", ["GOPro", "ZeroshotCLIP"]) == ""


def test_choose_names_what_came_what_is_close_and_what_is_allowed():
    assert choose("a", ("a", "b"), "letter") == "a"
    with pytest.raises(ValueError, match=r"unknown task: 'base2nw'\. Did you mean base2new\? Allowed: base2new, x"):
        choose("base2nw", ["base2new", "x"], "task")


@pytest.mark.parametrize(
    ("word", "is_key"),
    [
        *((word, True) for word in ("OPTIM.LR", "DATALOADER.TRAIN_X.BATCH_SIZE", "TRAINER.Own.key", "OPTIM.LRR")),
        *((word, False) for word in ("PACS", "VOC2007", "2019", "A_B", "art_painting", "1.5", "images.d", "", "A.")),
    ],
)
def test_config_keys_among_other_words(word, is_key):
    assert is_config_key(word) == is_key


def test_keys_without_a_dot_are_the_engines():
    top = {key for key in flatten(get_cfg_default()) if "." not in key}
    assert all(map(is_config_key, top))
    assert set(re.findall(r"\|(\w+)(?=\||$)", names._KEY.pattern)) == top
