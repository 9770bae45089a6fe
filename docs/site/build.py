"""Build the site: `python docs/site/build.py OUT`. Warnings are errors, links are checked."""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.cmd.build import main as sphinx
from stage import stage


def main() -> int:
    """Lay out the pages, and let Sphinx make the site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='folder of the site')
    out = parser.parse_args().out
    with TemporaryDirectory() as folder:
        pages = Path(folder, 'pages')
        stage(pages)
        settings = str(Path(__file__).parent)
        options = ['-b', 'html', '-W', '--keep-going', '-q', '-E', '-d', f'{folder}/cache']
        return sphinx([*options, '-c', settings, str(pages), out])


if __name__ == '__main__':
    sys.exit(main())
