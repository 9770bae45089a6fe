"""What a subnet may cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmprune.errors import InputError
from mmprune.pruners.budget import check_budget

COSTS = ('macs', 'params', 'latency')
Cost = Mapping[str, float]
"""``macs`` and ``params``, and ``latency`` in milliseconds where a table predicts it."""


def limit_label(limit: float) -> str:
    """Return a limit for file names: ``0.5``, ``300M``, ``1.5G``, ``1234567``."""
    if limit <= 1:
        return f'{limit:g}'
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'K')):
        short = f'{limit / size:g}'
        if limit >= size and float(short) * size == limit:
            return short + unit
    return f'{limit:.0f}'


@dataclass(frozen=True)
class Budget:
    """Upper limits of MACs, parameters and latency; None is no limit.

    Attributes:
        label: What the user called it, for file names and logs.
        macs: MACs on the network's demo input.
        params: Number of parameters.
        latency: Predicted milliseconds on the network's demo input.
    """

    label: str
    macs: float | None = None
    params: float | None = None
    latency: float | None = None

    @classmethod
    def of(cls, limits: dict[str, float], full: Cost) -> 'Budget':
        """Return the budget that a config gives.

        Args:
            limits: ``macs``, ``params`` and/or ``latency``, each a number (of milliseconds, for
                the latency) or a fraction of the full network.
            full: The cost of the full network.

        Raises:
            InputError: If a limit has another name or is not above 0, or the latency is
                limited and no table predicts it.
        """
        check_budget(limits, has_latency=True)
        if limits.keys() - full.keys():
            raise InputError(
                'A limit of latency needs a table that predicts it: make one by tools/latency.py '
                'and name its file, latency=<file>, in search_cfg.'
            )
        label = '_'.join(_label(name, limit) for name, limit in sorted(limits.items()))
        absolute = {n: limit * full[n] if limit <= 1 else limit for n, limit in limits.items()}
        return cls(label, **{n: v if n == 'latency' else round(v) for n, v in absolute.items()})

    @property
    def limits(self) -> Cost:
        """What is limited, by the names of costs."""
        limits = {name: getattr(self, name) for name in COSTS}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def fits(self, cost: Cost) -> bool:
        """Tell whether a subnet of this cost is within the budget."""
        return all(cost[name] <= limit for name, limit in self.limits.items())

    def check_reachable(self, smallest: Cost) -> None:
        """Raise InputError if even the smallest subnet is over the budget."""
        if not self.fits(smallest):
            raise InputError(
                f'No subnet is within the budget {self}: the smallest one has '
                f'{describe(smallest)}. Raise the limit, or allow narrower layers.'
            )

    def __str__(self) -> str:
        return describe(self.limits)


def _label(name: str, limit: float) -> str:
    """Return a limit of one kind for file names."""
    if name == 'latency':
        return f'{limit:g}_latency' if limit <= 1 else f'{limit:g}ms'
    return limit_label(limit) + ('_params' if name == 'params' else '')


def describe(cost: Cost) -> str:
    """Return a cost in words."""
    words = {'macs': '{:,} MACs', 'params': '{:,} parameters', 'latency': '{:.4g} ms'}
    return ' and '.join(words[name].format(cost[name]) for name in words if name in cost)
