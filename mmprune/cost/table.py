"""The cost of many subnets at once, and as a differentiable function of the widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np
import torch

from mmprune.channels.constraints import BoolArray
from mmprune.channels.groups import ChannelGroup
from mmprune.channels.labels import IntArray
from mmprune.cost.forms import LinearForm, WidthForms
from mmprune.cost.memory import Memory
from mmprune.cost.model import CostModel
from mmprune.cost.polynomial import CHUNK, FormBook, Polynomial, Polynomials
from mmprune.cost.terms import Term
from mmprune.errors import InputError

COLUMNS = ('macs', 'params', 'activations', 'traffic', 'peak')
"""MACs, parameters; in bytes all activations, what is read and written, what is held at most."""


class CostTable:
    """What subnets cost by the widths of their groups: how many channels each one keeps.

    The columns are ``macs`` and ``params`` (see ``CostModel``), ``activations``, ``traffic`` and
    ``peak`` (see the methods of ``Memory``, in bytes). Every one is a polynomial of the
    widths, ``peak`` the largest of several. They equal ``pruner.cost`` to the unit.

    Args:
        groups: All groups by ``space_id``.
        num_labels: How many labels there are.
        model: The terms of MACs and parameters.
        memory: Makes the terms of traffic and peak, when they are asked for first.
        mean: Whether it is ``mean`` of another table.
    """

    def __init__(
        self,
        groups: Mapping[str, ChannelGroup],
        num_labels: int,
        model: CostModel,
        memory: Callable[[], Memory],
        mean: bool = False,
    ) -> None:
        self._groups, self._num_labels = groups, num_labels
        self._widths = WidthForms(groups, num_labels, mean)
        self._book = FormBook(self._widths)
        self._model, self._make_memory = model, memory
        self._compiled: dict[tuple[str, ...], tuple[Polynomials, dict[str, slice]]] = {}

    @property
    def group_names(self) -> tuple[str, ...]:
        """``space_id`` of the prunable groups, in the order of the columns of widths."""
        return self._widths.names

    @property
    def full_widths(self) -> IntArray:
        """Channels of every group in the full network, (groups,)."""
        return self._widths.full.copy()

    @property
    def multiples(self) -> IntArray:
        """What the width of each group is a multiple of, (groups,)."""
        self._compiled_for(COLUMNS[:2])
        return self._widths.multiples.copy()

    @cached_property
    def mean(self) -> CostTable:
        """The same for estimates: what depends on which channels are kept is a mean over all sets.

        Its costs may be fractions, which ``differentiable`` gives.
        """
        return CostTable(
            self._groups, self._num_labels, self._model, lambda: self.memory, mean=True
        )

    @cached_property
    def memory(self) -> Memory:
        """Traffic and peak of single subnets, by operation."""
        return self._make_memory()

    def of(self, alive: BoolArray, columns: Sequence[str] = ('macs', 'params')) -> dict[str, int]:
        """Costs of one subnet, whichever channels it keeps.

        Args:
            alive: Which labels it keeps, (labels,).
            columns: Which costs.
        """
        _check_columns(columns)
        measures: dict[str, Callable[[BoolArray], int]] = {
            'macs': self._model.macs,
            'params': self._model.params,
            'activations': lambda alive: self.memory.made(alive),
            'traffic': lambda alive: self.memory.traffic(alive),
            'peak': lambda alive: self.memory.peak(alive),
        }
        return {column: measures[column](alive) for column in columns}

    def widths_of(self, subnet: Mapping[str, torch.Tensor]) -> IntArray:
        """Kept channels of every group of a subnet, (groups,)."""
        return np.array([int((subnet[n] != 0).sum()) for n in self.group_names], np.int64)

    def form(self, labels: IntArray, what: str) -> LinearForm:
        """How many of some labels are alive, as a linear form of the widths.

        Raises:
            CostError: It depends on more than widths.
        """
        return self._widths.form(labels, what)

    def polynomials(self, terms: Sequence[Term]) -> Polynomials:
        """The sum of some terms as a polynomial of the widths, in a single row.

        Raises:
            CostError: One of them depends on more than widths.
        """
        return Polynomials.of(self._book, [self._book.polynomial(terms)])

    def check(self, widths: IntArray) -> None:
        """Refuse widths, (subnets, groups), that no subnet has.

        Raises:
            CostError: One of them is below 1, above the group's channels, or no multiple.
            InputError: They are of another shape or type.
        """
        if widths.ndim != 2 or widths.shape[1] != len(self.group_names):
            raise InputError(
                f'widths: expected one row per subnet and {len(self.group_names)} columns, one per '
                f'group in the order of group_names, found the shape {widths.shape}'
            )
        if not np.issubdtype(widths.dtype, np.integer):
            raise InputError(
                f'widths: expected whole numbers, found {widths.dtype}; for others there is '
                'differentiable()'
            )
        self._widths.check(widths)

    def batch(
        self, widths: IntArray, columns: Sequence[str] = ('macs', 'params')
    ) -> dict[str, IntArray]:
        """Costs of many subnets.

        Args:
            widths: Kept channels of every group, (subnets, groups), whole numbers, in the order
                of ``group_names``.
            columns: Which costs.

        Returns:
            Whole numbers by column, (subnets,) each.

        Raises:
            CostError: No subnet has one of the widths, or a column depends on which
                channels are kept and not only on how many.
            InputError: ``widths`` is of another shape or type, or a column is unknown.
        """
        widths = np.asarray(widths)
        polynomials, rows_of = self._compiled_for(columns)
        self.check(widths)
        found = {column: np.empty(len(widths), np.int64) for column in columns}
        for start in range(0, len(widths), CHUNK):
            values = polynomials.batch(widths[start : start + CHUNK].T)
            for column, rows in rows_of.items():
                found[column][start : start + CHUNK] = values[rows].max(axis=0)
        return found

    def differentiable(
        self,
        widths: torch.Tensor | Mapping[str, torch.Tensor],
        columns: Sequence[str] = ('macs', 'params'),
    ) -> dict[str, torch.Tensor]:
        """Costs as differentiable functions of the widths, for learned masks.

        Equal to ``batch`` at whole numbers. Gradients reach ``widths``; that of ``peak`` is the
        gradient of the step that holds most.

        Args:
            widths: Numbers of any float type, (..., groups), in the order of ``group_names``;
                or one tensor, (...), per group by its name, such as the sum of a soft mask.
            columns: Which costs.

        Returns:
            float64 tensors by column, (...) each: float32 has too few digits for MACs.
        """
        if isinstance(widths, Mapping):
            missing = [name for name in self.group_names if name not in widths]
            if missing:
                raise InputError(f"widths: group '{missing[0]}' is missing ({len(missing)} such)")
            widths = torch.stack([widths[name] for name in self.group_names], dim=-1)
        if widths.shape[-1:] != (len(self.group_names),):
            raise InputError(
                f'widths: expected {len(self.group_names)} numbers along the last dim, one per '
                f'group, found the shape {tuple(widths.shape)}'
            )
        polynomials, rows_of = self._compiled_for(columns)
        values = polynomials.differentiable(widths.double())
        return {column: values[..., rows].amax(dim=-1) for column, rows in rows_of.items()}

    def expected(
        self,
        widths: torch.Tensor,
        chances: torch.Tensor,
        columns: Sequence[str] = ('macs', 'params'),
    ) -> dict[str, torch.Tensor]:
        """Expected costs of subnets whose groups draw their widths independently of each other.

        No approximation: the expectation of every product of widths is taken, in which a group may
        stand several times. Gradients reach ``chances``.

        Args:
            widths: The widths that each group may have, (groups, choices), in the order of
                ``group_names``; rows with fewer choices are filled up by any numbers.
            chances: Their probabilities, of the same shape; 0 where a row is filled up.
            columns: Which costs; not ``peak``, which is the largest of several.

        Returns:
            A float64 scalar by column.

        Raises:
            InputError: A shape is another one, or ``peak`` is asked for.
        """
        if widths.shape != chances.shape or widths.shape[:-1] != (len(self.group_names),):
            raise InputError(
                f'expected: widths and chances have a row for each of the {len(self.group_names)} '
                f'groups, found the shapes {tuple(widths.shape)} and {tuple(chances.shape)}'
            )
        if 'peak' in columns:
            raise InputError(
                "expected: 'peak' is the largest of several numbers, whose expectation has no "
                'closed form: leave it out of the columns'
            )
        polynomials, rows_of = self._compiled_for(columns)
        values = polynomials.expected(widths.double(), chances.double())
        return {column: values[rows][0] for column, rows in rows_of.items()}

    def _compiled_for(self, columns: Sequence[str]) -> tuple[Polynomials, dict[str, slice]]:
        """Polynomials, and which of them each column is the largest of."""
        key = tuple(columns)
        if key not in self._compiled:
            _check_columns(key)
            rows: dict[str, slice] = {}
            polynomials: list[Polynomial] = []
            for column in key:
                found = self._polynomials(column)
                rows[column] = slice(len(polynomials), len(polynomials) + len(found))
                polynomials += found
            self._compiled[key] = Polynomials.of(self._book, polynomials), rows
        return self._compiled[key]

    def _polynomials(self, column: str) -> list[Polynomial]:
        """The polynomials of which a column is the largest."""
        if column == 'macs':
            return [self._book.polynomial(self._model.products)]
        if column == 'params':
            constant = Term('other parameters', self._model.constant_params, ())
            return [self._book.polynomial([constant, *self._model.tensors])]
        if column == 'activations':
            return [self._book.polynomial(self.memory.activations)]
        if column == 'traffic':
            terms = (term for work in self.memory.work for term in work.tensors)
            return [self._book.polynomial(terms)]
        return self._steps()

    def _steps(self) -> list[Polynomial]:
        """The bytes that are held at every step that may be the one with most of them."""
        each = [self._book.polynomial([term]) for term in self.memory.activations]
        monomials = sorted({monomial for polynomial in each for monomial in polynomial})
        divisor = lcm(*(c.denominator for polynomial in each for c in polynomial.values()))
        sizes = np.zeros((len(each), len(monomials)), np.int64)
        for row, polynomial in enumerate(each):
            for monomial, coefficient in polynomial.items():
                sizes[row, monomials.index(monomial)] = int(coefficient * divisor)
        return [
            {m: Fraction(int(c), divisor) for m, c in zip(monomials, row, strict=True) if c}
            for row in _largest(self.memory.held(sizes))
        ] or [{}]


def _check_columns(columns: Sequence[str]) -> None:
    if isinstance(columns, str) or not columns or set(columns) - set(COLUMNS):
        raise InputError(f'columns of a cost are a list of {", ".join(COLUMNS)}, not {columns!r}')


def _largest(rows: IntArray) -> list[IntArray]:
    """The rows that no other row reaches in all of its numbers, none of which are below 0."""
    rows = np.unique(rows, axis=0)
    kept: list[IntArray] = []
    for row in rows[np.argsort(-rows.sum(axis=1), kind='stable')]:
        if not any((row <= other).all() for other in kept):
            kept.append(row)
    return kept
