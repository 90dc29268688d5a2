"""Optimisers by Dassl's names."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default, merge_opts
from dassl.optim import build_optimizer


def optim_cfg(*opts: Any) -> Any:
    cfg = get_cfg_default()
    merge_opts(cfg, ["OPTIM.LR", "0.1", *opts])
    return cfg.OPTIM


def model() -> nn.Sequential:
    return nn.Sequential(OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "dampening": 0.0, "nesterov": True}),
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.99), "amsgrad": False, "eps": 1e-3}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.8, 0.99), "amsgrad": True, "eps": 1e-3}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-3}),
        ("radam", torch.optim.RAdam, {"betas": (0.8, 0.99), "eps": 1e-3}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.95}),
    ],
)
def test_name_chooses_the_optimiser_and_the_config_its_settings(
    name: str, kind: type, settings: dict[str, Any]
) -> None:
    opts = {
        "NAME": name,
        "WEIGHT_DECAY": "0.01",
        "MOMENTUM": "0.8",
        "SGD_NESTEROV": "True",
        "ADAM_BETA1": "0.8",
        "ADAM_BETA2": "0.99",
        "ADAM_EPS": "1e-3",
        "RMSPROP_ALPHA": "0.95",
    }
    optimizer = build_optimizer(model(), optim_cfg(*[w for k, v in opts.items() for w in (f"OPTIM.{k}", v)]))
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert len(group["params"]) == 4
    assert {key: group[key] for key in settings} == settings
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.01)


def test_parameters_or_groups_may_be_given_instead_of_a_model() -> None:
    net = model()
    assert len(build_optimizer(net.head.parameters(), optim_cfg()).param_groups[0]["params"]) == 2
    groups = [{"params": net.head.parameters(), "lr": 0.5}, {"params": net.body.parameters()}]
    assert [g["lr"] for g in build_optimizer(groups, optim_cfg()).param_groups] == [0.5, 0.1]
    optimizer = build_optimizer(net, optim_cfg(), param_groups=[{"params": net.head.parameters(), "lr": 0.5}])
    assert [(len(g["params"]), g["lr"]) for g in optimizer.param_groups] == [(2, 0.5)]


@pytest.mark.parametrize("new", ["('head',)", "['head']"])
def test_staged_rate_lowers_all_but_the_new_layers(new: str) -> None:
    net = model()
    cfg = optim_cfg("OPTIM.STAGED_LR", "True", "OPTIM.NEW_LAYERS", new, "OPTIM.BASE_LR_MULT", "0.2")
    base, fresh = build_optimizer(net, cfg).param_groups
    assert ([id(p) for p in base["params"]], base["lr"]) == (
        [id(p) for p in net.body.parameters()],
        pytest.approx(0.02),
    )
    assert ([id(p) for p in fresh["params"]], fresh["lr"]) == ([id(p) for p in net.head.parameters()], 0.1)


@pytest.mark.parametrize("new", ["()", "('tail',)"])
def test_staged_rate_without_known_new_layers_is_refused(new: str) -> None:
    with pytest.raises(ValueError, match=r"OPTIM.NEW_LAYERS must name children of the model \['body', 'head'\]"):
        build_optimizer(model(), optim_cfg("OPTIM.STAGED_LR", "True", "OPTIM.NEW_LAYERS", new))


def test_impossible_settings_name_key_and_value() -> None:
    with pytest.raises(ValueError, match="OPTIM.NAME must be one of .*'adamw'.* got 'lion'"):
        build_optimizer(model(), optim_cfg("OPTIM.NAME", "lion"))
    for rate in ("0", "-0.1"):
        with pytest.raises(ValueError, match=f"OPTIM.LR must be positive, got {float(rate)}"):
            build_optimizer(model(), optim_cfg("OPTIM.LR", rate))


@pytest.mark.parametrize(("momentum", "dampening"), [("0", "0"), ("0.9", "0.1")])
def test_nesterov_needs_momentum_without_dampening(momentum: str, dampening: str) -> None:
    opts = ("OPTIM.NAME", "sgd", "OPTIM.SGD_NESTEROV", "True", "OPTIM.MOMENTUM")
    assert build_optimizer(model(), optim_cfg(*opts, "0.9")).param_groups[0]["nesterov"]
    with pytest.raises(ValueError, match="OPTIM.SGD_NESTEROV needs OPTIM.MOMENTUM above 0 and OPTIM.SGD_DAMPNING 0"):
        build_optimizer(model(), optim_cfg(*opts, momentum, "OPTIM.SGD_DAMPNING", dampening))


def test_nothing_to_optimise_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        build_optimizer(model().requires_grad_(False), optim_cfg())
