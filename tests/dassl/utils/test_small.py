"""Registry, meters and logger."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dassl.engine import build_trainer
from dassl.utils import AverageMeter, MetricMeter, Registry, setup_logger

# Registry -----------------------------------------------------------------------------------------------------------


def test_objects_are_found_by_name_whether_decorated_or_passed() -> None:
    registry = Registry("THING")

    @registry.register()
    class First:
        pass

    def second() -> None:
        pass

    registry.register(second)
    assert registry.get("First") is First
    assert registry.get("second") is second
    assert registry.registered_names() == ["First", "second"]


def test_taken_name_is_refused_unless_forced() -> None:
    registry = Registry("THING")
    one = registry.register(type("Thing", (), {"__module__": "one"}))
    other = type("Thing", (), {"__module__": "other"})
    with pytest.raises(KeyError, match="THING 'Thing' is already registered by one"):
        registry.register(other)
    assert registry.get("Thing") is one
    registry.register(other, force=True)
    assert registry.get("Thing") is other


def test_file_imported_twice_is_no_conflict() -> None:
    registry = Registry("THING")
    for _ in range(2):
        again = registry.register(type("Thing", (), {"__module__": "one"}))
    assert registry.get("Thing") is again


def test_unknown_name_gives_close_matches_and_all_names() -> None:
    registry = Registry("THING")
    with pytest.raises(ValueError, match="unknown THING: 'a'. Allowed: none"):
        registry.get("a")
    for name in ("GOPro", "ZeroshotCLIP"):
        registry.register(type(name, (), {}))
    with pytest.raises(ValueError, match="unknown THING: 'GoPro'[.] Did you mean GOPro.* Allowed: GOPro, ZeroshotCLIP"):
        registry.get("GoPro")


def test_unknown_trainer_is_named() -> None:
    with pytest.raises(ValueError, match="unknown TRAINER: 'ToyTrain'[.] Did you mean ToyTrainer"):
        build_trainer(SimpleNamespace(TRAINER=SimpleNamespace(NAME="ToyTrain")))


# Meters -------------------------------------------------------------------------------------------------------------


def test_average_is_weighted_by_the_number_of_observations() -> None:
    meter = AverageMeter()
    meter.update(1.0)
    meter.update(4.0, n=2)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (4.0, 3.0, 9.0, 3)
    meter.reset()
    assert (meter.val, meter.avg, meter.sum, meter.count) == (0, 0, 0, 0)


def test_metrics_are_averaged_by_name_and_printed() -> None:
    meter = MetricMeter()
    meter.update({"loss": torch.tensor(1.0), "acc": 50})
    meter.update({"loss": 2.0})
    assert str(meter) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    assert meter.meters["acc"].count == 1


# Logger -------------------------------------------------------------------------------------------------------------


def test_log_gets_what_is_printed_and_stdout_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    tee = setup_logger(str(tmp_path / "run"))
    assert tee is not None
    print("to both")
    assert (tmp_path / "run" / "log.txt").read_text() == "to both\n"  # at once, in case the process is killed
    tee.write_file("to the file\n")
    tee.close()
    assert sys.stdout is before
    print("to the console")
    assert (tmp_path / "run" / "log.txt").read_text() == "to both\nto the file\n"
    assert capsys.readouterr().out == "to both\nto the console\n"


@pytest.mark.parametrize("name", ["own.txt", "own.log"])
def test_log_file_may_be_named_and_is_appended_to(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("before\n")
    tee = setup_logger(str(tmp_path / name))
    assert tee is not None
    print("after")
    tee.close()
    assert (tmp_path / name).read_text() == "before\nafter\n"


@pytest.mark.parametrize("output", [None, ""])
def test_no_output_keeps_stdout(output: str | None) -> None:
    before = sys.stdout
    assert setup_logger(output) is None
    assert sys.stdout is before
