"""What a search draws: the same as pixels, and as a page that a browser shows without a network."""

import json
import logging
import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mmprune.search import Evaluation, picture
from mmprune.search.candidates import Candidates
from mmprune.search.page import SearchFiles
from mmprune.search.picture import SearchPicture
from mmprune.search.progress import search_progress

GROUPS = {'backbone.conv1': 16, 'backbone.<layer1>': 32, 'backbone.layer2': 64}
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chrome'))), None)
# A person's pointer, and what the page then has.
POINTER = """<script>
const at = points[NAME][INDEX], box = at.getBoundingClientRect()
at.dispatchEvent(new PointerEvent('pointerenter', {clientX: box.x, clientY: box.y}))
document.body.dataset.seen = JSON.stringify({
  tip: tip.innerText.split('\\n').filter(line => line),
  shown: getComputedStyle(tip).display,
  marked: points.map(all => all.map(each => each.classList.contains('here')).indexOf(true)),
  sizes: points.map(all => all.length),
  inside: box.width > 2 && box.right < innerWidth,
  loaded: performance.getEntriesByType('resource').length,
  bars: [...document.querySelectorAll('#tip .bar')].map(
    bar => bar.firstChild.offsetWidth / bar.offsetWidth),
})
</script>"""


def search_of(number: int, groups: dict[str, int] = GROUPS, chosen: int = 2) -> SearchPicture:
    """Random subnets, of which only the width of the last group decides on the accuracy."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(number):
        channels = {name: int(rng.integers(1, 9) * full // 8) for name, full in groups.items()}
        share = sum(channels.values()) / sum(groups.values())
        top1 = 50 + 50 * channels[[*groups][-1]] / [*groups.values()][-1] + rng.normal(0, 0.1)
        found.append(
            Evaluation(
                index=index,
                origin=f'TPE {index} </script>',
                key=str(index),
                macs=int(1e6 * share**2),
                params=int(1e5 * share**2),
                metric=top1,
                channels=channels,
                metrics={'accuracy/top1': top1},
            )
        )
    candidates = Candidates.of(found, {'macs': 1e6, 'params': 1e5})
    front = candidates.front()
    picked = [(f'0.{place}', front[place % len(front)]) for place in range(chosen)]
    return SearchPicture('a search <of ours> & theirs', candidates, groups, picked)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('drawn')
    SearchFiles(folder).draw(lambda: search_of(40))
    return folder


def test_files_need_nothing_else(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == ['search.html', 'search.png']
    assert (drawn / 'search.png').read_bytes().startswith(b'\x89PNG')
    text = (drawn / 'search.html').read_text(encoding='utf-8')
    assert not re.search(r'(src|[^:]href)="(?!#)', text)
    assert 'a search &lt;of ours&gt; &amp; theirs' in text
    assert text.count('</script>') == 1
    assert 'backbone.&lt;layer1&gt;' in text


@pytest.mark.skipif(BROWSER is None, reason='there is no browser')
@pytest.mark.parametrize(('name', 'index'), [(0, 7), (1, 39)])
def test_a_browser_shows_the_channels_of_a_candidate(
    drawn: Path, tmp_path: Path, name: int, index: int
) -> None:
    page = tmp_path / 'page.html'
    text = (drawn / 'search.html').read_text(encoding='utf-8')
    script = POINTER.replace('NAME', str(name)).replace('INDEX', str(index))
    page.write_text(text.replace('</body>', f'{script}</body>'), encoding='utf-8')
    seen = in_browser(page, tmp_path)
    candidate = search_of(40).candidates.evaluations[index]
    assert seen['tip'][0] == f'candidate {index}: accuracy/top1 {candidate.metric:.4f}'
    assert f'{candidate.macs:,} MACs' in seen['tip'][1]
    assert seen['tip'][1].endswith(f'; TPE {index} </script>')
    rows = [f'{candidate.channels[group]} of {full}' for group, full in GROUPS.items()]
    assert [line for line in seen['tip'] if ' of ' in line] == rows
    widths = [candidate.channels[group] / full for group, full in GROUPS.items()]
    assert seen['bars'] == pytest.approx(widths, abs=0.03)
    # The same candidate is marked in both charts.
    assert seen['marked'] == [index, index]
    assert seen['sizes'] == [40, 40]
    assert seen['shown'] == 'block'
    assert seen['inside']
    assert seen['loaded'] == 0


def in_browser(page: Path, folder: Path) -> dict[str, Any]:
    """What the page has noted about itself, opened by a browser without a screen."""
    assert BROWSER is not None
    command = [
        BROWSER,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        f'--user-data-dir={folder}/user',
    ]
    command += ['--host-resolver-rules=MAP * ~NOTFOUND', '--window-size=1280,1100', '--dump-dom']
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    text = found[1].replace('&quot;', '"').replace('&lt;', '<').replace('&gt;', '>')
    return json.loads(text.replace('&amp;', '&'))


def test_importances_find_the_width_that_decides() -> None:
    found = search_of(60).importances()
    assert sum(found.values()) == pytest.approx(1)
    assert found['backbone.layer2'] > 0.8
    assert search_of(picture.ENOUGH - 1).importances() == {}


@pytest.mark.parametrize(
    ('number', 'groups', 'chosen'),
    [(1, {'fc': 8}, 0), (12, {f'layer{n}': 8 for n in range(150)}, 1), (30, GROUPS, 6)],
)
def test_small_and_large_searches_are_drawn(
    tmp_path: Path, number: int, groups: dict[str, int], chosen: int
) -> None:
    shown = search_of(number, groups, chosen)
    SearchFiles(tmp_path).draw(lambda: shown)
    assert [place for place, _, _ in shown.shown()] == (
        [0, 2, 5] if chosen == 6 else [*range(chosen)]
    )


def test_a_search_is_drawn_while_it_runs_but_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SearchFiles(tmp_path)
    files.draw(lambda: search_of(1), at_once=False)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr('mmprune.search.page.SECONDS', 0.0)
    monkeypatch.setattr('mmprune.search.page.SHARE', 1e6)
    files.draw(lambda: Candidates.of([], {}))  # type: ignore[arg-type, return-value]
    assert not list(tmp_path.iterdir())
    files.draw(lambda: search_of(1), at_once=False)
    assert (
        'a search &lt;of ours&gt; &amp; theirs: 1 candidates'
        in (tmp_path / 'search.html').read_text()
    )


def test_a_terminal_shows_how_many_a_minute_the_best_and_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    monkeypatch.setattr('mmprune.search.progress.Console', lambda stderr: console)
    clock = iter(range(0, 10_000, 2))
    with search_progress(logging.getLogger('search')) as progress:
        progress.get_time = lambda: float(next(clock))
        task = progress.add_task('TPE 0.5', total=100, note='')
        for done in range(1, 6):
            progress.update(task, completed=done, note='best top1 98.3, 2 workers')
        progress.refresh()
    text = re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', shown.getvalue())
    last = text.split('TPE 0.5')[-1]
    assert re.search(r' 5/100 30/min [\d:]+ left 0:03:10 best top1 98.3, 2 workers$', last.strip())
