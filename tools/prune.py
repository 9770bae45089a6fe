"""Prune a trained network in one step, and write what is left as a plain network."""

import argparse

from mmprune.engine.command_line import add_cfg_options
from mmprune.engine.prune import prune
from mmprune.errors import exit_on_input_error

EPILOG = """\
The config's model is an AutoSlim whose pruner is an ImportancePruner: it says which channels count
how much, and what the small network may cost. Or the config has prune_cfg=dict(plans=...), plans
that say which channels go: docs/plans.md. The small network gets batch-norm statistics of its own
over training images (the model's `recalibration`), and is compared with the full one. If they
differ, nothing is written and the exit status is 2. Otherwise the output directory gets
  deployed.pth      weights under the plain network's own names
  deployed.py       config that builds the plain network, loads deployed.pth, trains and tests it
  channel_cfg.yaml  the channels, which deployed.py refers to
  deployed.onnx     with --onnx: any batch size; checked by onnxruntime

With prune_cfg=dict(compensation='LeastSquares') the norms keep the full network's statistics, and
after the comparison the weights make up for what was removed: docs/compensation.md.

example:
  python tools/prune.py CONFIG work_dirs/resnet_small_digits/epoch_20.pth --out-dir pruned
  python tools/test.py pruned/deployed.py pruned/deployed.pth
  python tools/train.py pruned/deployed.py      (finetunes it)
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help='config with an AutoSlim model and an ImportancePruner, or plans'
    )
    parser.add_argument('checkpoint', help='checkpoint of the plain network, or of the supernet')
    parser.add_argument('--out-dir', help='where to write (default: pruned, by the checkpoint)')
    parser.add_argument('--onnx', action='store_true', help='write an ONNX file too')
    add_cfg_options(parser, 'model.pruner.budget.macs=0.25')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        prune(args.config, args.checkpoint, args.out_dir, args.onnx, args.cfg_options)


if __name__ == '__main__':
    main()
