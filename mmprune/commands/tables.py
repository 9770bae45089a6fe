"""Tables that single tools print."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from mmprune.pruners import StructurePruner
from mmprune.report.tables import long, numbers
from mmprune.search import SearchResult
from mmprune.search.progress import in_words


def results_table(
    full_cost: Mapping[str, float], results: Sequence[SearchResult], metric: str
) -> Table:
    """Return what a search has found: a row per budget.

    Args:
        full_cost: MACs and parameters of the full network.
        results: What was found.
        metric: Name of the metric that was compared.
    """
    columns = numbers('budget', 'MACs', 'of full', 'parameters', 'of full', metric)
    table = Table(*columns, long('channel config'), title='Subnets found')
    for result in results:
        table.add_row(
            result.budget,
            f'{result.macs:,}',
            f'{result.macs / full_cost["macs"]:.1%}',
            f'{result.params:,}',
            f'{result.params / full_cost["params"]:.1%}',
            in_words(result.metric),
            result.channel_cfg,
        )
    return table


def widths_table(pruner: StructurePruner) -> Table:
    """Return the channels of every prunable group in full and in the subnet that is set."""
    columns = long('layers that make them'), *numbers('before', 'after', 'kept')
    table = Table('group', *columns, title='Channels before and after')
    for space_id, mask in pruner.channel_spaces.items():
        layers = pruner.channel_groups[space_id].layers
        named = ', '.join(layers[:3]) + (f' and {len(layers) - 3} more' if len(layers) > 3 else '')
        before, after = mask.numel(), int(mask.sum())
        table.add_row(space_id, named, str(before), str(after), f'{after / before:.1%}')
    return table


def metrics_table(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    """Return metrics of the full network and of the small one, as it is before any finetuning."""
    columns = numbers('full network', 'subnet')
    table = Table('', *columns, title='On the test images, not finetuned')
    for name, value in before.items():
        table.add_row(name, f'{value:.4f}', f'{after[name]:.4f}')
    return table
