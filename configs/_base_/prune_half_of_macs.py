# For tools/prune.py on the config of a plain network: half of the MACs, by the sum of absolute
# weights, in widths that hardware likes.
_base_ = ['./mmprune.py']
pruner = dict(
    type='ImportancePruner',
    budget=dict(macs=0.5),
    importance=dict(type='L1Importance'),
    round_to=8,
)
