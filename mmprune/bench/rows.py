"""What the benchmark has measured, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmprune.latency import Times


@dataclass(frozen=True)
class Row:
    """One comparison: something measured beside what it is measured against.

    Attributes:
        section: The part of the benchmark that it belongs to.
        subject: What was run: a network, a batch size.
        what: What was measured.
        value: How much of ``unit`` it took.
        unit: ``'ms'``, ``'MB'``, ``'subnets/s'``.
        against: What it is compared with; empty for nothing.
        reference: How much of ``unit`` that took; None for nothing.
        most: The largest ratio that is aimed at; None if none is.
        least: The smallest value that is aimed at; None if none is.
        rounds: Over how many rounds ``value`` and ``reference`` are medians.
        spread: Half the distance of the quartiles of ``value``, over it.
    """

    section: str
    subject: str
    what: str
    value: float
    unit: str = 'ms'
    against: str = ''
    reference: float | None = None
    most: float | None = None
    least: float | None = None
    rounds: int = 1
    spread: float = 0.0

    @classmethod
    def timed(
        cls,
        section: str,
        subject: str,
        what: str,
        times: Times,
        against: str = '',
        reference: Times | None = None,
        most: float | None = None,
        of: str = 'median',
        scale: float = 1,
    ) -> Row:
        """A row of milliseconds.

        Args:
            section: See above, as ``subject``, ``what``, ``against`` and ``most``.
            subject: See above.
            what: See above.
            times: What was measured.
            against: See above.
            reference: What it is measured against.
            most: See above.
            of: Which of the rounds: the ``'median'`` or the ``'fastest'``.
            scale: How many of the reference.
        """
        beside = None if reference is None else 1e3 * scale * getattr(reference, of)
        return cls(
            section,
            subject,
            what,
            1e3 * getattr(times, of),
            against=against,
            reference=beside,
            most=most,
            rounds=len(times.seconds),
            spread=times.spread,
        )

    @property
    def ratio(self) -> float | None:
        """``value`` over ``reference``."""
        return self.value / self.reference if self.reference else None

    @property
    def meets(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.most is not None and self.ratio is not None:
            return self.ratio <= self.most
        return self.value >= self.least if self.least is not None else None

    @property
    def target(self) -> str:
        """The target, in words."""
        if self.most is not None:
            return f'at most {self.most:g}'
        return f'at least {self.least:,g}' if self.least is not None else ''

    def as_dict(self) -> dict[str, Any]:
        """The row and its ratio, as plain data."""
        return {**asdict(self), 'ratio': self.ratio, 'meets': self.meets}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Row:
        """The row that ``as_dict`` gave."""
        return cls(**{k: v for k, v in content.items() if k not in ('ratio', 'meets')})


Step = tuple[str, Callable[[], Iterable[Row]]]
"""What is to be done, with a title."""
