import pytest

from dassl.names import choose, did_you_mean


def test_close_names_are_given_whatever_their_case():
    assert did_you_mean("gopor", ["GOPro", "ZeroshotCLIP"]) == " Did you mean GOPro?"
    assert did_you_mean("xyz", ["GOPro", "ZeroshotCLIP"]) == ""


def test_choose_names_what_came_what_is_close_and_what_is_allowed():
    assert choose("a", ("a", "b"), "letter") == "a"
    with pytest.raises(ValueError, match=r"unknown task: 'base2nw'\. Did you mean base2new\? Allowed: base2new, x"):
        choose("base2nw", ["base2new", "x"], "task")
