# The same supernet, searched by evolution under a quarter of the MACs and half the parameters.
_base_ = ['./autoslim_resnet-small_1xb64_digits.py']

search_cfg = dict(
    _delete_=True,
    type='mmprune.EvolutionSearchLoop',
    constraints=dict(macs=0.25, params=0.5),
    max_epochs=5,
    population_size=20,
    top_k=5,
    num_mutation=8,
    num_crossover=8,
)
