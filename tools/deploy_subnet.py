"""Write a subnet as a plain, smaller network, after proving that it computes the same."""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.errors import exit_on_input_error

EPILOG = """\
The subnet gets batch-norm statistics of its own over the same training images as in the search
(the model's `recalibration`), and is compared with the supernet. If they differ, nothing is
written and the exit status is 2. Otherwise the output directory gets
  deployed.pth      weights under the plain network's own names
  deployed.py       config that builds the plain network, loads deployed.pth, trains and tests it
  channel_cfg.yaml  the channels, which deployed.py refers to
  deployed.onnx     with --onnx: any batch size, or with --onnx-batch N: N; checked by onnxruntime

With --compensate the norms keep the supernet's statistics, and after the comparison the weights
are solved anew from training images without labels (the config's `prune_cfg.compensation`).

With --study the subnet is a candidate of a search, deployed as it was judged there, and its times
are printed beside the full network's.

examples:
  python tools/deploy_subnet.py CONFIG CHECKPOINT work_dirs/search/subnet_0.5.yaml --onnx
  python tools/deploy_subnet.py CONFIG CHECKPOINT --study work_dirs/search --pick knee --onnx
  python tools/test.py .../deployed.py .../deployed.pth
  python tools/train.py .../deployed.py      (finetunes it)
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with an AutoSlim model')
    parser.add_argument('checkpoint', help='checkpoint of the supernet')
    parser.add_argument(
        'channel_cfg',
        nargs='?',
        help='channel config of the subnet; of those retrained jointly, its number will do',
    )
    parser.add_argument(
        '--study', metavar='SEARCH', help='take the subnet from a search: its folder or storage'
    )
    parser.add_argument(
        '--pick',
        default='knee',
        metavar='HOW',
        help='which candidate of --study: knee, best, best-under:macs=0.5,params=1e6, or its '
        'number (default: knee)',
    )
    parser.add_argument('--study-name', metavar='NAME', help='where a storage has several studies')
    parser.add_argument(
        '--out-dir',
        help='where to write (default: deployed_<channel config or pick> by the checkpoint)',
    )
    parser.add_argument('--onnx', action='store_true', help='write an ONNX file too')
    parser.add_argument(
        '--onnx-batch',
        type=int,
        metavar='N',
        help='write an ONNX file that takes batches of N only',
    )
    parser.add_argument(
        '--compensate',
        action='store_true',
        help='solve weights that make up for what was removed, instead of new norm statistics',
    )
    add_cfg_options(parser, 'model.input_shape="[1,1,8,8]"')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        deploy_subnet(
            args.config,
            args.checkpoint,
            args.channel_cfg,
            args.out_dir,
            args.onnx,
            args.cfg_options,
            args.onnx_batch,
            args.compensate,
            args.study,
            args.pick,
            args.study_name,
        )


if __name__ == '__main__':
    main()
