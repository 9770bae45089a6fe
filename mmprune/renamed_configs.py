"""Names that configs of mmprune had before 0.2, for commands and scripts that still use them."""

RENAMED = {
    'amc_mobilenet-v1_in1k.py': 'amc_mobilenet-v1_4xb64_in1k.py',
    'amc_resnet50_in1k.py': 'amc_resnet50_4xb64_in1k.py',
    'autoslim_mobilenet-v2_1.5x_search_in1k.py': 'autoslim-search_mobilenet-v2_1.5x_8xb256_in1k.py',
    'autoslim_mobilenet-v2_1.5x_subnet_8xb256_in1k.py': (
        'autoslim-subnet_mobilenet-v2_1.5x_8xb256_in1k.py'
    ),
    'autoslim_resnet_small_digits.py': 'autoslim_resnet-small_1xb64_digits.py',
    'autoslim_resnet_small_digits_evolution.py': 'autoslim-evolution_resnet-small_1xb64_digits.py',
    'autoslim_resnet_small_digits_tiny.py': 'autoslim_resnet-tiny_1xb32_digits.py',
    'autoslim_resnet_small_digits_unstrided.py': 'autoslim-unstrided_resnet-small_1xb64_digits.py',
    'demo_digits.py': 'demo_resnet-small_1xb64_digits.py',
    'iterative_resnet_small_digits.py': 'iterative_resnet-small_1xb64_digits.py',
    'plans_resnet_small_digits.py': 'plans_resnet-small_1xb64_digits.py',
    'prune_resnet_small_digits.py': 'importance_resnet-small_1xb64_digits.py',
    'resnet_small_channel_list_digits.py': 'channel-list_resnet-small_1xb64_digits.py',
    'resnet_small_digits.py': 'resnet-small_1xb64_digits.py',
    'slimming_resnet_small_digits.py': 'slimming_resnet-small_1xb64_digits.py',
    'slimming_resnet_small_digits_prune.py': 'slimming-prune_resnet-small_1xb64_digits.py',
}
"""Old file name -> new one, in the same folder of ``configs``."""
