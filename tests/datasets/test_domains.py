"""Which domains are trained and tested on."""

import pytest

from dassl.data.datasets import Datum
from datasets import domains


class TestDomains:
    ALL = ("art", "cartoon", "photo", "sketch")

    @pytest.mark.parametrize(
        ("sources", "targets", "expected"),
        [
            ([], [], (list(ALL), list(ALL))),
            (["photo"], [], (["photo"], ["photo"])),
            ([], ["photo"], (["art", "cartoon", "sketch"], ["photo"])),
            (["sketch", "art"], ["photo"], (["sketch", "art"], ["photo"])),
        ],
    )
    def test_choice(self, config, sources, targets, expected):
        cfg = config(SOURCE_DOMAINS=sources, TARGET_DOMAINS=targets)
        assert domains.choose_domains(cfg, self.ALL, "X") == expected

    def test_unknown(self, config):
        with pytest.raises(ValueError, match=r"SOURCE_DOMAINS.*'phto' of X.*mean photo.*art, cartoon, photo, sketch"):
            domains.choose_domains(config(SOURCE_DOMAINS=["phto"]), self.ALL, "X")
        with pytest.raises(ValueError, match="TARGET_DOMAINS.*'photo'.*no domains"):
            domains.choose_domains(config(TARGET_DOMAINS=["photo"]), [], "X")
        with pytest.raises(ValueError, match="all domains of X"):
            domains.choose_domains(config(TARGET_DOMAINS=list(self.ALL)), self.ALL, "X")

    def test_join(self):
        splits = {
            d: tuple([Datum(f"{d}/{part}{y}", y, 0, str(y)) for y in (1, 0)] for part in ("tr", "va", "te"))
            for d in ("a", "b", "c")
        }
        train, val, test = domains.join_domains(splits, ["b", "a"], ["c", "a"])
        assert [(d.impath, d.domain) for d in train] == [
            ("b/tr1", 0),
            ("b/tr0", 0),
            ("a/tr1", 1),
            ("a/tr0", 1),
        ]
        assert [d.impath for d in val] == ["b/va1", "b/va0", "a/va1", "a/va0"]
        unseen = ["c/te0", "c/tr0", "c/va0", "c/te1", "c/tr1", "c/va1"]
        assert [(d.impath, d.domain) for d in test] == [(p, 0) for p in unseen] + [("a/te1", 1), ("a/te0", 1)]
