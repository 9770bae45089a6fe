"""Sums of products of linear forms, evaluated for many widths at once or by torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce
from math import lcm, prod

import numpy as np
import torch

from mmprune.channels.labels import IntArray
from mmprune.cost.forms import CostError, LinearForm, WidthForms
from mmprune.cost.terms import Term

Monomial = tuple[int, ...]
"""Numbers of the forms that are multiplied, sorted; empty for 1."""
Polynomial = dict[Monomial, Fraction]

CHUNK = 4096
"""Subnets that are computed together: their products then stay in the cache."""
EXACT_IN_FLOAT64 = 2**53
"""Whole numbers below this one, and sums of them, are exact in float64."""


class FormBook:
    """The distinct linear forms that the polynomials of some columns are made of."""

    def __init__(self, widths: WidthForms) -> None:
        self.widths = widths
        self.forms: list[LinearForm] = []
        self._number: dict[LinearForm, int] = {}

    def polynomial(self, terms: Iterable[Term]) -> Polynomial:
        """The sum of the terms.

        Raises:
            CostError: One of them depends on more than widths.
        """
        found: Polynomial = {}
        for term in terms:
            factor, numbers = Fraction(term.constant, term.divisor), []
            for form in self.widths.forms_of(term):
                scale, whole = form.primitive()
                factor *= scale
                if whole.coefficients:
                    numbers.append(self._number_of(whole))
            monomial = tuple(sorted(numbers))
            found[monomial] = found.get(monomial, Fraction(0)) + factor
        return found

    def _number_of(self, form: LinearForm) -> int:
        if form not in self._number:
            self._number[form] = len(self.forms)
            self.forms.append(form)
        return self._number[form]


@dataclass(frozen=True)
class Polynomials:
    """Rows of a matrix times products of linear forms, over a divisor per row.

    The numbers are float64 where sums of them are exact, since its matrix products are
    many times as fast, and int64 otherwise.

    Attributes:
        multiples: What every width is a multiple of: the forms are of widths divided by it,
            so that their coefficients are whole numbers without large factors, (groups,).
        matrix: Coefficients of the forms, (forms, groups).
        constants: Constants of the forms, (forms,).
        monomials: The products.
        rows: Whole coefficients, (rows, monomials).
        divisors: What each row is divided by, (rows,), int64.
    """

    multiples: IntArray
    matrix: np.ndarray
    constants: np.ndarray
    monomials: tuple[Monomial, ...]
    rows: np.ndarray
    divisors: IntArray

    @classmethod
    def of(cls, book: FormBook, polynomials: Sequence[Polynomial]) -> Polynomials:
        """The polynomials, one per row, in the forms that they use."""
        used = sorted({n for p in polynomials for monomial in p for n in monomial})
        multiples = book.widths.multiples.copy()
        matrix = np.zeros((len(used), len(multiples)), np.int64)
        for row, n in enumerate(used):
            for group, coefficient in book.forms[n].coefficients:
                matrix[row, group] = int(coefficient) * multiples[group]
        constants = np.array([int(book.forms[n].constant) for n in used], np.int64)
        scales = np.gcd(np.gcd.reduce(matrix, axis=1, initial=0), constants)
        place = {n: row for row, n in enumerate(used)}
        monomials = sorted({monomial for p in polynomials for monomial in p})
        column = {monomial: number for number, monomial in enumerate(monomials)}
        factors = [prod(int(scales[place[n]]) for n in monomial) for monomial in monomials]
        rows = np.zeros((len(polynomials), len(monomials)), np.int64)
        divisors = np.ones(len(polynomials), np.int64)
        for row, polynomial in enumerate(polynomials):
            scaled = {m: c * factors[column[m]] for m, c in polynomial.items()}
            divisors[row] = lcm(*(c.denominator for c in scaled.values()))
            for monomial, coefficient in scaled.items():
                rows[row, column[monomial]] = int(coefficient * int(divisors[row]))
        exact = cls(
            multiples,
            matrix // scales[:, None],
            constants // scales,
            tuple(tuple(place[n] for n in monomial) for monomial in monomials),
            rows,
            divisors,
        )
        largest = int(exact.sums(book.widths.full[:, None]).max(initial=0))
        if largest >= EXACT_IN_FLOAT64:
            return exact
        numbers = {
            name: getattr(exact, name).astype(np.float64)
            for name in ('matrix', 'constants', 'rows')
        }
        return replace(exact, **numbers)

    def sums(self, widths: IntArray) -> np.ndarray:
        """Values of all rows times their divisors, (rows, subnets), for (groups, subnets)."""
        units = (widths // self.multiples[:, None]).astype(self.matrix.dtype)
        forms = self.matrix @ units + self.constants[:, None]
        products = np.ones((len(self.monomials), units.shape[1]), units.dtype)
        for number, monomial in enumerate(self.monomials):
            for form in monomial:
                products[number] *= forms[form]
        return self.rows @ products

    def batch(self, widths: IntArray) -> IntArray:
        """Values of all rows for many widths.

        Args:
            widths: Whole numbers, (groups, subnets).

        Returns:
            Whole numbers, (rows, subnets).

        Raises:
            CostError: A value is no whole number: no subnet has these widths.
        """
        values = self.sums(widths).astype(np.int64)
        if self.divisors.max(initial=1) > 1:
            values, rest = np.divmod(values, self.divisors[:, None])
            if rest.any():
                column = int(np.argwhere(rest.any(axis=0))[0, 0])
                raise CostError(
                    f'widths: no subnet keeps {widths[:, column].tolist()} channels of the groups, '
                    'since a cost would be a fraction: see CostTable.multiples'
                )
        return values

    def differentiable(self, widths: torch.Tensor) -> torch.Tensor:
        """Values of all rows, (..., rows), for float64 widths (..., groups)."""
        multiples, matrix, constants, rows, divisors = (
            torch.from_numpy(array).to(widths)
            for array in (self.multiples, self.matrix, self.constants, self.rows, self.divisors)
        )
        forms = (widths / multiples) @ matrix.T + constants
        one = widths.new_ones(widths.shape[:-1])
        products = [
            reduce(torch.mul, (forms[..., form] for form in monomial), one)
            for monomial in self.monomials
        ]
        # Without products there is nothing to stack.
        stacked = torch.stack([*products, 0 * one], dim=-1)[..., :-1]
        return stacked @ rows.T / divisors

    @cached_property
    def expanded(self) -> tuple[list[Monomial], np.ndarray]:
        """The rows as sums of products of units, which are widths over their multiples.

        Returns:
            The groups of every product, each as often as its power says; coefficients of all
            rows before they are divided, (rows, products).
        """
        found: dict[Monomial, np.ndarray] = {}
        for number, monomial in enumerate(self.monomials):
            product: Polynomial = {(): Fraction(1)}
            for form in monomial:
                linear: Polynomial = {(): Fraction(int(self.constants[form]))}
                for group in self.matrix[form].nonzero()[0].tolist():
                    linear[(group,)] = Fraction(int(self.matrix[form, group]))
                product = _multiplied(product, linear)
            for units, coefficient in product.items():
                row = self.rows[:, number] * float(coefficient)
                found[units] = found[units] + row if units in found else row
        return list(found), np.stack([*found.values()], axis=1)

    def expected(self, widths: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
        """Expected values of all rows, (rows,), for widths that are drawn group by group.

        Args:
            widths: The widths that each group may have, (groups, choices), float64.
            chances: With which probability, of the same shape.
        """
        products, coefficients = self.expanded
        powers = [{group: units.count(group) for group in units} for units in products]
        highest = max((power for each in powers for power in each.values()), default=0)
        units = widths / torch.from_numpy(self.multiples).to(widths)[:, None]
        moments = [(chances * units**power).sum(-1) for power in range(1, highest + 1)]
        flat = torch.cat([*moments, widths.new_ones(1)])
        most = max(map(len, powers), default=0)
        places = np.full((len(products), most), len(flat) - 1)
        for row, each in enumerate(powers):
            places[row, : len(each)] = [(p - 1) * len(widths) + g for g, p in each.items()]
        values = flat[torch.from_numpy(places).to(flat.device)].prod(-1)
        scale = torch.from_numpy(coefficients / self.divisors[:, None]).to(widths)
        return scale @ values


def _multiplied(first: Polynomial, second: Polynomial) -> Polynomial:
    """The product of two polynomials of single units."""
    found: Polynomial = {}
    for one, factor in first.items():
        for other, coefficient in second.items():
            units = tuple(sorted(one + other))
            found[units] = found.get(units, Fraction(0)) + factor * coefficient
    return {units: coefficient for units, coefficient in found.items() if coefficient}
