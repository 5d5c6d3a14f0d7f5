"""What is trained on: pairs of contents that show one style, and the batches drawn from them."""

from dataclasses import dataclass

import numpy as np

from samestyle.errors import UsageError

SOURCE_POWER = 0.5


@dataclass(frozen=True)
class Pairs:
    """trigger, offer (pairs,) int64 rows of the features; group (pairs,) int64 style group, unique over all sources;
    source (pairs,) int64: a batch holds pairs of one source, so that its negatives are of one shop.
    """

    trigger: np.ndarray
    offer: np.ndarray
    group: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.trigger)

    def check(self) -> None:
        """Raises UsageError where nothing can be learned: no pair, or no two groups to tell apart."""
        if len(np.unique(self.group)) < 2:
            raise UsageError(
                f"{len(self)} training pairs in {len(np.unique(self.group))} style groups: at least two groups are "
                "needed, as pairs of one group are no negatives of each other; collect more clicks or widen pairs.*"
            )


@dataclass(frozen=True)
class Batch:
    """Rows of the features, (b,) int64 each, which variant of each photo, and the groups; at most `size` pairs."""

    trigger: np.ndarray
    offer: np.ndarray
    group: np.ndarray
    trigger_variant: np.ndarray
    offer_variant: np.ndarray


class Batches:
    """Batch number n is a function of the seed and n alone: a run that goes on draws what it would have drawn."""

    def __init__(
        self, pairs: Pairs, variants: int, size: int, alignment: float, seed: int, own: np.ndarray | None = None
    ) -> None:
        """alignment: share of a batch that pairs a content with itself, so that its photo finds its title; these are
        drawn from `own` (rows,) int64 where given, which needs no clicks, and else from the batch's triggers.
        """
        pairs.check()
        self.pairs, self.variants, self.size, self.alignment, self.seed = pairs, variants, size, alignment, seed
        self.own = np.zeros(0, np.int64) if own is None else own
        self.sources = [Groups(pairs, np.flatnonzero(pairs.source == source)) for source in np.unique(pairs.source)]
        # A small source is seen more often than its share of pairs, or it would be learned last.
        weights = np.array([len(source.rows) for source in self.sources]) ** SOURCE_POWER
        self.weights = weights / weights.sum()

    def at(self, step: int) -> Batch:
        """The pairs of one step: distinct groups of one source; a share of them an offer paired with itself."""
        random = np.random.default_rng((self.seed, step))
        source = self.sources[random.choice(len(self.sources), p=self.weights)]
        alone = min(len(self.own), round(self.alignment * self.size))
        rows = source.draw(self.size - alone, random)
        trigger, offer = self.pairs.trigger[rows], self.pairs.offer[rows]
        swap = random.random(len(rows)) < 0.5
        trigger, offer = np.where(swap, offer, trigger), np.where(swap, trigger, offer)
        group = self.pairs.group[rows]
        if alone:
            drawn = random.choice(self.own, alone, replace=False)
            trigger, offer = np.concatenate([trigger, drawn]), np.concatenate([offer, drawn])
            group = np.concatenate([group, -1 - drawn])  # a style of its own, as far as anybody knows
        else:
            offer = np.where(random.random(len(rows)) < self.alignment, trigger, offer)
        variants = random.integers(0, self.variants, (2, len(trigger)))
        # An offer paired with its very self would match without a look: it shows another variant of the photo.
        variants[1] = np.where(offer == trigger, (variants[0] + 1) % self.variants, variants[1])
        return Batch(trigger, offer, group, variants[0], variants[1])


class Groups:
    """The pairs of one source by style group."""

    def __init__(self, pairs: Pairs, rows: np.ndarray) -> None:
        order = np.argsort(pairs.group[rows], kind="stable")
        self.rows = rows[order]
        _, self.starts, self.counts = np.unique(pairs.group[self.rows], return_index=True, return_counts=True)

    def draw(self, size: int, random: np.random.Generator) -> np.ndarray:
        """At most `size` pairs, one a group."""
        groups = random.permutation(len(self.starts))[:size]
        return self.rows[self.starts[groups] + random.integers(0, self.counts[groups])]


def pairs_of_groups(
    group: np.ndarray, source: np.ndarray, per_group: int, seed: int, supplier: np.ndarray | None = None
) -> Pairs:
    """Pairs of rows with the same label, at most `per_group` of each group; a lone row is paired with itself.

    group, source (rows,) int64; group -1: no label, such a row counts as lone. With `supplier` (rows,), pairs are of
    different suppliers where a group has several.
    """
    random = np.random.default_rng(seed)
    label = np.where(group < 0, np.arange(len(group)) + group.max(initial=0) + 1, group)
    order = np.argsort(label, kind="stable")
    _, starts, counts = np.unique(label[order], return_index=True, return_counts=True)
    drawn = [
        _pairs_of(order[start : start + count], per_group, random, supplier)
        for start, count in zip(starts, counts, strict=True)
    ]
    trigger, offer = np.concatenate(drawn, axis=1)
    return Pairs(trigger, offer, label[trigger], source[trigger])


def _pairs_of(rows: np.ndarray, most: int, random: np.random.Generator, supplier: np.ndarray | None) -> np.ndarray:
    if len(rows) == 1:
        return np.stack([rows, rows])
    first, second = np.triu_indices(len(rows), 1)
    pairs = np.stack([rows[first], rows[second]])
    if supplier is not None and (across := supplier[pairs[0]] != supplier[pairs[1]]).any():
        pairs = pairs[:, across]
    return pairs[:, random.permutation(pairs.shape[1])[:most]]
