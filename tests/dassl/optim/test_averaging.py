"""The mean of weights over epochs, against its definition."""

import math

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default, merge_opts
from dassl.optim import WeightAverage
from dassl.optim.averaging import epoch_weights


def average(kind: str, epochs: int) -> WeightAverage:
    cfg = get_cfg_default()
    merge_opts(cfg, ["OPTIM.AVERAGE", kind, "OPTIM.AVERAGE_MEAN", "2.5", "OPTIM.AVERAGE_STD", "0.7"])
    return WeightAverage(cfg.OPTIM, epochs)


@pytest.mark.parametrize(("mean", "std"), [(30.0, 30.0), (45.0, 5.0), (6.5, 10.0), (1.0, 0.4)])
def test_gaussian_weights_are_the_densities_at_the_epochs(mean: float, std: float) -> None:
    density = [math.exp(-(((e - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi)) for e in range(1, 51)]
    assert epoch_weights("gaussian", 50, mean, std) == pytest.approx([d / sum(density) for d in density])


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (500.0, 1e-3, [0, 0, 1]),  # all densities are 0 to a float
        (2.0, 1e-300, [0, 1, 0]),
        (1.5, 1e-300, [0.5, 0.5, 0]),
        (1e308, 1.0, [1 / 3] * 3),
        (-1e9, 1e300, [1 / 3] * 3),
    ],
)
def test_extreme_gaussians_give_weights_that_sum_to_one(mean: float, std: float, expected: list[float]) -> None:
    assert epoch_weights("gaussian", 3, mean, std) == pytest.approx(expected)


def test_uniform_weights_and_an_unknown_kind() -> None:
    assert epoch_weights("uniform", 4, 0, 1) == [0.25] * 4
    with pytest.raises(ValueError, match=r"OPTIM.AVERAGE must be empty or one of .*'uniform'.*, got 'ema'"):
        average("ema", 3)


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_floating_point_entries_are_averaged_and_the_others_kept(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, mean = nn.BatchNorm1d(3).to(dtype), average(kind, 4)
    seen = []
    for epoch in range(4):
        with torch.no_grad():
            for tensor in (model.weight, model.bias, model.running_mean, model.running_var):
                tensor.copy_(torch.randn(3))
            model.num_batches_tracked += 5
        mean.add("norm", model, epoch)
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
    assert {value.dtype for value in mean.state_dict("norm").values()} == {torch.float32}
    mean.apply("norm", model)
    weights = epoch_weights(kind, 4, 2.5, 0.7)
    for key, value in model.state_dict().items():
        if key == "num_batches_tracked":
            assert value == 20
        else:
            expected = sum(w * state[key].double() for w, state in zip(weights, seen, strict=True))
            assert value.dtype == dtype
            torch.testing.assert_close(value, expected.to(dtype))


def test_sums_go_on_from_a_checkpoint() -> None:
    model, whole, begun, resumed = nn.Linear(2, 2), *(average("gaussian", 3) for _ in range(3))
    for epoch, one in enumerate((begun, begun, resumed)):
        nn.init.normal_(model.weight)
        if one is resumed:
            resumed.load_state_dict("linear", model, begun.state_dict("linear"))
        for each in (whole, one):
            each.add("linear", model, epoch)
    for key, value in whole.state_dict("linear").items():
        assert torch.equal(value, resumed.state_dict("linear")[key])
