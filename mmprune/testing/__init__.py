"""What mmprune's own parts are checked by, for those of other people.

    check_network(network, demo_input)          # supernet, masked and sliced, and deployed are one
    check_rule('cumprod', network, demo_input)  # a channel rule, in a network that uses it
    check_importance(MyImportance())            # an importance
    check_pruner(dict(type='MyPruner'))         # a pruner

Each raises AssertionError with what is wrong, or returns a small report. Networks are copied, in
float64, with random weights and random norm statistics, and subnets keep channels that are not the
first ones: so nothing is equal by chance.
"""

from mmprune.testing.checks import (
    Conformance,
    check_importance,
    check_network,
    check_pruner,
    check_rule,
)
from mmprune.testing.comparisons import (
    Probe,
    assert_same_network,
    assert_separate,
    assert_trains,
    check_subnet,
    outputs_of,
    prepare,
    randomise,
    scattered,
    train_step,
)

__all__ = [
    'Conformance',
    'Probe',
    'assert_same_network',
    'assert_separate',
    'assert_trains',
    'check_importance',
    'check_network',
    'check_pruner',
    'check_rule',
    'check_subnet',
    'outputs_of',
    'prepare',
    'randomise',
    'scattered',
    'train_step',
]
