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

example:
  python tools/deploy_subnet.py CONFIG CHECKPOINT work_dirs/search/subnet_0.5.yaml --onnx
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
    parser.add_argument('channel_cfg', help='channel config of the subnet')
    parser.add_argument(
        '--out-dir', help='where to write (default: deployed_<channel config> by the checkpoint)'
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
        )


if __name__ == '__main__':
    main()
