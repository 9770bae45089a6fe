"""Prune networks of mmcls or of other packages, and print how much of each goes and how exactly.

Every network gets random weights, norm statistics and kept channels. Its subnet is run in the
supernet (sliced and masked), deployed, and computed once more on the full network with zeros
in it; the table says how far these are apart. Torch-Pruning stands beside it if it is installed.
Exit status 1 if a network misses a bar.
"""

import argparse
import sys

import torch

from mmprune.errors import exit_on_input_error
from mmprune.zoo.check import Plan
from mmprune.zoo.networks import FAMILY
from mmprune.zoo.peer import version
from mmprune.zoo.table import run_zoo


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=(),
        metavar='NAME',
        help='model configs below _base_/models of mmcls, such as resnet50 or '
        'convnext/convnext-tiny, or configs of other packages, such as '
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py (default: the 61 of the zoo)',
    )
    parser.add_argument(
        '--family',
        action='store_true',
        help=f'the {len(FAMILY)} of mmdet, mmseg, mmpose and mmyolo, without Torch-Pruning',
    )
    parser.add_argument(
        '--ratio',
        type=float,
        default=0.5,
        help='share of its channels that every group keeps (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn')
    parser.add_argument(
        '--size',
        type=int,
        help='height and width of the images (default: the smallest that each network accepts)',
    )
    parser.add_argument(
        '--attention',
        choices=('heads', 'dims'),
        default='heads',
        help='what attention loses: heads, or dims of each head (default: %(default)s)',
    )
    parser.add_argument('--json', metavar='OUT', help='file to write the results to')
    parser.add_argument('--markdown', metavar='OUT', help='file to write the table to')
    parser.add_argument(
        '--no-peer', action='store_true', help='leave out Torch-Pruning, which takes a process more'
    )
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads of torch (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    with_peer = version() is not None and not (args.no_peer or args.family)
    plan = Plan(args.ratio, args.seed, args.attention, args.size, with_peer)
    with exit_on_input_error():
        results = run_zoo(FAMILY if args.family else args.models, plan, args.json, args.markdown)
    sys.exit(any(result.problems for result in results))


if __name__ == '__main__':
    main()
