"""Measure what subnets, tracing and costs take, beside plain networks and beside peers."""

import argparse
import sys
from pathlib import Path

from mmprune.bench import SECTIONS, BenchOptions, insert_into_docs, read_results, run_bench, show
from mmprune.errors import exit_on_input_error

EPILOG = """\
sections:
  execution  subnets sliced and masked beside deployed and plain networks; set_subnet;
             deploy_subnet; a training step of AutoSlim
  peers      input masks as in MMRazor 0.x, and Torch-Pruning where it is installed, beside those
  tracing    prepare_from_supernet beside passes of the network; its memory; its growth with depth
  job        network in, smaller network out, beside Torch-Pruning where it is installed
  cost       subnets a second of the closed forms
  latency    a table of layers, and how well it predicts 20 random subnets; onnxruntime
  search     sampler and storage; a search beside its candidates, deployed; several workers

Everything that is compared takes turns in one process, so that whatever else the machine does
slows all of it alike. Let nothing else run nevertheless: the tables name the load.
docs/benchmarks.md says how to read them.

exit status: 0 if everything was measured, whatever the targets; 1 if a part failed;
2 if an option cannot be used.

examples:
  python tools/bench.py
  python tools/bench.py --quick
  python tools/bench.py --sections tracing --models resnet50 vit-base-p16
  python tools/bench.py --docs docs/benchmarks.md
  python tools/bench.py --show work_dirs/bench/bench.json --docs docs/benchmarks.md
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    defaults = BenchOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--sections', nargs='+', default=SECTIONS, metavar='NAME', help='what to measure '
        '(default: all)',
    )  # fmt: skip
    parser.add_argument(
        '--quick', action='store_true', help='small networks on small images: does it run?'
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=(),
        metavar='NAME',
        help='model configs of mmcls whose preparation is measured (default: a choice of 13)',
    )
    parser.add_argument(
        '--networks',
        nargs='+',
        default=defaults.networks,
        metavar='NAME',
        help='model configs of mmcls whose execution is measured (default: ResNet-50, MobileNetV2)',
    )
    parser.add_argument(
        '--size', type=int, default=defaults.size, help='of the images (default: %(default)s)'
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=defaults.seconds,
        help='how long each set of passes takes turns (default: %(default)s)',
    )
    parser.add_argument(
        '--kept',
        choices=('any', 'first'),
        default=defaults.kept,
        help='which channels the subnets keep (default: %(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument(
        '--threads', type=int, default=defaults.threads, help='of torch (default: %(default)s)'
    )
    for name, what in (('json', 'all numbers'), ('markdown', 'the tables')):
        path = getattr(defaults, name)
        parser.add_argument(
            f'--{name}', default=path, metavar='OUT', help=f'file for {what} (default: %(default)s)'
        )
    parser.add_argument('--docs', metavar='PAGE', help='page to put the tables into')
    parser.add_argument(
        '--show', metavar='JSON', help='measure nothing: show the results in this file again'
    )
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = vars(parse_args())
    with exit_on_input_error():
        shown = args.pop('show')
        if shown is None:
            content = run_bench(BenchOptions(**args))
            sys.exit(bool(content['problems']))
        content = read_results(shown)
        show(content)
        if args['docs']:
            insert_into_docs(content, Path(args['docs']))


if __name__ == '__main__':
    main()
