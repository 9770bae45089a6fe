"""Measure a checkpoint on the test data of its config, and print the metrics."""

import argparse

from mmprune.commands.command_line import add_cfg_options, parse_launched
from mmprune.commands.run import evaluate
from mmprune.errors import exit_on_input_error

EXAMPLES = """examples:
  python tools/test.py configs/digits/resnet-small_1xb64_digits.py out/epoch_20.pth
  python tools/test.py resnet-small_1xb64_digits.py out/epoch_20.pth --out out/metrics.json
  mim test mmprune resnet-small_1xb64_digits.py --checkpoint out/epoch_20.pth
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', metavar='CONFIG', help="a config file; one of mmprune's is found by its name too"
    )
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='a checkpoint with weights for the whole model'
    )
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where the log goes (default: work_dirs/<name of the config>)',
    )
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this JSON file too')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test each image in several forms: the config's tta_model and tta_pipeline",
    )
    add_cfg_options(parser, 'test_dataloader.batch_size=32')
    return parse_launched(parser)


def main() -> None:
    """Test, or say in one message what is wrong with the input."""
    args = parse_args()
    with exit_on_input_error():
        evaluate(
            args.config,
            args.checkpoint,
            args.work_dir,
            args.out,
            args.cfg_options,
            args.launcher,
            args.tta,
        )


if __name__ == '__main__':
    main()
