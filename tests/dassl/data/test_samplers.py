"""Sampling orders."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Sampler

import dassl.data.samplers
from dassl.data.datasets import Datum
from dassl.data.samplers import AVAI_SAMPLERS, EpochSampler, build_sampler

# Six images of each of three domains, three of each of six classes; label = i // 3, domain = i % 3.
DATA = [Datum(f"{i}.png", label=i // 3, domain=i % 3) for i in range(18)]


def batches(order: Any, size: int) -> list[list[int]]:
    order = list(order)
    assert len(order) % size == 0
    return [order[i : i + size] for i in range(0, len(order), size)]


@pytest.mark.parametrize("name", AVAI_SAMPLERS)
def test_every_sampler_gives_valid_indices_as_many_as_its_length(name: str) -> None:
    sampler = build_sampler(name, DATA, batch_size=6, n_ins=2)
    order = list(sampler)
    assert len(order) == len(sampler) > 0
    assert set(order) <= set(range(18))


def test_random_sampler_permutes_and_sequential_sampler_does_not() -> None:
    order = list(build_sampler("RandomSampler", DATA))
    assert sorted(order) == list(range(18)) != order
    assert list(build_sampler("SequentialSampler", DATA)) == list(range(18))


def test_domain_sampler_takes_equally_many_of_each_domain() -> None:
    for batch in batches(build_sampler("RandomDomainSampler", DATA, batch_size=6), 6):
        assert Counter(DATA[i].domain for i in batch) == {0: 2, 1: 2, 2: 2}


def test_domain_sampler_takes_some_of_the_domains() -> None:
    chosen = set()
    for _ in range(20):
        order = list(build_sampler("RandomDomainSampler", DATA, batch_size=4, n_domain=2))
        assert len(set(order)) == len(order)
        for batch in batches(order, 4):
            counts = Counter(DATA[i].domain for i in batch)
            assert sorted(counts.values()) == [2, 2]
            chosen.add(frozenset(counts))
    assert len(chosen) == 3


def test_sequential_domain_sampler_keeps_the_domains_order_in_a_batch() -> None:
    order = list(build_sampler("SeqDomainSampler", DATA, batch_size=6))
    assert [DATA[i].domain for i in order] == [0, 0, 1, 1, 2, 2] * 3
    assert sorted(order) == list(range(18))


def test_domain_sampler_stops_when_a_domain_runs_short() -> None:
    uneven = [*DATA, *(Datum("more.png", domain=0) for _ in range(10))]
    assert len(build_sampler("SeqDomainSampler", uneven, batch_size=3)) == 18
    assert len(build_sampler("RandomDomainSampler", uneven, batch_size=12)) == 12


@pytest.mark.parametrize(("name", "size", "n_domain"), [("SeqDomainSampler", 4, 0), ("RandomDomainSampler", 8, 4)])
def test_batch_that_domains_cannot_share_is_refused(name: str, size: int, n_domain: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: BATCH_SIZE must be a multiple .* got {size} and . of 3 domains"):
        build_sampler(name, DATA, batch_size=size, n_domain=n_domain)


def test_class_sampler_takes_n_ins_images_of_each_of_its_classes() -> None:
    order = list(build_sampler("RandomClassSampler", DATA, batch_size=6, n_ins=3))
    for batch in batches(order, 6):
        assert sorted(Counter(DATA[i].label for i in batch).values()) == [3, 3]
    assert sorted(order) == list(range(18))


def test_class_sampler_repeats_images_of_a_small_class() -> None:
    small = [*DATA, Datum("only.png", label=6)]
    order = list(build_sampler("RandomClassSampler", small, batch_size=14, n_ins=2))
    assert order.count(18) == 2


@pytest.mark.parametrize(("size", "n_ins"), [(4, 5), (4, 0), (14, 2)])
def test_class_sampler_refuses_batches_it_cannot_fill(size: int, n_ins: int) -> None:
    with pytest.raises(ValueError, match=rf"N_INS must be .*BATCH_SIZE \({size}\).* 6 classes a batch; got {n_ins}"):
        build_sampler("RandomClassSampler", DATA, batch_size=size, n_ins=n_ins)


def test_unknown_sampler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="RandomClassSampler.* got 'Shuffle'"):
        build_sampler("Shuffle", DATA)


# By epoch -----------------------------------------------------------------------------------------------------------


class AnyGenerator(Sampler[int]):
    """Draws from all three generators."""

    def __iter__(self) -> Iterator[int]:
        draws = [random.randrange(100), int(np.random.randint(100)), int(torch.randint(100, ()))]
        return iter(draws)

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize("name", AVAI_SAMPLERS)
def test_order_depends_on_seed_and_epoch_alone(name: str) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(build_sampler(name, DATA, batch_size=6, n_ins=2), seed, even=True)
        sampler.set_epoch(epoch)
        random.random()
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    if name != "SequentialSampler":
        assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_order_is_the_same_whichever_generator_a_sampler_draws_from() -> None:
    sampler = EpochSampler(AnyGenerator(), 5, even=True)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = list(sampler)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    state = random.getstate()
    assert list(sampler) == first
    assert random.getstate() == state


class Uneven(Sampler[int]):
    """Says 6, gives fewer or more."""

    def __init__(self, given: int) -> None:
        self.given = given

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.given))

    def __len__(self) -> int:
        return 6


def test_training_epochs_are_as_long_as_the_loader_says() -> None:
    assert list(EpochSampler(Uneven(8), 0, even=True)) == [0, 1, 2, 3, 4, 5]
    assert list(EpochSampler(Uneven(4), 0, even=True)) == [0, 1, 2, 3, 0, 1]
    for epoch in range(20):
        sampler = EpochSampler(build_sampler("RandomDomainSampler", DATA, batch_size=4, n_domain=2), 0, even=True)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(
    ("even", "shares"), [(True, [[0, 3], [1, 4], [2, 5]]), (False, [[0, 3, 6], [1, 4, 7], [2, 5]])]
)
def test_processes_share_an_epoch(even: bool, shares: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dassl.data.samplers, "get_world_size", lambda: 3)
    for rank, share in enumerate(shares):
        monkeypatch.setattr(dassl.data.samplers, "get_rank", lambda rank=rank: rank)
        sampler = EpochSampler(build_sampler("SequentialSampler", DATA[:8]), 0, even=even)
        assert list(sampler) == share
        assert len(sampler) == len(share)
