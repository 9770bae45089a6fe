"""Pruning in one step by config: files, accuracy, data, refusals; and ImportancePruner in the other
tools."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmcls.structures import ClsDataSample
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from mmprune.commands.export_subnet import export_subnet
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions, prunable_config
from mmprune.commands.run import evaluate
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm, load_network
from mmprune.registry import MODELS

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


def tiny(**pruner: Any) -> Config:
    """The tiny supernet's config with an ImportancePruner."""
    cfg = load_config(CONFIG)
    options = {'budget': dict(macs=0.5), 'scope': 'local', 'except_start_keys': ['head.fc']}
    cfg.model.pruner = dict(type='ImportancePruner', **{**options, **pruner})
    return cfg


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the plain network, with random weights."""
    cfg = load_config(CONFIG)
    init_default_scope('mmcls')
    torch.manual_seed(1)
    network = MODELS.build(dict(cfg.model.architecture, data_preprocessor=cfg.data_preprocessor))
    path = tmp_path_factory.mktemp('plain') / 'plain.pth'
    torch.save({'state_dict': network.state_dict()}, path)
    return path


def test_a_plain_checkpoint_is_pruned(plain: Path, tmp_path: Path, capsys: Any) -> None:
    files = prune(tiny(), plain, tmp_path / 'pruned')
    assert files.verified.ok
    assert sorted(path.name for path in (tmp_path / 'pruned').iterdir()) == [
        'channel_cfg.yaml',
        'deployed.pth',
        'deployed.py',
    ]
    network = load_network(str(files.config), files.checkpoint)
    algorithm = build_algorithm(tiny(), plain)
    full = algorithm.pruner.cost()
    kept = torch.load(files.checkpoint, weights_only=True)['meta']
    assert 0.49 * full['macs'] <= kept['macs'] <= 0.5 * full['macs']
    assert sum(p.numel() for p in network.parameters()) == kept['params']
    # The channels are those with the heaviest weights.
    algorithm.pruner.prune()
    assert load_channel_cfg(files.channel_cfg) == algorithm.pruner.export_subnet()
    accuracy = evaluate(files.config, files.checkpoint, tmp_path / 'test')['accuracy/top1']
    assert 0 <= accuracy <= 100
    assert 'Deployed and verified' in capsys.readouterr().out


def test_a_supernets_checkpoint_will_do(untrained: Path, tmp_path: Path) -> None:
    """And the files go beside the checkpoint if nothing else is said."""
    copy = tmp_path / 'supernet.pth'
    copy.write_bytes(untrained.read_bytes())
    assert prune(tiny(), copy).config == tmp_path / 'pruned' / 'deployed.py'


def test_data_comes_from_the_training_images(plain: Path, tmp_path: Path, capsys: Any) -> None:
    cfg = tiny(importance=dict(type='TaylorImportance'))
    cfg.prune_cfg = dict(collect=dict(num_batches=3, batch_size=8))
    files = prune(cfg, plain, tmp_path)
    assert 'TaylorImportance has seen 3 batches' in capsys.readouterr().out
    again = prune(cfg, plain, tmp_path / 'again')
    assert load_channel_cfg(files.channel_cfg) == load_channel_cfg(again.channel_cfg)
    by_weight = prune(tiny(), plain, tmp_path / 'weight')
    assert load_channel_cfg(files.channel_cfg) != load_channel_cfg(by_weight.channel_cfg)
    assert 'prune_cfg' not in load_config(files.config)


@pytest.mark.parametrize(
    ('pruner', 'message'),
    [
        (dict(budget=dict(params=100)), 'the budget cannot be met: .* of at most 100 parameters'),
        (dict(budget=None, ratio={'neck.*': 0.5}), r"'neck\.\*' matches no layer"),
    ],
)
def test_nothing_is_written_if_there_is_no_such_subnet(
    plain: Path, tmp_path: Path, pruner: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prune(tiny(**pruner), plain, tmp_path / 'pruned')
    assert not (tmp_path / 'pruned').exists()


def test_another_pruner_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'digits\.py: pruning needs .*not a RatioPruner'):
        prune(CONFIG, plain, tmp_path)


def plain_config() -> Config:
    """The config that the plain network of these tests would be trained with."""
    cfg = load_config(CONFIG)
    cfg.model = cfg.model.architecture
    cfg.pop('search_cfg')
    return cfg


def test_a_config_of_a_plain_network_is_pruned(plain: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(InputError, match=r"--keep: 'backbone\.conv_1' .* 'backbone\.conv1'"):
        prune(plain_config(), plain, options=PruneOptions(ratio=0.5, keep=['backbone.conv_1']))
    options = PruneOptions(budget=dict(macs=0.4), importance='Taylor', keep=['backbone.conv1'])
    files = prune(plain_config(), plain, tmp_path, options=options)
    printed = capsys.readouterr().out
    assert '1x1x8x8, the first image of test_dataloader' in printed
    assert 'TaylorImportance has seen' in printed
    assert files.verified.ok
    kept = torch.load(files.checkpoint, weights_only=True)['meta']
    full = build_algorithm(tiny(), plain).pruner.cost()
    assert 0.39 * full['macs'] <= kept['macs'] <= 0.4 * full['macs']
    # The widths that are printed are those of the file, the kept layer whole.
    layers = load_channel_cfg(files.channel_cfg)
    assert layers['backbone.conv1']['out_channels'] == 8
    entry = layers['backbone.layer3.1.conv1']
    rows = printed.splitlines()
    row = next(line for line in rows if line.startswith('│ backbone.layer3.1.conv1'))
    assert [cell.strip() for cell in row.split('│')[3:5]] == ['32', str(entry['out_channels'])]
    # The metric before and after is that of tools/test.py.
    row = next(line for line in rows if line.startswith('│ accuracy/top1'))
    before, after = (float(cell) for cell in row.split('│')[2:4])
    assert after == pytest.approx(
        evaluate(files.config, files.checkpoint, tmp_path / 'test')['accuracy/top1'], abs=1e-3
    )
    assert before == pytest.approx(
        evaluate(plain_config(), plain, tmp_path / 'full')['accuracy/top1'], abs=1e-3
    )


def test_a_config_without_data_or_evaluator_is_pruned(
    plain: Path, tmp_path: Path, capsys: Any
) -> None:
    cfg = plain_config()
    for part in ('train', 'val', 'test'):
        cfg.pop(f'{part}_dataloader')
    files = prune(cfg, plain, tmp_path, options=PruneOptions(ratio=0.5, input_shape=(1, 8, 8)))
    printed = capsys.readouterr().out
    assert 'no train_dataloader, so the norm statistics stay' in printed
    assert 'accuracy' not in printed
    weights = torch.load(files.checkpoint, weights_only=True)['state_dict']
    assert weights['backbone.bn1.running_mean'].tolist() == [0] * len(weights['backbone.bn1.bias'])


def test_a_plain_config_without_a_target_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'a plain network, so say what to prune it to: --budget'):
        prune(plain_config(), plain, tmp_path)


def test_options_win_over_the_config() -> None:
    options = PruneOptions(budget=dict(params=0.3), importance='L2', keep=['backbone.conv1'])
    pruner = prunable_config(tiny(round_to=2), options).model.pruner
    assert pruner == dict(
        type='ImportancePruner',
        budget=dict(params=0.3),
        scope='local',
        importance='L2',
        round_to=2,
        except_start_keys=['head.fc', 'backbone.conv1'],
    )
    # Of another kind of pruner, what every pruner has.
    pruner = prunable_config(load_config(CONFIG), PruneOptions(ratio=0.5)).model.pruner
    assert pruner == dict(type='ImportancePruner', ratio=0.5, except_start_keys=['head.fc'])


def test_weights_of_another_network_are_refused(plain: Path, tmp_path: Path) -> None:
    weights = torch.load(plain, weights_only=True)['state_dict']
    weights['backbone.conv1.weight'] = torch.zeros(9, 1, 3, 3)
    torch.save({'state_dict': weights}, tmp_path / 'other.pth')
    with pytest.raises(
        InputError, match=r'backbone\.conv1\.weight: shape \(9, 1, 3, 3\) in the file, \(8, 1, 3, 3'
    ):
        prune(tiny(), tmp_path / 'other.pth', tmp_path / 'pruned')


def test_the_config_of_the_documentation_meets_its_budget() -> None:
    cfg = load_config('importance_resnet-small_1xb64_digits.py')
    init_default_scope('mmcls')
    pruner = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).pruner
    full = pruner.cost()['macs']
    pruner.prune()
    assert 0.99 * 0.5 * full <= pruner.cost()['macs'] <= 0.5 * full


# -- the other tools ---------------------------------------------------------------------


def test_the_smallest_subnet_is_exported_by_name(plain: Path, tmp_path: Path) -> None:
    path = export_subnet(tiny(ratio=0.5, budget=None), plain, 'min', tmp_path / 'min.yaml')
    entry = load_channel_cfg(path)['backbone.layer1.0.conv1']
    assert entry['out_channels'] == 4


def test_a_search_between_the_pruned_subnet_and_the_full_width(
    untrained: Path, tmp_path: Path
) -> None:
    cfg = tiny()
    cfg.search_cfg = dict(
        type='mmprune.EvolutionSearchLoop',
        constraints=dict(macs=0.8),
        max_epochs=1,
        population_size=3,
        top_k=2,
        num_mutation=1,
        num_crossover=0,
    )
    (result,) = search_subnet(cfg, untrained, tmp_path)
    full = build_algorithm(tiny(), untrained).pruner.cost()['macs']
    assert 0.49 * full <= result.macs <= 0.8 * full


def test_a_training_step_of_many_widths() -> None:
    cfg = tiny(round_to=2)
    init_default_scope('mmcls')
    algorithm = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    batch = {
        'inputs': torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8),
        'data_samples': [ClsDataSample().set_gt_label(number) for number in range(8)],
    }
    optimizer = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.1))
    logs = algorithm.train_step(batch, optimizer)
    assert torch.isfinite(logs['loss'])
    assert {'max_subnet.loss', 'min_subnet.loss', 'random_subnet1.loss'} <= logs.keys()
