"""Prune a trained network in one step, and write what is left as a plain network."""

import argparse

from mmprune.commands.command_line import add_cfg_options, parse_number, parse_ratio
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.errors import exit_on_input_error

EPILOG = """\
Takes the config that the network was trained with: --budget or --ratio says how much of it stays.
Or the config's model is an AutoSlim with an ImportancePruner, which says all that; the options
below win over it. Or it has prune_cfg=dict(plans=...), plans that say which channels go:
docs/plans.md. The small network gets batch-norm statistics of its own over training images (the
model's `recalibration`), and is compared with the full one. If they differ, nothing is written and
the exit status is 2. Otherwise the output directory gets
  deployed.pth      weights under the plain network's own names
  deployed.py       config that builds the plain network, loads deployed.pth, trains and tests it
  channel_cfg.yaml  the channels, which deployed.py refers to
  deployed.onnx     with --onnx: any batch size, or with --onnx-batch N: N; checked by onnxruntime
Printed are the channels of every group before and after, costs, and the metrics of the config's
evaluator, if it has one.

With --compensate (or the config's prune_cfg.compensation) the norms keep the full network's
statistics, and after the comparison the weights are solved anew: docs/compensation.md.

examples:
  python tools/prune.py CONFIG CHECKPOINT --budget macs=0.4 --importance Taylor --out-dir pruned
  python tools/prune.py CONFIG CHECKPOINT --ratio 0.5 --scope local --keep backbone.stem
  python tools/test.py pruned/deployed.py pruned/deployed.pth
  python tools/train.py pruned/deployed.py      (finetunes it)
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a plain network, or of an AutoSlim around one')
    parser.add_argument('checkpoint', help='checkpoint of the plain network, or of the supernet')
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        '--budget',
        nargs='+',
        type=parse_number,
        metavar='KEY=VALUE',
        help='what the small network may cost: macs, params; up to 1 as a share of the full one',
    )
    target.add_argument(
        '--ratio',
        type=parse_ratio,
        help='share of the channels to keep, or a file of shares that tools/sensitivity.py wrote',
    )
    parser.add_argument(
        '--importance', metavar='NAME', help='what matters: L1, Taylor, ...: docs/criteria.md'
    )
    parser.add_argument(
        '--scope', choices=['global', 'isomorphic', 'local'], help='what is compared'
    )
    parser.add_argument(
        '--keep', nargs='+', default=(), metavar='LAYER', help='layers whose outputs stay'
    )
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs='+',
        metavar='N',
        help="shape of the input, N C H W or C H W (default: AutoSlim's or the first test image's)",
    )
    parser.add_argument(
        '--compensate',
        action='store_true',
        help='solve weights that make up for what was removed, instead of new norm statistics',
    )
    parser.add_argument('--no-metric', action='store_true', help='measure no metric')
    parser.add_argument('--out-dir', help='where to write (default: pruned, by the checkpoint)')
    parser.add_argument('--onnx', action='store_true', help='write an ONNX file too')
    parser.add_argument(
        '--onnx-batch',
        type=int,
        metavar='N',
        help='write an ONNX file that takes batches of N only',
    )
    add_cfg_options(parser, 'model.pruner.budget.macs=0.25')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    options = PruneOptions(
        dict(args.budget) if args.budget else None,
        args.ratio,
        args.importance,
        args.scope,
        args.keep,
        args.input_shape,
        args.compensate,
    )
    with exit_on_input_error():
        prune(
            args.config,
            args.checkpoint,
            args.out_dir,
            args.onnx,
            args.cfg_options,
            args.onnx_batch,
            options,
            not args.no_metric,
        )


if __name__ == '__main__':
    main()
