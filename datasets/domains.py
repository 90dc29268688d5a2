"""Domains: which are trained on, which are tested on, and the lists that follow."""

from collections.abc import Sequence
from typing import Any

from dassl.data.datasets import Datum
from dassl.names import did_you_mean

from .splits import Lists, replaced


def choose_domains(cfg: Any, domains: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Source and target domains of a run, of all `domains` of the data set `name`.

    Reads ``DATASET.SOURCE_DOMAINS`` (when it is empty: all domains but the targets) and ``DATASET.TARGET_DOMAINS``
    (when it is empty: the sources).

    Raises:
        ValueError: an unknown domain, or none left for the sources.
    """
    sources, targets = list(cfg.DATASET.SOURCE_DOMAINS), list(cfg.DATASET.TARGET_DOMAINS)
    for key, chosen in (("SOURCE", sources), ("TARGET", targets)):
        for domain in chosen:
            if domain not in domains:
                raise ValueError(
                    f"DATASET.{key}_DOMAINS: unknown domain {domain!r} of {name}.{did_you_mean(domain, domains)}"
                    + (f" Domains: {', '.join(domains)}." if domains else " This data set has no domains.")
                )
    if not sources:
        sources = [d for d in domains if d not in targets]
        if domains and not sources:
            raise ValueError(f"DATASET.TARGET_DOMAINS names all domains of {name}: name the sources too.")
    return sources, targets or sources


def join_domains(splits: dict[str, Lists], sources: Sequence[str], targets: Sequence[str]) -> Lists:
    """Join the splits of several domains: train and val of the sources, test of the targets.

    A target that is no source is unseen, so all its images are test images. `Datum.domain` becomes the
    position in the list of sources (train, val) or of targets (test).
    """
    train = [replaced(d, domain=i) for i, name in enumerate(sources) for d in splits[name][0]]
    val = [replaced(d, domain=i) for i, name in enumerate(sources) for d in splits[name][1]]
    test: list[Datum] = []
    for i, name in enumerate(targets):
        items = splits[name][2]
        if name not in sources:
            items = sorted((d for part in splits[name] for d in part), key=lambda d: (d.label, d.impath))
        test.extend(replaced(d, domain=i) for d in items)
    return train, val, test
