"""Ratios by patterns of layer names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from mmprune.channels import ChannelGroup
from mmprune.datafiles import read_data
from mmprune.errors import InputError
from mmprune.schema import Share, checked

REGULAR = 're:'
"""How a pattern begins that is a regular expression."""


Ratio = float | Mapping[str, float] | str | os.PathLike[str]
"""One share for all groups, shares by pattern, or a JSON file of those."""


def checked_ratios(ratio: Ratio, max_removed: float) -> dict[str, float]:
    """Shares of channels to keep by pattern, from what a config gives.

    Args:
        ratio: See ``Ratio``.
        max_removed: The highest share that a group may lose.

    Raises:
        InputError: A file cannot be read, a share is not above 0 and at most 1 or removes more
            than ``max_removed``, or a pattern is no regular expression.
    """
    if isinstance(ratio, str | os.PathLike):
        where, ratio = f'{ratio}: ratio', read_data(ratio, 'ratios by layer')
    else:
        where = 'ratio'
    ratios = checked(dict[str, Share] | Share, ratio, f'{where}, the share of channels to keep')
    if not isinstance(ratios, dict):
        ratios = {'*': ratios}
    if not ratios:
        raise InputError('ratio has no patterns')
    for pattern, share in ratios.items():
        if 1 - share > max_removed + 1e-9:
            raise InputError(
                f'{where} of {pattern!r}: keeping {share:g} removes {1 - share:g} of the channels, '
                f'more than max_removed={max_removed:g} allows'
            )
        if pattern.startswith(REGULAR):
            try:
                re.compile(pattern[len(REGULAR) :])
            except re.error as error:
                raise InputError(f'ratio: {pattern!r} is no regular expression: {error}') from error
    return ratios


def matches(pattern: str, name: str) -> bool:
    """Whether a whole name matches; ``*`` in a pattern stands for anything, dots too."""
    if pattern.startswith(REGULAR):
        return re.fullmatch(pattern[len(REGULAR) :], name) is not None
    return fnmatchcase(name, pattern)


def first_patterns(
    patterns: Mapping[str, object], groups: Mapping[str, ChannelGroup]
) -> dict[str, str | None]:
    """The first pattern that matches a group's name or a layer that makes its channels.

    Args:
        patterns: Patterns as keys, in order.
        groups: The prunable groups.

    Returns:
        A pattern by ``space_id``; None for a group that none matches.

    Raises:
        InputError: A pattern matches no group.
    """
    names = {space_id: (space_id, *group.layers) for space_id, group in groups.items()}
    matching = {
        pattern: [s for s in groups if any(matches(pattern, name) for name in names[s])]
        for pattern in patterns
    }
    for pattern, found in matching.items():
        if not found and groups:
            raise InputError(
                f'ratio: {pattern!r} matches no layer of the {len(groups)} prunable groups, which '
                f'are {", ".join(list(groups)[:8])}{" ..." if len(groups) > 8 else ""}'
            )
    return {
        space_id: next((p for p, found in matching.items() if space_id in found), None)
        for space_id in groups
    }
