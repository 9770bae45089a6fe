"""Training goes on from a checkpoint's own state, or is refused before anything is trained."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import train
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.training.saved_state import check_saved

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


def set_at(content: Any, place: str, value: Any) -> None:
    *way, last = (int(part) if part.isdecimal() else part for part in place.split('.'))
    for part in way:
        content = content[part]
    content[last] = value


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('meta', []),
        ('meta.epoch', -5),
        ('meta.epoch', '3'),
        ('meta.iter', 2.5),
        ('meta.seed', 'x'),
        ('message_hub', None),
        ('message_hub.runtime_info', 3),
        ('optimizer', [1]),
        ('optimizer.state', {'a': {}}),
        ('optimizer.state.0', 3),
        ('optimizer.param_groups', {}),
        ('optimizer.param_groups.0', None),
        ('param_schedulers', 7),
    ],
)
def test_a_state_that_is_none_is_told_with_its_place(place: str, value: Any, trained: Path) -> None:
    content = read_checkpoint(trained)
    check_saved(content, 'x.pth')
    set_at(content, place, value)
    first = place.split('.')[0]
    with pytest.raises(InputError, match=rf'x\.pth: {first}.*: expected .*, found'):
        check_saved(content, 'x.pth')


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('state.0.momentum_buffer', torch.ones(3), r'of shape \(3,\), not'),
        ('state.0.momentum_buffer', None, 'has numbers that are none'),
        ('state.0.momentum_buffer', 'x', 'is a str, not a tensor'),
        ('state.0', {'step': 1}, 'parameter 0 has no momentum_buffer'),
        ('param_groups.0.lr', 'x', "its lr is 'x'"),
        ('param_groups.0.momentum', float('nan'), 'its momentum is nan'),
        ('state.999', {}, 'more than .* parameters'),
        ('param_groups.0.params', [0], 'groups of'),
    ],
)
def test_a_state_of_other_parameters_is_refused(
    place: str, value: Any, message: str, trained: Path, tmp_path: Path
) -> None:
    content = deepcopy(read_checkpoint(trained))
    own = content['optimizer']['state'][0]['momentum_buffer']
    set_at(content['optimizer'], place, own * float('nan') if value is None else value)
    torch.save(content, tmp_path / 'bad.pth')
    with pytest.raises(InputError, match=rf'bad\.pth: optim_wrapper\.optimizer .*{message}'):
        train(CONFIG, tmp_path / 'work', resume=tmp_path / 'bad.pth')


def test_another_optimizer_in_the_config_is_refused(trained: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001))
    with pytest.raises(
        InputError,
        match=r'\(a AdamW\) .* no betas, eps, but dampening, momentum.*load_from',
    ):
        train(cfg, tmp_path, resume=trained)


def test_what_schedulers_keep_is_no_hindrance_and_another_optimizer_with_the_same_options_is(
    tmp_path: Path,
) -> None:
    """A schedule of momentum adds options to groups, and OneCycleLR has a function."""
    cfg = load_config(CONFIG)
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper = dict(optimizer=dict(type='Adam', lr=0.001))
    cfg.param_scheduler = [
        dict(type='LinearMomentum', start_factor=0.5, end=2),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False),
    ]
    train(cfg.copy(), tmp_path)
    cfg.train_cfg.max_epochs = 2
    train(cfg.copy(), tmp_path, resume='auto')
    cfg.optim_wrapper.optimizer.type = 'Adamax'
    with pytest.raises(InputError, match=r"\(a Adamax\) .* it is that of a 'Adam'"):
        train(cfg, tmp_path, resume='auto')


def test_a_config_in_a_checkpoint_is_not_run(trained: Path, tmp_path: Path) -> None:
    """mmengine runs what stands under this key."""
    content, touched = read_checkpoint(trained), tmp_path / 'touched'
    content['meta']['config'] = f'import os\nos.mkdir({str(touched)!r})\n'
    torch.save(content, tmp_path / 'bad.pth')
    options = {'train_cfg.max_epochs': content['meta']['epoch']}
    train(CONFIG, tmp_path / 'work', resume=tmp_path / 'bad.pth', cfg_options=options)
    assert not touched.exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(targets='0.5'), "targets: expected a list, found '0.5'"),
        (dict(targets=[0.5, 'x']), r"targets: \[1\]: expected a number, found 'x'"),
        (dict(max_channel_bins=2.5), 'max_channel_bins: expected a whole number, found 2.5'),
        (dict(seed='a'), "seed: expected a whole number, found 'a'"),
        (dict(rule='best'), "rule: expected 'auto' or 'greater' or 'less', found 'best'"),
        (dict(recalibration=3), 'recalibration: expected a mapping, found 3'),
        (dict(bins=3), "has no option 'bins'"),
    ],
)
def test_settings_of_a_search_of_other_types(
    options: dict[str, Any], message: str, untrained: Path, tmp_path: Path
) -> None:
    cfg = load_config(CONFIG)
    cfg.search_cfg.update(options)
    with pytest.raises(InputError, match=rf'digits\.py: search_cfg.*{message}'):
        search_subnet(cfg, untrained, tmp_path)
