"""Plain data in files: nothing is run, nothing grows, nothing is lost in silence."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmprune.checkpoint import read_checkpoint
from mmprune.config import load_config
from mmprune.datafiles import read_data, write_data
from mmprune.errors import InputError, MissingFileError
from mmprune.search.study import read_candidates

DEEP = 10**5
LAUGHS = 'a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n' + ''.join(
    f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 10)}]\n' for n in range(1, 12)
)
MERGES = 'a0: &a0 {x: 0}\n' + ''.join(
    f'a{n}: &a{n} {{<<: [{", ".join([f"*a{n - 1}"] * 10)}]}}\n' for n in range(1, 12)
)
TRAPS = {
    'lists.yaml': '[' * DEEP,
    'mappings.yaml': '{a: ' * DEEP,
    'dashes.yaml': '- ' * DEEP,
    'lists.json': '[' * DEEP,
    'mappings.json': '{"a": ' * DEEP,
    'aliases.yaml': LAUGHS,
    'merges.yaml': MERGES,
    'itself.yaml': 'a: &a [*a]\nb: [1',
    'digits.json': '1' * DEEP,
    'digits.yaml': f'0x{"f" * DEEP}',
    'sixties.yaml': ':'.join(['59'] * 3000),
    'inside itself.yaml': 'a: &a [1, {b: *a}]',
    'deep by names.yaml': f'a: &a {"[" * 40}{"]" * 40}\nb: {"[" * 40}*a{"]" * 40}',
    'deep.json': '[' * 80 + ']' * 80,
    'half a character.json': '["\\ud800"]',
    'tags.yaml': 'a: !!bool maybe',
    'times.yaml': 'a: !!timestamp now',
    'maps.yaml': 'a: !!map [1]',
}


@pytest.mark.parametrize('name', TRAPS)
def test_small_files_that_are_traps_are_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(TRAPS[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(InputError, match=rf'{name}: broken or cut off: '):
        read_data(path, 'data')
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16, 'kilobytes'


@pytest.mark.parametrize(('name', 'text'), [('a.yaml', 'x: 1\nx: 2'), ('a.json', '{"x":1,"x":2}')])
def test_a_key_that_stands_twice_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: .*the key 'x' stands twice"):
        read_data(tmp_path / name, 'data')


@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_configs_of_data_run_nothing(suffix: str, tmp_path: Path) -> None:
    touched = tmp_path / 'touched'
    base, cfg = tmp_path / 'base.yaml', tmp_path / f'cfg.{suffix}'
    base.write_text(f'a: !!python/object/apply:os.mkdir ["{touched}"]\n')
    cfg.write_text(json.dumps({'_base_': './base.yaml'}))
    for path in (base, cfg):
        with pytest.raises(InputError, match=rf'{path.name}: not a config file: .*os\.mkdir'):
            load_config(path)
    assert not touched.exists()
    base.write_text('a: &a {x: 1}\nb: *a\n')
    assert load_config(cfg).b == {'x': 1}
    Config(dict(strides=(1, (2, 2)), names=['a'])).dump(base)
    assert load_config(cfg).to_dict() == dict(strides=(1, (2, 2)), names=['a'])
    base.write_text(LAUGHS)
    with pytest.raises(InputError, match='stands for more than'):
        load_config(cfg)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    os.symlink('loop', tmp_path / 'loop')
    places = {
        tmp_path / 'none': 'does not exist',
        tmp_path / 'loop': 'does not exist',
        tmp_path: 'is a folder',
        tmp_path / 'pipe': 'is a device or a pipe',
        tmp_path / ('x' * 300): 'is no name of a file',
        '~nobody-of-this-name/x': 'is no name of a file',
        None: 'is no name of a file',
        3: 'is no name of a file',
    }
    for place, problem in places.items():
        for read in (lambda path: read_data(path, 'data'), read_checkpoint):
            with pytest.raises(MissingFileError, match=problem):
                read(place)
    for place in ('x' * 300, '~nobody-of-this-name/x', None):
        with pytest.raises(MissingFileError, match='no such config file'):
            load_config(place)
        with pytest.raises(MissingFileError, match='no such file of a search'):
            read_candidates(place)


@pytest.mark.parametrize('name', ['a.yaml', 'a.json', 'it\'s "a"\nname.json'])
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    content = {"it's": [1, 2.5, None, True], 'a\nb': {'c: d': '{{ x }}'}}
    write_data(content, tmp_path / name)
    assert read_data(tmp_path / name, 'data') == content
    assert [path.name for path in tmp_path.iterdir()] == [name]
