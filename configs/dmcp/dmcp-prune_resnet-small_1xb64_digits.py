# DMCP on the digits: a supernet whose widths are drawn by Markov chains, and the chains trained in
# turns with its weights, until a drawn subnet costs half of the MACs on average.
#   python tools/train.py configs/dmcp/dmcp-prune_resnet-small_1xb64_digits.py
#   W=work_dirs/dmcp-prune_resnet-small_1xb64_digits
#   python tools/deploy_subnet.py configs/dmcp/dmcp-prune_resnet-small_1xb64_digits.py \
#       $W/epoch_20.pth $W/channel_cfg.yaml --out-dir $W/deployed
_base_ = ['../autoslim/autoslim_resnet-small_1xb64_digits.py']

model = dict(
    pruner=dict(
        _delete_=True,
        type='MarkovPruner',
        budget=dict(macs=0.5),
        ratios=[i / 8 for i in range(1, 9)],
        except_start_keys=['head.fc'],
    )
)
custom_hooks = [dict(type='mmprune.DMCP')]
