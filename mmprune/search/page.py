"""The page of a search: its picture, and every candidate's channels where the pointer is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html import escape
from io import StringIO
from logging import WARNING
from pathlib import Path
from string import Template
from typing import Any

from mmengine.logging import print_log

from mmprune.errors import InputError
from mmprune.fileio import write_text
from mmprune.search.picture import SearchPicture, draw_search, write_png

SECONDS, SHARE = 60.0, 0.02
"""A search that runs is drawn no more often, and takes no larger share of its time for it."""
_PAGE = Path(__file__).with_name('page.html')
"""The page's template: in it ``$title`` and others stand for what is put in."""


class SearchFiles:
    """``search.html`` and ``search.png`` of a search that may still run.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._due = time.monotonic() + SECONDS

    def draw(self, make: Callable[[], SearchPicture], at_once: bool = True) -> None:
        """Draw what ``make`` gives, or only if that was long ago; a failure is logged.

        Nothing is drawn where nothing was measured, or the folder takes no files: a picture is not
        worth a search.
        """
        start = time.monotonic()
        if not (at_once or start > self._due):
            return
        try:
            picture = make()
            figure = draw_search(picture)
            write_png(figure, self.folder / 'search.png')
            write_page(figure, picture, self.folder / 'search.html')
        except (OSError, InputError) as error:
            print_log(f'{self.folder}: the search is not drawn: {error}', 'current', WARNING)
        self._due = start + max(SECONDS, (time.monotonic() - start) / SHARE)


def write_page(figure: Any, picture: SearchPicture, path: Path) -> None:
    """Write a page that needs no network and no other file.

    Args:
        figure: What ``draw_search`` has drawn of ``picture``.
        picture: The search.
        path: The file.
    """
    text = Template(_PAGE.read_text(encoding='utf-8')).substitute(
        title=escape(picture.heading),
        picture=_as_svg(figure),
        table=_table(picture),
        data=json.dumps(_data(picture)).replace('<', '\\u003c'),
    )
    write_text(text, path)


def _as_svg(figure: Any) -> str:
    """A figure's SVG element, whose text is text."""
    from matplotlib import rc_context

    content = StringIO()
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mmprune'}):
        figure.savefig(content, format='svg', metadata={'Date': None})
    svg = content.getvalue()
    return svg[svg.index('<svg') :]


def _data(picture: SearchPicture) -> dict[str, Any]:
    """What the page knows of groups and candidates."""
    full = picture.candidates.full
    return {
        'groups': [*picture.groups.items()],
        'candidates': [
            {
                'what': f'candidate {each.index}: {picture.candidates.metric} {each.metric:.4f}',
                'cost': f'{each.macs:,} MACs ({each.macs / full["macs"]:.1%}), '
                f'{each.params:,} parameters ({each.params / full["params"]:.1%})'
                + ('' if each.latency is None else f', {each.latency:.3g} ms')
                + f'; {each.origin}',
                'channels': [each.channels[group] for group in picture.groups],
            }
            for each in picture.candidates.evaluations
        ],
    }


def _table(picture: SearchPicture) -> str:
    """The chosen subnets."""
    if not picture.chosen:
        return ''
    full = picture.candidates.full
    rows = [
        (
            name,
            f'{each.metric:.4f}' if each.metric is not None else '',
            f'{each.macs:,}',
            f'{each.macs / full["macs"]:.1%}',
            f'{each.params:,}',
            f'{each.params / full["params"]:.1%}',
            f'subnet_{name}.yaml',
        )
        for name, each in picture.chosen
    ]
    heads = ('chosen', picture.candidates.metric, 'MACs', '%', 'parameters', '%', 'channel config')
    cells = [''.join(f'<td>{escape(cell)}</td>' for cell in row) for row in rows]
    head = ''.join(f'<th>{escape(cell)}</th>' for cell in heads)
    return f'<table><tr>{head}</tr>' + ''.join(f'<tr>{row}</tr>' for row in cells) + '</table>'
