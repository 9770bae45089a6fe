"""What compensating has changed, and what it has not."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from mmprune.errors import by_reason

LISTED = 4
"""How many layers a message lists before it only counts."""


@dataclass(frozen=True)
class Fit:
    """How far a layer is from what it gives in the full network, on the images.

    Attributes:
        before: Sum of squares of the difference as cut, reading what it reads by then, over
            the sum of squares of what the full network gives about its means.
        after: The same with the new weight.
    """

    before: float
    after: float


@dataclass(frozen=True)
class CompensationReport:
    """The layers of a network that was compensated.

    Attributes:
        method: How.
        treated: Layers that were changed, in order of execution.
        left: Layers that read fewer channels and were not -> why.
    """

    method: str
    treated: dict[str, Fit] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        noun = 'layer' if len(self.treated) == 1 else 'layers'
        lines = [f'{self.method}: {len(self.treated)} {noun} compensated']
        if self.treated:
            before, after = (
                median(getattr(fit, name) for fit in self.treated.values())
                for name in ('before', 'after')
            )
            lines[0] += f', median relative error {before:.3g} before, {after:.3g} after'
        lines += [f'not compensated: {line}' for line in by_reason(self.left, LISTED)]
        return '\n'.join(lines)
