"""Plans from a config: carried out by tools/prune.py, or refused with nothing written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmprune.commands.prune import prune
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm, build_model, load_network

ROOT = Path(__file__).resolve().parents[2]
TINY = 'autoslim_resnet-tiny_1xb32_digits.py'
FIRST = dict(layer='backbone.conv1', channels=[1, 6])
INSIDE = dict(layer='backbone.layer2.0.conv2', channels=[0, 3, 4], side='in')


def planned(plans: Any) -> Config:
    """The tiny supernet's config, whose pruner has no target, with plans."""
    cfg = load_config(TINY)
    cfg.prune_cfg = dict(plans=plans)
    return cfg


def test_plans_of_a_config_are_carried_out(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmprune.commands.prune.print_log', lambda text, logger: said.append(text))
    files = prune(planned([FIRST, INSIDE]), untrained, tmp_path / 'planned')
    assert files.verified.ok
    small = load_network(files.config, files.checkpoint).backbone
    assert (small.conv1.out_channels, small.layer1[1].conv2.out_channels) == (6, 6)
    assert (small.layer2[0].conv1.out_channels, small.layer2[0].conv2.in_channels) == (13, 13)
    full = build_algorithm(load_config(TINY), untrained).architecture.backbone
    torch.testing.assert_close(small.conv1.weight, full.conv1.weight[[0, 2, 3, 4, 5, 7]])
    assert 'prune_cfg' not in load_config(files.config)
    assert 'remove [1, 6] of the 8 outputs of backbone.conv1 and ' in said[0]


def test_a_recorded_file_leads_to_the_same_network(untrained: Path, tmp_path: Path) -> None:
    pruner = build_algorithm(load_config(TINY), untrained).pruner
    pruner.plan(**FIRST).execute()
    pruner.plan(**INSIDE).execute()
    pruner.save_plans(tmp_path / 'plans.json')
    recorded = prune(planned(str(tmp_path / 'plans.json')), untrained, tmp_path / 'recorded')
    listed = prune(planned([INSIDE, FIRST]), untrained, tmp_path / 'listed')
    cfgs = [load_channel_cfg(files.channel_cfg) for files in (recorded, listed)]
    assert cfgs[0] == cfgs[1] == pruner.export_subnet()


def test_the_config_that_comes_with_mmprune(tmp_path: Path) -> None:
    cfg = load_config(ROOT / 'configs' / 'plans' / 'plans_resnet-small_1xb64_digits.py')
    torch.manual_seed(0)
    weights = build_model(cfg).architecture.state_dict()
    masks = ('in_mask', 'out_mask')
    plain = {key: value for key, value in weights.items() if not key.endswith(masks)}
    torch.save({'state_dict': plain}, tmp_path / 'plain.pth')
    files = prune(cfg, tmp_path / 'plain.pth', tmp_path / 'planned')
    small = load_network(files.config, files.checkpoint)
    assert small.backbone.conv1.out_channels == 13
    assert small.backbone.layer2[0].conv1.out_channels == 24
    assert small.backbone.layer3[1].conv2.in_channels == 48
    assert sum(parameter.numel() for parameter in small.parameters()) == 150_517


ALL = list(range(16))


@pytest.mark.parametrize(
    ('plans', 'message'),
    [
        ([], r'digits\.py: prune_cfg\.plans is empty'),
        ('missing.json', r'missing\.json: cannot be read as plans'),
        ([FIRST, dict(channels=[1])], r'plans\[1\] needs layer; it takes layer, channels, side'),
        (['backbone.conv1'], r"plans\[0\]: expected a mapping, found 'backbone\.conv1'"),
        ([dict(FIRST, amount=3)], r"plans\[0\] has no option 'amount'; it takes layer"),
        ([dict(FIRST, layer='backbone.conv9')], r"plans\[0\]: no traced layer 'backbone\.conv9'"),
        ([dict(FIRST, channels=[1, 8])], r"plans\[0\]: .*'backbone\.conv1'.*8"),
        ([dict(FIRST, layer='head.fc')], r"plans\[0\]: layer 'head\.fc': channel 1 .* is pinned"),
        (
            [FIRST, dict(INSIDE, channels=ALL[:8]), dict(INSIDE, channels=ALL[8:])],
            r"prune_cfg\.plans: plan for .*'backbone\.layer2\.0\.conv1' keeps 0 of 16 channels",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    plans: Any, message: str, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        prune(planned(plans), untrained, tmp_path / 'planned')
    assert not (tmp_path / 'planned').exists()


def test_without_a_target_or_plans_it_is_said_what_is_needed(untrained: Path) -> None:
    with pytest.raises(InputError, match=r'not a RatioPruner, or plans to carry out, prune_cfg='):
        prune(load_config(TINY), untrained)
