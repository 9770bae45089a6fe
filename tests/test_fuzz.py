"""Files of every format, spoiled at random: read as what they say, or refused in one message.

Here the same few spoilings every time; ``make fuzz`` tries others, as many as asked.
"""

import copy
import dataclasses
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_network import images, prepared, small_network

from mmprune.checkpoint import read_checkpoint, write_checkpoint
from mmprune.commands.sensitivity import FORMAT, _read
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.execution import release
from mmprune.formats import read_one_file, write_one_file
from mmprune.latency import Device, LatencyTable
from mmprune.latency.shapes import shape_of
from mmprune.latency.table import MeasuredLayer
from mmprune.pruners.patterns import checked_ratios
from mmprune.search.history import Evaluation, read_history
from mmprune.search.study import Study, read_candidates
from mmprune.supernet.topology import LISTS, read_topology
from mmprune.training.saved_state import check_saved

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', 50))
MANY = settings(
    max_examples=EXAMPLES,
    derandomize='FUZZ_EXAMPLES' not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LINES = '\n'  # between the values of a file that has one a line


@pytest.fixture(scope='module', autouse=True)
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what hypothesis caches out of the source tree."""
    name = 'HYPOTHESIS_STORAGE_DIRECTORY'
    os.environ[name] = str(tmp_path_factory.mktemp('hypothesis'))
    yield
    os.environ.pop(name)


# -- spoiling ---------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 20), st.sampled_from([2**31, 10**30, -(2**63)]), st.floats(width=32)
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
VALUES = st.one_of(
    LEAVES, st.lists(LEAVES, max_size=3), st.dictionaries(st.text(max_size=5), LEAVES, max_size=2)
)


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in plain data."""
    if way:
        yield way
    inside = content.items() if isinstance(content, dict) else ()
    inside = enumerate(content) if isinstance(content, list) else inside
    for key, value in inside:
        yield from places(value, (*way, key))


def spoiled(draw: Any, content: Any) -> Any:
    """Plain data with up to three values changed, removed, added or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(content))
        if not there:
            break
        *way, last = draw(st.sampled_from(there))
        owner = content
        for key in way:
            owner = owner[key]
        what = draw(st.sampled_from(['change', 'remove', 'add', 'double']))
        if what == 'change' or not isinstance(owner, dict | list):
            owner[last] = draw(VALUES)
        elif what == 'remove':
            del owner[last]
        elif isinstance(owner, list):
            owner.insert(last, owner[last] if what == 'double' else draw(VALUES))
        else:
            new = f'{last}2' if what == 'double' else draw(st.text(max_size=5))
            owner[new] = owner[last] if what == 'double' else draw(VALUES)
    return content


def scratched(draw: Any, content: bytes) -> bytes:
    """Bytes of which some are flipped, lost, doubled or put in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), start + draw(st.sampled_from([1, 2, 8, 64])))
        part = content[start:stop]
        flipped = bytes(each ^ (1 << draw(st.integers(0, 7))) for each in part[:1]) + part[1:]
        others = [flipped, b'', part + part, draw(st.binary(max_size=3)) + part]
        content = content[:start] + draw(st.sampled_from(others)) + content[stop:]
    return content


# -- formats of plain data ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Format:
    """What a good file holds, and who reads it; ``ignored`` keys are for people."""

    content: Any
    name: str
    read: Callable[[Path], Any]
    ignored: tuple[str, ...] = ()

    def text(self, content: Any) -> str:
        if self.name.endswith('l') and isinstance(content, list):
            return ''.join(json.dumps(line) + LINES for line in content)
        if self.name.endswith('.yaml'):
            return yaml.safe_dump(content)
        return json.dumps(content)


def table() -> LatencyTable:
    shape = shape_of(torch.nn.Conv2d(3, 8, 3), (1, 3, 8, 8))
    assert shape is not None
    layers = [MeasuredLayer('a', shape, ((1, 3), (4, 8)), torch.rand(2, 2).tolist())]
    return LatencyTable(Device.of(), 'Net', '1x3x8x8', {'a': 8}, [('a', 0)], layers)


def study(folder: Path) -> list[dict[str, Any]]:
    """The lines of a study with one evaluation."""
    candidate = Evaluation(-1, 'random', 'key', 10, 5, 0.5, {'conv': 3}, metrics={'top1': 0.5})
    own = Study(str(folder / 'study.journal'), 'one', {'weights': 'w'}, ['maximize'], folder)
    own.claim(candidate)
    own.finish(candidate, [0.5])
    own.close()
    return [json.loads(line) for line in (folder / 'study.journal').read_text().splitlines()]


def formats(folder: Path) -> dict[str, Format]:
    """All of them, by name, with a good file of each in ``folder``."""
    _, pruner = prepared()
    pruner.plan('expand', [1, 2]).execute()
    pruner.save_plans(folder / 'plans.json')
    table().save(folder / 'table.json')

    def of(name: str) -> Any:
        return json.loads((folder / name).read_text())

    def network_of(path: Path) -> Any:
        return pruner.load_channel_cfg(path), pruner.deploy_subnet(small_network(), path)

    units = {
        'stem.0_(0, 8)_8': {'init_args': {'num_channels': 8}, 'choice': 3},
        'expand_(0, 12)_12': {'init_args': {'num_channels': 12}, 'choice': 0.5},
    }
    evaluation = dict(index=0, origin='x', key='k', macs=3, params=2, metric=0.5, channels={'a': 3})
    row = dict(group='a', channels=3, full=8, metric=0.5, loss=0.1, macs=3, params=2)
    exported = pruner.export_subnet()
    exported['__end__'] = exported['__format__']['layers']
    return {
        'channel config, YAML': Format(exported, 'subnet.yaml', network_of),
        'channel config, JSON': Format(exported, 'subnet.json', network_of),
        'units': Format(
            {'type': 'x', 'channel_unit_cfg': {'type': 'y', 'units': units}},
            'units.json',
            pruner.load_channel_cfg,
        ),
        'plans': Format(of('plans.json'), 'plans.json', pruner.replay_plans),
        'topology': Format(
            {name: [['a'], ['b', 'c']] for name in LISTS},
            'topology.yaml',
            lambda path: read_topology(path)[1],
        ),
        'latency table': Format(of('table.json'), 'table.json', LatencyTable.load, ('about',)),
        'ratios': Format(
            {'a': 0.5, 'b*': 1.0}, 'ratios.json', lambda path: checked_ratios(path, 1.0)
        ),
        'sensitivities': Format(
            {'format': FORMAT, 'settings': {}, 'full': 0.9, 'rows': [row, {**row, 'channels': 4}]},
            'sensitivity.json',
            lambda path: _read(path, {}),
        ),
        'history': Format(
            [{'format': 'mmprune search history 1', 'settings': {}}, evaluation, evaluation],
            'history.jsonl',
            lambda path: read_history(path, {}),
        ),
        'study': Format(study(folder), 'study.journal', read_candidates),
        'config, YAML': Format(
            {'model': {'type': 'A', 'x': [1, {'y': 2}]}, 'custom_imports': {'imports': ['json']}},
            'config.yaml',
            load_config,
        ),
    }


NAMES = [
    *('channel config, YAML', 'channel config, JSON', 'units', 'plans', 'topology'),
    *('latency table', 'ratios', 'sensitivities', 'history', 'study', 'config, YAML'),
]


@pytest.fixture(scope='module')
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    found = formats(tmp_path_factory.mktemp('formats'))
    assert list(found) == NAMES
    return found


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.parametrize('name', NAMES)
def test_spoiled_values_are_refused_or_read(
    name: str, known: dict[str, Format], tmp_path: Path
) -> None:
    one = known[name]
    path = tmp_path / one.name
    path.write_text(one.text(one.content))
    one.read(path)

    @MANY
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = spoiled(data.draw, one.content)
        path.write_text(one.text(content))
        refused_or(one.read, path)

    run()
    gc.collect()  # while the warning is ignored


# mmengine leaves a file open when a config is none.
@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.parametrize('name', NAMES)
def test_spoiled_bytes_are_refused_or_read(
    name: str, known: dict[str, Format], tmp_path: Path
) -> None:
    one = known[name]
    path, good = tmp_path / one.name, one.text(one.content).encode()

    @MANY
    @given(st.data())
    def run(data: st.DataObject) -> None:
        path.write_bytes(scratched(data.draw, good))
        refused_or(one.read, path)

    run()
    gc.collect()


def refused_or(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or the message, which names the file."""
    try:
        return read(path)
    except InputError as error:
        found = error
    assert path.name in str(found) or 'ratio' in str(found)
    return found


# -- archives -------------------------------------------------------------------------------


def test_a_spoiled_checkpoint_is_refused_or_holds_the_same_weights(tmp_path: Path) -> None:
    weights = {f'w{n}': torch.rand(5) for n in range(3)}
    path = tmp_path / 'weights.pth'
    write_checkpoint({'state_dict': weights, 'meta': {'epoch': 3}}, path)
    good = path.read_bytes()

    @MANY
    @given(st.data())
    def run(data: st.DataObject) -> None:
        path.write_bytes(scratched(data.draw, good))
        found = refused_or(read_checkpoint, path)
        if not isinstance(found, InputError):
            assert {k: v.tolist() for k, v in found['state_dict'].items()} == {
                k: v.tolist() for k, v in weights.items()
            }

    run()


def test_a_spoiled_one_file_builds_the_network_or_is_refused(tmp_path: Path) -> None:
    model, pruner = prepared()
    cfg, path = pruner.export_subnet(), tmp_path / 'small.pth'
    small = pruner.deploy_subnet(model, cfg)
    release(model)
    write_one_file(path, small, cfg, 'SmallNetwork')
    good = torch.load(path, weights_only=True)
    assert torch.equal(read_one_file(path).build(model)(images()), small(images()))

    @MANY
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = dict(good, mmprune=spoiled(data.draw, good['mmprune']))
        torch.save(content, path)
        found = refused_or(lambda path: read_one_file(path).build(model), path)
        if not isinstance(found, InputError):
            assert torch.equal(found(images()), small(images()))

    run()


def test_a_spoiled_training_state_is_refused_or_whole() -> None:
    good = {
        'meta': {'epoch': 1, 'iter': 2, 'seed': 0, 'cfg': ''},
        'message_hub': {'log_scalars': {}, 'runtime_info': {'epoch': 1}, 'resumed_keys': {}},
        'optimizer': {'state': {0: {'step': 1.0}}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
        'param_schedulers': [{'last_step': 2}],
    }

    @MANY
    @given(st.data())
    def run(data: st.DataObject) -> None:
        spoiled_parts = spoiled(data.draw, good)
        content = {**good, **{k: v for k, v in spoiled_parts.items() if k in good}}
        refused_or(lambda path: check_saved(content, str(path)), Path('state.pth'))

    run()
