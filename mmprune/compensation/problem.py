"""The equations for one weight: what it should give, and what it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mmprune.compensation.units import Place


class Solution(NamedTuple):
    """How a weight and what is added behind it change.

    Attributes:
        matrix: Is added to the weight's matrix, (groups, outputs, features); None for nothing.
        shifts: Are added to the outputs, (outputs of all groups,) for each place.
    """

    matrix: torch.Tensor | None
    shifts: dict[Place, torch.Tensor]


@dataclass(eq=False)
class Problem:
    """The positions at which a weight's outputs are known, all of its calls together.

    Attributes:
        matrix: The cut weight, (groups, outputs of a group, features), float64.
        features: What is read, (groups, positions, features) for each call.
        missing: What the full network gave and the cut weight does not, (groups, positions,
            outputs of a group) for each call, float64.
        places: Where a constant may go, for each call.
        scale: Sum of squares of what the full network gave, about its means.
    """

    matrix: torch.Tensor
    features: list[torch.Tensor] = field(default_factory=list)
    missing: list[torch.Tensor] = field(default_factory=list)
    places: list[Place | None] = field(default_factory=list)
    scale: float = 0.0

    def add(
        self,
        features: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor | None,
        place: Place | None,
    ) -> None:
        """Add a call.

        Args:
            features: (groups, positions, features of a group).
            values: What should come out, (positions, outputs).
            bias: The layer's own.
            place: Where a constant may go.
        """
        values = values.to(features.device).double()
        if bias is not None:
            values = values - bias.detach().double()
        wanted = values.unflatten(1, (len(self.matrix), -1)).movedim(1, 0)
        self.features.append(features)
        self.missing.append(wanted - features.double() @ self.matrix.transpose(1, 2))
        self.places.append(place)
        self.scale += float((values - values.mean(0)).square().sum()) if len(values) else 0.0

    @property
    def count(self) -> int:
        """How many positions there are."""
        return sum(part.shape[1] for part in self.missing)

    def means(self, parts: list[torch.Tensor]) -> dict[Place, torch.Tensor]:
        """Means over the positions of each place, (groups, 1, ...); parts without one are left out.

        ``parts`` are ``features`` or ``missing``.
        """
        by_place: dict[Place, list[torch.Tensor]] = {}
        for part, place in zip(parts, self.places, strict=True):
            if place is not None:
                by_place.setdefault(place, []).append(part)
        return {
            place: torch.cat([part.double() for part in own], dim=1).mean(1, keepdim=True)
            for place, own in by_place.items()
        }

    def centred(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """All parts in one, without the means of places, (groups, positions, ...) float64."""
        means = self.means(parts)
        return torch.cat(
            [
                part.double() if place is None else part.double() - means[place]
                for part, place in zip(parts, self.places, strict=True)
            ],
            dim=1,
        )

    def error(self, solution: Solution | None = None) -> float:
        """Sum of squares of what is missing, before or after a change."""
        total = 0.0
        for features, missing, place in zip(self.features, self.missing, self.places, strict=True):
            left = missing
            if solution is not None and solution.matrix is not None:
                left = left - features.double() @ solution.matrix.transpose(1, 2)
            if solution is not None and place in solution.shifts:
                left = left - solution.shifts[place].unflatten(0, (len(left), 1, -1))
            total += float(left.square().sum())
        return total
