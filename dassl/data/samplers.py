"""Sampling orders by Dassl's names; each epoch's order depends on the seed and the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler, SequentialSampler

from dassl.utils import seeded
from dassl.utils.distributed import get_rank, get_world_size

from .datasets.base_dataset import Datum, grouped

AVAI_SAMPLERS = (
    "RandomSampler",
    "SequentialSampler",
    "RandomDomainSampler",
    "SeqDomainSampler",
    "RandomClassSampler",
)


def _told(batch_size: int) -> str:
    """A batch in a message."""
    return f"{batch_size}" + (f" of all {get_world_size()} processes together" if get_world_size() > 1 else "")


class RandomSampler(SequentialSampler):
    """All images in random order, drawn with Python's generator."""

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(len(self)), len(self)))


class RandomDomainSampler(Sampler[int]):
    """Batches of equally many images from each of n_domain random domains (0: of all), until a domain runs short.

    Raises:
        ValueError: The batch size is no multiple of the number of domains.
    """

    shuffle_domains = True

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_domain: int = 0) -> None:
        self.indices = grouped(range(len(data_source)), lambda i: data_source[i].domain)
        self.domains = sorted(self.indices)
        self.n_domain = n_domain if n_domain > 0 else len(self.domains)
        if batch_size % self.n_domain or self.n_domain > len(self.domains):
            raise ValueError(
                f"{type(self).__name__}: BATCH_SIZE must be a multiple of N_DOMAIN, the domains per batch, got "
                f"{_told(batch_size)} and {self.n_domain} of {len(self.domains)} domains"
            )
        self.per_domain = batch_size // self.n_domain
        with seeded(0):
            self.length = len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        left = {domain: random.sample(indices, len(indices)) for domain, indices in self.indices.items()}
        order: list[int] = []
        while True:
            chosen = random.sample(self.domains, self.n_domain) if self.shuffle_domains else self.domains
            if any(len(left[domain]) < self.per_domain for domain in chosen):
                return iter(order)
            for domain in chosen:
                order += left[domain][: self.per_domain]
                del left[domain][: self.per_domain]

    def __len__(self) -> int:
        return self.length


class SeqDomainSampler(RandomDomainSampler):
    """As `RandomDomainSampler` over all domains, in their order."""

    shuffle_domains = False

    def __init__(self, data_source: Sequence[Datum], batch_size: int) -> None:
        super().__init__(data_source, batch_size)


class RandomClassSampler(Sampler[int]):
    """Batches of n_ins images from each of batch_size / n_ins random classes; classes with fewer repeat theirs.

    Raises:
        ValueError: The batch is smaller than n_ins or needs more classes than there are.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        self.indices = grouped(range(len(data_source)), lambda i: data_source[i].label)
        if not 1 <= n_ins <= batch_size or batch_size // n_ins > len(self.indices):
            raise ValueError(
                f"RandomClassSampler: N_INS must be at least 1 and at most BATCH_SIZE ({_told(batch_size)}), with at "
                f"most {len(self.indices)} classes a batch; got {n_ins}"
            )
        self.n_ins, self.classes_per_batch = n_ins, batch_size // n_ins
        with seeded(0):
            self.length = len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        groups: dict[int, list[list[int]]] = {}
        for label, indices in self.indices.items():
            short = len(indices) < self.n_ins
            drawn = random.choices(indices, k=self.n_ins) if short else random.sample(indices, len(indices))
            whole = len(drawn) - len(drawn) % self.n_ins
            groups[label] = [drawn[i : i + self.n_ins] for i in range(0, whole, self.n_ins)]
        order: list[int] = []
        labels = list(groups)
        while len(labels) >= self.classes_per_batch:
            for label in random.sample(labels, self.classes_per_batch):
                order += groups[label].pop()
                if not groups[label]:
                    labels.remove(label)
        return iter(order)

    def __len__(self) -> int:
        return self.length


class EpochSampler(Sampler[int]):
    """Another sampler's order, drawn from (seed, epoch), this process's share of it: every n-th of n processes.

    In training all epochs are equally long: an order that varies in length is cut, or repeated from its beginning. The
    i-th batches of all processes together are the i-th batch of a single one that takes as many images.

    Args:
        sampler: Gives one epoch's order; may use Python's, numpy's or torch's generator.
        seed: Non-negative.
        even: Give every process equally many (training); else the first ones may get one more (testing).
    """

    def __init__(self, sampler: Sampler[int], seed: int, even: bool) -> None:
        self.sampler, self.seed, self.even = sampler, seed, even
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        with seeded(self.seed, self.epoch):
            order = list(self.sampler)
        if self.even:  # some samplers' epochs vary in length; the loop counts on equal ones
            size = len(self.sampler)  # type: ignore[arg-type]
            order = (order * -(-size // max(1, len(order))))[: size - size % get_world_size()]
        return iter(order[get_rank() :: get_world_size()])

    def __len__(self) -> int:
        size = len(self.sampler)  # type: ignore[arg-type]
        world = get_world_size()
        return size // world if self.even else (size - get_rank() + world - 1) // world


def build_sampler(
    sampler_type: str, data_source: Sequence[Datum], batch_size: int = 32, n_domain: int = 0, n_ins: int = 16
) -> Sampler[int]:
    """Sampler by name; raises ValueError for an unknown one."""
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomDomainSampler":
        return RandomDomainSampler(data_source, batch_size, n_domain)
    if sampler_type == "SeqDomainSampler":
        return SeqDomainSampler(data_source, batch_size)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(data_source, batch_size, n_ins)
    raise ValueError(f"SAMPLER must be one of {AVAI_SAMPLERS}, got {sampler_type!r}")
