"""What a subnet may cost."""

from dataclasses import dataclass

from mmprune.errors import InputError

Cost = dict[str, int]


def absolute_limit(limit: float, full: int, name: str) -> int:
    """Return a limit as a number of MACs or parameters.

    Args:
        limit: A fraction of the full network (0 < limit <= 1), or a number above 1.
        full: What the full network has.
        name: 'macs' or 'params', for the message.

    Raises:
        InputError: If the limit is not above 0.
    """
    if limit <= 0:
        raise InputError(f'A limit of {name} must be above 0, got {limit}.')
    return round(limit * full) if limit <= 1 else round(limit)


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
    """Upper limits of MACs and parameters; None is no limit.

    Attributes:
        label: What the user called it, for file names and logs.
        macs: MACs on the network's demo input.
        params: Number of parameters.
    """

    label: str
    macs: int | None = None
    params: int | None = None

    @classmethod
    def of(cls, limits: dict[str, float], full: Cost) -> 'Budget':
        """Return the budget that a config gives.

        Args:
            limits: ``macs`` and/or ``params``, each a number or a fraction of the full network.
            full: The cost of the full network.

        Raises:
            InputError: If a limit has another name or is not above 0.
        """
        unknown = limits.keys() - {'macs', 'params'}
        if unknown or not limits:
            raise InputError(
                f'A budget has the keys macs and/or params, got {sorted(limits) or "none"}.'
            )
        label = '_'.join(
            limit_label(limit) if name == 'macs' else f'{limit_label(limit)}_params'
            for name, limit in sorted(limits.items())
        )
        absolute = {name: absolute_limit(limit, full[name], name) for name, limit in limits.items()}
        return cls(label, **absolute)

    def fits(self, cost: Cost) -> bool:
        """Tell whether a subnet of this cost is within the budget."""
        limits = {'macs': self.macs, 'params': self.params}
        return all(limit is None or cost[name] <= limit for name, limit in limits.items())

    def check_reachable(self, smallest: Cost) -> None:
        """Raise InputError if even the smallest subnet is over the budget."""
        if not self.fits(smallest):
            raise InputError(
                f'No subnet is within the budget {self}: the smallest one has '
                f'{smallest["macs"]:,} MACs and {smallest["params"]:,} parameters. Raise the '
                'limit, or allow narrower layers.'
            )

    def __str__(self) -> str:
        limits = [f'{self.macs:,} MACs'] if self.macs is not None else []
        limits += [f'{self.params:,} parameters'] if self.params is not None else []
        return ' and '.join(limits)
