"""Measure how well pruned networks classify digits, beside Torch-Pruning."""

import argparse
from pathlib import Path

from mmprune.bench.accuracy import MEASURES, AccuracyOptions, run_accuracy
from mmprune.bench.accuracy.photographs import run_photographs
from mmprune.errors import exit_on_input_error

EPILOG = """\
Small networks are trained on the digits and on MNIST from each seed, and pruned to shares of their
multiply-adds by each criterion, on the digits by network slimming too; convolutional ones have
learned widths, and searched, random and uniform ones, of themselves and of a supernet (AutoSlim);
by Torch-Pruning as well, where it is installed. Accuracy is measured right after pruning, with norm
statistics computed anew, and after finetuning; on MNIST also compensated, and finetuned with the
unpruned network as a teacher. docs/accuracy.md says how to read the tables.

A run that was stopped goes on where it was: give the same command again.

exit status: 0 if everything was measured, whoever is ahead; 2 if an option cannot be used.

examples:
  python tools/bench_accuracy.py
  python tools/bench_accuracy.py --quick --work-dir work_dirs/quick
  python tools/bench_accuracy.py --networks mnist-resnet --scopes global --methods L1 Residual
  python tools/bench_accuracy.py --photographs --docs docs/accuracy.md
  python tools/bench_accuracy.py --docs docs/accuracy.md
  python tools/bench_accuracy.py --show --scopes global --docs docs/accuracy.md
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    defaults = AccuracyOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--networks', nargs='+', default=defaults.networks, metavar='NAME',
        help=f'some of {", ".join(defaults.networks)} (default: all)',
    )  # fmt: skip
    parser.add_argument(
        '--seeds', nargs='+', type=int, metavar='N',
        help='one run of everything for each (default: 0 1 2 3 4; 0 with --quick)',
    )  # fmt: skip
    parser.add_argument(
        '--methods', nargs='+', metavar='NAME', help='criteria and other ways (default: all)'
    )
    parser.add_argument(
        '--quick', action='store_true', help='tiny and hardly trained networks: does it run?'
    )
    parser.add_argument(
        '--scopes',
        nargs='+',
        default=defaults.scopes,
        metavar='NAME',
        help=f'which scores criteria compare (default: {" ".join(defaults.scopes)})',
    )
    parser.add_argument(
        '--measures',
        nargs='+',
        metavar='NAME',
        help=f'some of {", ".join(MEASURES)} (default: all); others can be added later',
    )
    parser.add_argument(
        '--workers', type=int, default=defaults.workers, metavar='N',
        help='processes, of one thread each (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--work-dir', default=defaults.work_dir, metavar='DIR',
        help='for rows, trained weights and tables (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument('--docs', metavar='PAGE', help='page to put the tables and the plot into')
    parser.add_argument(
        '--show', action='store_true', help='measure nothing: show what is in the work directory'
    )
    parser.add_argument(
        '--photographs',
        action='store_true',
        help='measure only how often a pruned EfficientNet-Lite0 says what the full one says',
    )
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    options = vars(parse_args())
    with exit_on_input_error():
        if options.pop('photographs'):
            docs = options['docs']
            print(run_photographs(Path(options['work_dir']), docs and Path(docs)))
        else:
            run_accuracy(AccuracyOptions(**options))


if __name__ == '__main__':
    main()
