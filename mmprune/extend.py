"""The face for what other people add: every name that a part of theirs needs, in one place.

Parsers, channel rules, slicers, importances, pruners, compensations, searches, hooks and inputs of
losses import from here and from nowhere else in mmprune; these names stay where mmprune's folders
change. What trains and searches brings mmengine's runner along, and is imported when it is asked
for.
The page on all of this is ``docs/extend.md``; :mod:`mmprune.testing` has the checks that mmprune's
own parts pass.
"""

from importlib import import_module
from typing import Any

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.facts import IntArray, axes_of
from mmprune.channels.labels import LabelBook, Value, pin_all, squeeze_constant
from mmprune.channels.member_values import channel_sums
from mmprune.channels.rules.arithmetic import without
from mmprune.compensation import Compensation
from mmprune.compensation.problem import Problem, Solution
from mmprune.errors import InputError
from mmprune.importance import DataImportance, Importance, MemberScores
from mmprune.importance.base import scored
from mmprune.layers.slicers import Attributes, Shapes, Slicer
from mmprune.pruners import (
    ImportancePruner,
    Plan,
    RatioPruner,
    StructurePruner,
    Subnet,
    SubnetError,
)
from mmprune.registry import (
    BACKWARD_PARSERS,
    CHANNEL_RULES,
    COMPENSATIONS,
    DATASETS,
    DEMO_INPUTS,
    HOOKS,
    IMPORTANCE,
    LOOPS,
    MODELS,
    PRUNERS,
    SLICERS,
)
from mmprune.trace import TraceError, TraceGraph, TraceNode, trace
from mmprune.trace.operations import (
    ALIKE,
    BROADCAST,
    DIM,
    DIMS,
    MOVED,
    NUMBER,
    OPERATIONS,
    SHAPES,
    TEXT,
    WHOLE,
    WHOLES,
    YES_OR_NO,
    Kind,
    Operation,
    ParserError,
    maybe,
    takes,
)
from mmprune.trace.parsers.saved import Parsed, plain

LATER = {
    'AutoSlim': 'mmprune.models',
    'Budget': 'mmprune.search.budget',
    'Evaluation': 'mmprune.search',
    'PrunerHook': 'mmprune.training.pruner_hook',
    'Regulariser': 'mmprune.training.regularisers',
    'SearchLoop': 'mmprune.search',
    'SelfDistiller': 'mmprune.models',
}
"""Names that are imported when they are asked for -> where they are."""

__all__ = [
    'ALIKE',
    'BACKWARD_PARSERS',
    'BROADCAST',
    'CHANNEL_RULES',
    'COMPENSATIONS',
    'DATASETS',
    'DEMO_INPUTS',
    'DIM',
    'DIMS',
    'HOOKS',
    'IMPORTANCE',
    'LOOPS',
    'MODELS',
    'MOVED',
    'NUMBER',
    'OPERATIONS',
    'PRUNERS',
    'SHAPES',
    'SLICERS',
    'TEXT',
    'WHOLE',
    'WHOLES',
    'YES_OR_NO',
    'Attributes',
    'ChannelGroup',
    'Compensation',
    'DataImportance',
    'Importance',
    'ImportancePruner',
    'InputError',
    'IntArray',
    'Kind',
    'LabelBook',
    'Member',
    'MemberScores',
    'Operation',
    'Parsed',
    'ParserError',
    'Plan',
    'Problem',
    'RatioPruner',
    'Shapes',
    'Slicer',
    'Solution',
    'StructurePruner',
    'Subnet',
    'SubnetError',
    'TraceError',
    'TraceGraph',
    'TraceNode',
    'Value',
    'axes_of',
    'channel_sums',
    'maybe',
    'pin_all',
    'plain',
    'scored',
    'squeeze_constant',
    'takes',
    'trace',
    'without',
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *LATER])
