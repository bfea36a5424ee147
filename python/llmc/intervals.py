"""How sure a share is that was counted."""
from __future__ import annotations

import math

Z95 = 1.959963984540054         # a normal variable is within so many deviations 95 % of the time


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion of which `right` of n were seen (Wilson, 1927): the shares
    p with |right/n - p| <= z sqrt(p (1 - p) / n). Of nothing seen it is 0 to 1."""
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is no share")
    if n == 0:
        return 0.0, 1.0
    share, extra = right / n, Z95**2 / n
    middle = (share + extra / 2) / (1 + extra)
    half = Z95 / (1 + extra) * math.sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
