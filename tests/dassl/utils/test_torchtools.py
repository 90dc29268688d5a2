"""Checkpoints: what is written, and that reading runs no code."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from dassl.optim.lr_scheduler import ConstantWarmupScheduler
from dassl.utils import (
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.torchtools import checkpoint_epochs

WEIGHTS = {"ctx": torch.tensor([1.0, 2.0])}


class Touch:
    """Makes a file when it is unpickled: stands for any code."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


# Reading ------------------------------------------------------------------------------------------------------------


def save_hidden(state: Any, path: Path, victim: Path, how: str) -> None:
    code = Touch(victim)
    if how == "beside the weights":
        torch.save({**state, "extra": code}, path)
    elif how == "inside a scheduler":
        scheduler = CosineAnnealingLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 5)
        scheduler.extra = code  # type: ignore[attr-defined]
        torch.save({**state, "scheduler": scheduler}, path)
    elif how == "file of before PyTorch 1.6":
        torch.save({**state, "extra": code}, path, _use_new_zipfile_serialization=False)
    elif how == "newer pickle protocol":
        torch.save({**state, "extra": code}, path, pickle_protocol=4)
    else:
        path.write_bytes(pickle.dumps({**state, "extra": code}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "how",
    ["beside the weights", "inside a scheduler", "file of before PyTorch 1.6", "newer pickle protocol", "bare pickle"],
)
def test_checkpoint_with_code_is_refused_and_the_code_not_run(how: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "model.pth.tar-1", tmp_path / "victim"
    save_hidden({"state_dict": WEIGHTS, "epoch": 1}, path, victim, how)
    if how != "bare pickle":
        torch.load(path, weights_only=False)  # such code does run when it is let
        assert victim.exists()
        victim.unlink()
    with pytest.raises(ValueError, match=str(path)):
        load_checkpoint(str(path))
    assert not victim.exists()


def test_refused_checkpoint_names_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "extra": [Touch(tmp_path / "x"), print, os.system]}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c.pt is refused: .* builtins.print, .*posix.system, and unpickling"):
        load_checkpoint(str(tmp_path / "c.pt"))


def test_no_callable_under_a_harmless_name_is_run(tmp_path: Path) -> None:
    # A crafted file may call anything it can name; names of torch.optim are read as a class that does nothing.
    path = tmp_path / "c.pt"
    torch.save({"state_dict": WEIGHTS}, path)
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
    crafted = b"\x80\x02}U\x01acTORCH.optim.lr_scheduler\nwarnings.warn\nU\x03boo\x85Rs.".replace(b"TORCH", b"torch")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", crafted)
        archive.writestr(f"{folder}/version", "3\n")
        archive.writestr(f"{folder}/byteorder", "little")
    with pytest.raises(ValueError, match=r"no readable checkpoint: TypeError: _Inert\(\) takes no arguments"):
        load_checkpoint(str(path))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("schedule", ["cosine", "multi_step", "warm-up"])
def test_coops_checkpoint_with_its_scheduler_and_optimiser_objects_loads_inertly(
    schedule: str, optimizer: str, tmp_path: Path
) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optim = kinds[optimizer]([parameter], lr=0.1, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    successor = MultiStepLR(optim, [2, 3]) if schedule == "multi_step" else CosineAnnealingLR(optim, 5)
    whole = ConstantWarmupScheduler(optim, successor, 1, 1e-5)
    parameter.sum().backward()
    optim.step()  # so that the optimiser has a state
    whole.step()
    # Upstream's state is all attributes but the optimiser; the successor is an object, with the optimiser inside.
    state = {key: value for key, value in vars(whole).items() if key != "optimizer"}
    checkpoint = {
        "state_dict": {"ctx": parameter.detach(), "token_prefix": torch.zeros(3, 1, 2)},
        "epoch": 50,
        "optimizer": optim.state_dict(),
        "scheduler": {"whole": whole} if schedule == "warm-up" else state,
        "val_result": None,
    }
    torch.save(checkpoint, tmp_path / "c.pt")
    loaded = load_checkpoint(str(tmp_path / "c.pt"))
    assert torch.equal(loaded["state_dict"]["ctx"], parameter.detach())
    assert (loaded["epoch"], loaded["val_result"]) == (50, None)
    (stand_in,) = (value for value in loaded["scheduler"].values() if hasattr(value, "__setstate__"))
    assert vars(stand_in) == {}
    assert not isinstance(stand_in, torch.optim.lr_scheduler.LRScheduler | ConstantWarmupScheduler)


def test_reading_leaves_no_class_allowed_behind(tmp_path: Path) -> None:
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.save({"state_dict": {}, "scheduler": CosineAnnealingLR(optim, 5)}, tmp_path / "c.pt")
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(str(tmp_path / "c.pt"))
    assert set(torch.serialization.get_safe_globals()) == before


def test_file_of_before_pytorch_1_6_loads(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "epoch": 3}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(str(tmp_path / "old.pt"))["state_dict"]["ctx"], WEIGHTS["ctx"])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 but no archive", b"\x80\x02}q\x00"])
def test_file_that_is_no_checkpoint_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-1"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is no readable checkpoint") as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-1"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"{path} is no readable checkpoint"):
        load_checkpoint(str(path))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"checkpoint {tmp_path}/none does not exist"):
        load_checkpoint(str(tmp_path / "none"))


def test_checkpoint_that_is_no_dictionary_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt is no checkpoint: it holds a list, not a dictionary"):
        load_checkpoint(str(tmp_path / "c.pt"))


# Writing ------------------------------------------------------------------------------------------------------------


def test_checkpoint_is_named_by_epoch_and_noted(tmp_path: Path) -> None:
    path = save_checkpoint({"state_dict": WEIGHTS, "epoch": 7}, str(tmp_path / "new" / "model"))
    assert path == str(tmp_path / "new" / "model" / "model.pth.tar-7")
    assert (tmp_path / "new" / "model" / "checkpoint").read_text() == "model.pth.tar-7\n"
    assert load_checkpoint(path)["epoch"] == 7
    assert {p.name for p in (tmp_path / "new" / "model").iterdir()} == {"model.pth.tar-7", "checkpoint"}


def test_best_model_is_copied_and_a_named_one_does_not_become_the_last(tmp_path: Path) -> None:
    save_checkpoint({"state_dict": WEIGHTS, "epoch": 1}, str(tmp_path), is_best=True)
    assert load_checkpoint(str(tmp_path / "model-best.pth.tar"))["epoch"] == 1
    save_checkpoint({"state_dict": WEIGHTS, "epoch": 2}, str(tmp_path), model_name="model-best.pth.tar")
    assert load_checkpoint(str(tmp_path / "model-best.pth.tar"))["epoch"] == 2
    assert (tmp_path / "checkpoint").read_text() == "model.pth.tar-1\n"


def test_prefix_of_data_parallel_is_stripped_unless_told_otherwise(tmp_path: Path) -> None:
    state = {"state_dict": {"module.a": torch.zeros(1), "b.module.c": torch.zeros(1)}, "epoch": 1}
    assert set(load_checkpoint(save_checkpoint(state, str(tmp_path)))["state_dict"]) == {"a", "b.module.c"}
    kept = load_checkpoint(save_checkpoint(state, str(tmp_path), remove_module_from_keys=False))
    assert set(kept["state_dict"]) == {"module.a", "b.module.c"}
    assert "module.a" in state["state_dict"]  # the caller's own is not changed


def test_old_checkpoint_survives_a_failure_to_write_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint({"state_dict": WEIGHTS, "epoch": 1}, str(tmp_path))

    def full_disk(state: Any, file: io.BufferedWriter) -> None:
        file.write(b"PK half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"state_dict": {}, "epoch": 1}, str(tmp_path))
    assert torch.equal(load_checkpoint(path)["state_dict"]["ctx"], WEIGHTS["ctx"])
    assert {p.name for p in tmp_path.iterdir()} == {"model.pth.tar-1", "checkpoint"}


def test_epochs_are_listed_in_numeric_order_without_other_files(tmp_path: Path) -> None:
    names = ("model.pth.tar-10", "model.pth.tar-9", "model.pth.tar-9.77.tmp", "model-best.pth.tar", "model.pth.tar-x")
    for name in names:
        (tmp_path / name).touch()
    assert checkpoint_epochs(str(tmp_path)) == [9, 10]
    assert checkpoint_epochs(str(tmp_path / "none")) == []


# Into a model -------------------------------------------------------------------------------------------------------


def trained() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sched = CosineAnnealingLR(optim, 10)
    return model, optim, sched


def test_last_checkpoint_resumes_model_optimiser_and_schedule(tmp_path: Path) -> None:
    model, optim, sched = trained()
    for epoch in (1, 2):
        model(torch.ones(1, 2)).sum().backward()
        optim.step()
        sched.step()
        state = {"state_dict": model.state_dict(), "optimizer": optim.state_dict(), "scheduler": sched.state_dict()}
        save_checkpoint({**state, "epoch": epoch}, str(tmp_path))
    other, other_optim, other_sched = trained()
    assert resume_from_checkpoint(str(tmp_path), other, other_optim, other_sched) == 2
    assert torch.equal(other.weight, model.weight)
    assert other_sched.get_last_lr() == sched.get_last_lr() == [other_optim.param_groups[0]["lr"]]
    momentum = other_optim.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, optim.state_dict()["state"][0]["momentum_buffer"])
    assert resume_from_checkpoint(str(tmp_path), nn.Linear(2, 2)) == 2


@pytest.mark.parametrize("wrapped", [True, False])
def test_pretrained_weights_that_fit_are_loaded_and_the_others_named(
    wrapped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"module.weight": torch.full((2, 2), 5.0), "bias": torch.zeros(3), "stray": torch.zeros(1)}
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "c.pt")
    model, _, _ = trained()
    bias = model.bias.clone()
    load_pretrained_weights(model, str(tmp_path / "c.pt"))
    assert torch.equal(model.weight, torch.full((2, 2), 5.0))
    assert torch.equal(model.bias, bias)
    assert "Left out (unknown name or other shape): bias, stray" in capsys.readouterr().out


def test_pretrained_weights_of_which_none_fits_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt holds no weight of this model; it has other"):
        load_pretrained_weights(trained()[0], str(tmp_path / "c.pt"))


def test_parameters_are_counted() -> None:
    model = nn.Linear(3, 2)
    assert count_num_param(model) == 8
    assert count_num_param(params=model.parameters()) == 8
    assert count_num_param(params=[{"params": model.weight}, {"params": [model.bias]}]) == 8
    with pytest.raises(ValueError, match="model or params"):
        count_num_param()
