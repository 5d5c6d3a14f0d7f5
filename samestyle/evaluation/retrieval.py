"""Does the nearest other item have the same style?"""

from collections.abc import Sequence

import numpy as np

from samestyle.index.nodes import TIE


def style_at_1(scores: Sequence[float], same: Sequence[bool]) -> float:
    """R@1 of one query: the share of same-style items among those that tie for the first place.

    scores: cosines of the candidates, the query itself left out; same: whether each has the query's style.

    >>> style_at_1([.9, .9, .5], [True, False, True])
    0.5
    """
    if len(scores) == 0:
        return 0.0
    best = np.asarray(scores) >= max(scores) - TIE
    return float(np.asarray(same, dtype=float)[best].mean())
