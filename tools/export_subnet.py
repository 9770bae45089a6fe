"""Write the channel config of a subnet of a supernet: its channels, layer by layer."""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.export_subnet import MMRAZOR_VERSIONS, export_subnet
from mmprune.errors import exit_on_input_error

EPILOG = """\
examples:
  python tools/export_subnet.py CONFIG CHECKPOINT
      the subnet whose masks are in the checkpoint, to subnet.yaml beside it
  python tools/export_subnet.py CONFIG CHECKPOINT --subnet min --out narrow.json
      the narrowest subnet, as JSON
  python tools/export_subnet.py CONFIG CHECKPOINT --subnet AUTOSLIM_MBV2_320M_OFFICIAL.yaml
      a channel config as MMRazor 0.x or 1.x writes it, checked and written in mmprune's format
  python tools/export_subnet.py CONFIG CHECKPOINT --subnet subnet_0.5.yaml --mmrazor 0.x
      the other way: a file for MMRazor 0.x (1.x: a unit file)
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with an AutoSlim model')
    parser.add_argument('checkpoint', help='checkpoint of the supernet')
    parser.add_argument(
        '--subnet',
        metavar='max|min|FILE',
        help='the widest, the narrowest, or that of a channel config file '
        '(default: the one that is set in the checkpoint)',
    )
    parser.add_argument(
        '--out', help='file to write, .yaml or .json (default: subnet*.yaml beside the checkpoint)'
    )
    parser.add_argument(
        '--mmrazor',
        choices=MMRAZOR_VERSIONS,
        help='write a file of this version of MMRazor, which can say that the first channels of a '
        'layer are kept, and nothing else',
    )
    add_cfg_options(parser, 'model.input_shape="[1,1,8,8]"')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        export_subnet(
            args.config, args.checkpoint, args.subnet, args.out, args.cfg_options, args.mmrazor
        )


if __name__ == '__main__':
    main()
