"""The page of a search: its picture, and every candidate's channels where the pointer is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html import escape
from io import StringIO
from logging import WARNING
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmprune.errors import InputError
from mmprune.fileio import write_text
from mmprune.search.picture import SearchPicture, draw_search, write_png

SECONDS, SHARE = 60.0, 0.02
"""A search that runs is drawn no more often, and takes no larger share of its time for it."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; background: #fff }}
body, svg text {{ font-family: system-ui, 'DejaVu Sans', sans-serif !important }}
svg {{ width: 100%; height: auto }}
#front > *, #history > * {{ cursor: pointer }}
.here {{ stroke: #000; stroke-width: 2px; opacity: 1 !important }}
table {{ border-collapse: collapse; font-size: 90% }}
th, td {{ padding: .3em 1em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
#tip {{ position: absolute; display: none; pointer-events: none; padding: .7em 1em; font-size: 12px;
  background: #fff; border: 1px solid #999; border-radius: 6px; box-shadow: 0 3px 14px #0003 }}
#tip .groups {{ margin-top: .5em }}
#tip .many span {{ min-width: 7em !important }}
#tip .group {{ display: flex; gap: .5em; break-inside: avoid }}
#tip .group span {{ flex: 1; min-width: 15em; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap }}
#tip .bar {{ width: 6em; height: .8em; background: #e4e7eb; align-self: center }}
#tip .bar i {{ display: block; height: 100%; background: #4c78a8 }}
#tip .number {{ min-width: 5em; text-align: right; white-space: nowrap }}
</style>
</head>
<body>
{picture}
{table}
<p>Point at a candidate to see its channels.</p>
<div id="tip"></div>
<script>
const found = {data}
const tip = document.getElementById('tip')
const points = ['front', 'history'].map(name => {{
  const group = document.getElementById(name), used = group.querySelectorAll('use')
  return used.length ? [...used] : [...group.querySelectorAll(':scope > path, :scope > g path')]
}})
function element(kind, text, parent) {{
  const made = document.createElement('div')
  made.className = kind
  made.textContent = text
  parent.append(made)
  return made
}}
function show(index, event) {{
  const candidate = found.candidates[index]
  tip.replaceChildren()
  element('', candidate.what, tip).style.fontWeight = 'bold'
  element('', candidate.cost, tip)
  const columns = Math.min(4, Math.ceil(found.groups.length / 12))
  const groups = element(columns > 2 ? 'groups many' : 'groups', '', tip)
  groups.style.columns = columns
  found.groups.forEach(([name, full], place) => {{
    const row = element('group', '', groups), kept = candidate.channels[place]
    row.append(Object.assign(document.createElement('span'), {{textContent: name}}))
    const bar = document.createElement('i')
    bar.style.width = `${{100 * kept / full}}%`
    element('bar', '', row).append(bar)
    element('number', `${{kept}} of ${{full}}`, row)
  }})
  tip.style.display = 'block'
  const room = document.documentElement.clientWidth - tip.offsetWidth - 10
  tip.style.left = `${{Math.max(0, Math.min(event.pageX + 14, scrollX + room))}}px`
  tip.style.top = `${{event.pageY + 14}}px`
}}
points.forEach(all => all.forEach((point, index) => {{
  const alike = points.map(each => each[index])
  point.addEventListener('pointerenter', event => {{
    alike.forEach(each => each.classList.add('here'))
    show(index, event)
  }})
  point.addEventListener('pointerleave', () => {{
    alike.forEach(each => each.classList.remove('here'))
    tip.style.display = 'none'
  }})
}}))
</script>
</body>
</html>
"""


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
    text = _PAGE.format(
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
