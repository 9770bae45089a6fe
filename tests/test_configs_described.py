"""Every folder of configs says what is in it: a README with a table, and a metafile for mim."""

import re
from pathlib import Path

import pytest
import yaml

from mmprune.config import load_config
from mmprune.registry import HOOKS, PRUNERS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(f for f in (ROOT / 'configs').iterdir() if f.is_dir() and f.name != '_base_')
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_described(folder: Path) -> None:
    configs = {path.name for path in folder.glob('*.py')}
    readme = (folder / 'README.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| \[([^\]]+)\]\(([^)]+)\) \|', readme, re.MULTILINE)
    assert {name for name, _ in rows} == {link for _, link in rows} == configs
    for link in re.findall(r'\]\(([^)]+)\)', readme):
        assert link.startswith('https://') or (folder / link.partition('#')[0]).exists(), link
    for path in re.findall(r'(?:configs|tools)/[\w./-]+\.py', readme):
        assert (ROOT / path).is_file()
    meta = yaml.safe_load((folder / 'metafile.yml').read_text(encoding='utf-8'))
    assert {ROOT / model['Config'] for model in meta['Models']} == set(folder.glob('*.py'))
    names = {collection['Name'] for collection in meta['Collections']}
    for model in meta['Models']:
        assert Path(model['Config']).stem == model['Name']
        assert model['In Collection'] in names
    for collection in meta['Collections']:
        assert ROOT / collection['README'] == folder / 'README.md'
    assert f'configs/{folder.name}/metafile.yml' in INDEX


def test_the_index_names_what_exists() -> None:
    assert sorted(INDEX) == INDEX
    assert all((ROOT / path).is_file() for path in INDEX)


@pytest.mark.parametrize('folder', ['dcff', 'dmcp', 'group_fisher'])
def test_three_configs_hang_together(folder: str) -> None:
    """What one writes is what the next one reads; hooks and pruners take their options."""
    for config in (ROOT / 'configs' / folder).glob('*-prune_*.py'):
        prune, small, finetune = (
            load_config(str(config).replace('-prune_', f'-{step}_'))
            for step in ('prune', 'deploy', 'finetune')
        )
        for hook in prune.custom_hooks:
            HOOKS.build(hook)
        if prune.model.type == 'mmprune.AutoSlim':
            PRUNERS.build(prune.model.pruner)
        written = f'work_dirs/{config.stem}/'
        assert small.model.type == finetune.model.type == 'mmprune.DeployedModel'
        assert small.model.channel_cfg == finetune.model.channel_cfg
        assert small.model.channel_cfg.startswith(written)
        last = f'epoch_{prune.train_cfg.max_epochs}.pth'
        assert finetune.load_from in (None, f'{written}{last}', f'{written}deployed/deployed.pth')
        assert small.load_from is None
        assert small.model.model == finetune.model.model
