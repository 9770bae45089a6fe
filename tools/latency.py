"""Measure a network's layers by width on this device, and predict how long its subnets take."""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.estimate_latency import LatencyOptions, estimate_latency
from mmprune.errors import exit_on_input_error

EPILOG = """\
Works for any config with a `model` that takes images: a plain network of mmcls, or an AutoSlim,
whose own pruner draws the subnets then. No data and no weights are read.

It times every distinct layer at several widths, once; the table is kept in a file (--table), which
names the device, the number of threads and the version of torch, and is refused elsewhere. The
table's prediction is then compared with deployed random subnets: rank correlation, relative error.
--widths shows where rounding widths up costs nothing, and which `round_to` to give a pruner.

examples:
  python tools/latency.py configs/autoslim/autoslim_resnet-small_1xb64_digits.py --threads 1
  python tools/latency.py CONFIG --backends torch compile onnxruntime --channel-cfg subnet_0.5.yaml
  python tools/latency.py CONFIG --subnets 0 --widths 6
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with a model')
    parser.add_argument(
        '--table', help='file of the table (default: latency.json in the work directory)'
    )
    parser.add_argument(
        '--rebuild', action='store_true', help='measure the layers even if the file is there'
    )
    parser.add_argument(
        '--subnets',
        type=int,
        default=20,
        help='random subnets to predict and measure, 0 for none (default: %(default)s)',
    )
    parser.add_argument(
        '--backends',
        nargs='+',
        default=('torch',),
        metavar='NAME',
        help='how to run the whole full network and subnet: torch, compile, onnxruntime '
        '(default: torch)',
    )
    parser.add_argument(
        '--channel-cfg', help='the subnet that --backends run (default: the narrowest)'
    )
    parser.add_argument(
        '--widths',
        type=int,
        default=0,
        metavar='LAYERS',
        help='time so many of the heaviest layers at neighbouring widths (default: none)',
    )
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs='+',
        metavar='N',
        help="shape of the input: N C H W or C H W (default: AutoSlim's or the first test image's)",
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument('--threads', type=int, help='CPU threads of torch (default: as it likes)')
    parser.add_argument('--seed', type=int, default=0, help='of the subnets (default: 0)')
    parser.add_argument('--plot', metavar='OUT', help='draw predictions over measurements')
    parser.add_argument('--json', metavar='OUT', help='file to write all numbers to')
    add_cfg_options(parser, 'pruner.ratios="[0.5,1.0]"')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = vars(parse_args())
    config, cfg_options = args.pop('config'), args.pop('cfg_options')
    with exit_on_input_error():
        estimate_latency(config, LatencyOptions(**args), cfg_options)


if __name__ == '__main__':
    main()
