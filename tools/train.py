"""Train the model of a config: a supernet, a deployed network, or any network of mmcls."""

import argparse

from mmprune.commands.command_line import add_cfg_options, parse_launched
from mmprune.commands.run import train
from mmprune.errors import exit_on_input_error

EXAMPLES = """examples:
  python tools/train.py configs/digits/resnet-small_1xb64_digits.py
  python tools/train.py resnet-small_1xb64_digits.py --cfg-options train_cfg.max_epochs=3
  python tools/train.py resnet-small_1xb64_digits.py --work-dir out --resume
  mim train mmprune resnet-small_1xb64_digits.py --work-dir out
  torchrun --nproc_per_node=2 tools/train.py resnet-small_1xb64_digits.py --launcher pytorch
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
        '--work-dir',
        metavar='DIR',
        help='where checkpoints and logs go (default: work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='go on from this checkpoint, or, without FILE, from the newest whole one in the work '
        'directory, as if nothing had happened; if there is none, training starts anew',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision (needs an accelerator)'
    )
    add_cfg_options(parser, 'train_cfg.max_epochs=3 model.backbone.depth=34')
    return parse_launched(parser)


def main() -> None:
    """Train, or say in one message what is wrong with the input."""
    args = parse_args()
    with exit_on_input_error():
        train(args.config, args.work_dir, args.resume, args.amp, args.cfg_options, args.launcher)


if __name__ == '__main__':
    main()
