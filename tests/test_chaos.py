"""A few kills of the tools; `make chaos` has many."""

import os
import subprocess
import sys
from pathlib import Path

import chaos

from mmprune.fileio import UNFINISHED


def test_nothing_is_lost_by_a_few_kills() -> None:
    command = [sys.executable, '-W', 'ignore', str(Path(chaos.__file__)), '--kills', '3']
    ended = subprocess.run(
        [*command, '--tools', 'train', 'search', 'export'],
        env={**os.environ, 'PYTHONPATH': str(chaos.ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    rows = [line.split(' | ') for line in ended.stdout.splitlines()[2:5]]
    assert sum(int(row[1]) for row in rows) == 3


def test_what_is_lost_is_seen(tmp_path: Path) -> None:
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    for folder in (whole, killed):
        folder.mkdir()
        (folder / 'subnet.yaml').write_text('a: 1')
    job = chaos.Job('export_subnet', (), ('*.yaml',))
    assert chaos.differences(job, killed, whole) == []
    (killed / 'subnet.yaml').write_text('a: 2')
    assert chaos.differences(job, killed, whole) == ['subnet.yaml differs']
    (killed / 'subnet.yaml').unlink()
    assert chaos.differences(job, killed, whole) == ['subnet.yaml is missing']
    (killed / 'half.json').write_text('{"a"')
    (killed / '.half.tmp').touch()
    (killed / f'{UNFINISHED}1').mkdir()
    (killed / f'{UNFINISHED}1' / 'subnet.json').write_text('{"a"')
    assert [line.partition(':')[0] for line in chaos.broken_files(killed)] == ['half.json']
    assert sorted(chaos.left_over(killed)) == ['.half.tmp', f'{UNFINISHED}1']
