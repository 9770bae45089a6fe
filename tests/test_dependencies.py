"""A package that is missing, too old or too new is told with what to do, at import or when used."""

import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from installation import clean_environment, run
from packaging.requirements import Requirement

from mmprune import dependencies
from mmprune.dependencies import (
    DEPENDENCIES,
    OPTIONAL,
    Dependency,
    check_dependencies,
    find_version,
    require,
)
from mmprune.errors import InputError

ROOT = Path(__file__).parents[1]
WORKING = {'torch': '2.13.0+cpu', 'mmengine': '0.11.0rc3'}


def check(**found: str | None) -> None:
    check_dependencies(find=lambda dependency: {**WORKING, **found}[dependency.module])


@pytest.mark.parametrize('mmengine', ['0.10.7', '0.10.12', '0.11.0rc3'])
def test_the_tried_sets_pass(mmengine: str) -> None:
    check(mmengine=mmengine)


def test_what_is_installed_here_passes() -> None:
    check_dependencies()


@pytest.mark.parametrize(
    ('module', 'found', 'expected'),
    [
        ('mmengine', None, r'mmengine is not installed.*extra `mmengine`.*onedl-mmengine.*never'),
        ('mmengine', '0.8.0', r"0\.8\.0 is installed.*pip install 'mmengine>=0\.11\.0rc3'"),
        ('torch', '2.3.1', r"torch 2\.3\.1 is installed.*pip install 'torch>=2\.4'"),
    ],
)
def test_each_problem_is_told_with_what_to_do(
    module: str, found: str | None, expected: str
) -> None:
    with pytest.raises(ImportError, match=f'(?s){expected}'):
        check(**{module: found})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ImportError, match=r'(?s)torch 2\.3\.1 .*mmengine is not installed'):
        check(mmengine=None, torch='2.3.1')


@pytest.mark.parametrize('module', ['mmengine', 'mmcv'])
def test_versions_are_found_under_any_name_of_the_distribution(module: str) -> None:
    (dependency,) = (each for each in (*DEPENDENCIES, *OPTIONAL) if each.module == module)
    names = {distribution.metadata['Name'] for distribution in distributions()}
    installed = [name for name in dependency.distributions if name in names]
    assert find_version(dependency) in [version(name) for name in installed]


def test_a_source_tree_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'mmprune_probe.py').write_text("__version__ = '3.1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    probe = Dependency('mmprune_probe', ('mmprune-probe',), '>=3', '', '')
    assert find_version(probe) == '3.1'
    sys.modules.pop('mmprune_probe')
    assert find_version(Dependency('mmprune_nothing', ('mmprune-nothing',), '', '', '')) is None


# -- what only parts of mmprune use ----------------------------------------------------


@pytest.mark.parametrize('module', [each.module for each in OPTIONAL])
def test_a_missing_package_is_told_when_it_is_used(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, 'find_version', lambda dependency: None)
    with pytest.raises(
        InputError, match=f'(?s)^the tool needs {module}: .*not installed.*pip install'
    ):
        require(f'{module}.part', 'the tool')


def test_a_package_that_asserts_its_versions_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mmprune_zoo.py').write_text("assert False, 'MMCV==9 is incompatible'\n")
    (tmp_path / 'mmprune_lacking.py').write_text("raise ImportError('no', name='cv2')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r'a config needs mmprune_zoo: .*MMCV==9 is incompatible'):
        require('mmprune_zoo', 'a config')
    with pytest.raises(InputError, match=r'(?s)needs mmprune_lacking.*opencv-python-headless'):
        require('mmprune_lacking', 'a config')


def test_a_plain_network_needs_none_of_them() -> None:
    """In a process of its own: nothing but torch, mmengine's registries, numpy and scipy."""
    heavy = [*(each.module for each in OPTIONAL), 'mmengine.runner', 'mmengine.model']
    code = f"""
import sys, mmprune
assert 'torch' not in sys.modules, 'import mmprune alone brings torch'
import torch
from torch import nn
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
result = mmprune.prune(network, torch.rand(1, 3, 8, 8), ratio=0.5)
print([name for name in {heavy!r} if name in sys.modules])
"""
    found = run(sys.executable, '-c', code, cwd=ROOT, PYTHONPATH=str(ROOT))
    assert found.strip().splitlines()[-1] == '[]'
    assert 'PYTHONPATH' not in clean_environment()


def test_requirements_ask_for_what_the_check_asks_for() -> None:
    """The check and the files for pip must not drift apart."""
    required = {
        requirement.name: requirement.specifier
        for file in (ROOT / 'requirements').glob('*.txt')
        if file.stem != 'constraints'
        for line in file.read_text().splitlines()
        if line and not line.startswith('#')
        for requirement in [Requirement(line)]
    }
    known = {each.module: each for each in (*DEPENDENCIES, *OPTIONAL)}
    for module in ('torch', 'mmcls', 'mmpretrain'):
        assert str(required[module]) == known[module].versions
    # 0.10.7 works, but nobody should be given it. The forks count their versions on from there.
    assert str(required['mmengine']) == '>=0.11.0rc3'
    for name, lowest in (('mmengine', '0.11.0rc3'), ('onedl-mmengine', '0.10.12')):
        assert required[name].contains(lowest, prereleases=True)
        check(mmengine=lowest)
    mmcls = {'2.0.1': True, '2.1.0': False}
    compile_with_torch = {'2.0.1': False, '2.1.0': True, '2.2.0': False}
    for name, ranges in (('mmcv-lite', mmcls), ('mmcv', compile_with_torch)):
        assert {v: required[name].contains(v) for v in ranges} == ranges
        assert f"'{name}{','.join(str(required[name]).split(',')[::-1])}'" in known['mmcv'].remedy
