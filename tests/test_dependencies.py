"""Importing mmprune with a package missing, too old or too new says what to do."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmprune.dependencies import DEPENDENCIES, Dependency, check_dependencies, find_version

ROOT = Path(__file__).parents[1]
WORKING = {'torch': '2.13.0+cpu', 'mmengine': '0.11.0rc3', 'mmcls': '1.0.0rc6', 'mmcv': '2.0.1'}


def check(**found: str | None) -> None:
    check_dependencies(find=lambda dependency: {**WORKING, **found}[dependency.module])


def test_the_tested_set_passes() -> None:
    check()


def test_what_is_installed_here_passes() -> None:
    check_dependencies()


@pytest.mark.parametrize(
    ('module', 'found', 'expected'),
    [
        ('mmcv', None, r"mmcv is not installed.*pip install 'mmcv-lite>=2\.0\.1,<2\.1\.0' opencv"),
        ('mmcv', '2.1.0', r'mmcv 2\.1\.0 is installed.*<2\.1\.0.*pip uninstall mmcv mmcv-lite'),
        ('mmcv', '2.1.0rc1', r'mmcv 2\.1\.0rc1 is installed'),
        ('mmcv', '1.7.2', r'mmcv 1\.7\.2 is installed'),
        ('mmengine', '0.10.7', r"0\.10\.7 is installed.*pip install 'mmengine>=0\.11\.0rc3'"),
        ('mmcls', '0.25.0', r"0\.25\.0 is installed.*pip install 'mmcls>=1\.0\.0rc6'"),
        ('mmcls', None, r'mmcls is not installed'),
        ('torch', '2.3.1', r"torch 2\.3\.1 is installed.*pip install 'torch>=2\.4'"),
    ],
)
def test_each_problem_is_told_with_what_to_do(
    module: str, found: str | None, expected: str
) -> None:
    with pytest.raises(ImportError, match=f'(?s){expected}'):
        check(**{module: found})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ImportError, match=r'(?s)mmengine 0\.10\.7 .*mmcv is not installed'):
        check(mmengine='0.10.7', mmcv=None)


def test_versions_are_found_under_any_name_of_the_distribution() -> None:
    mmcv = next(dependency for dependency in DEPENDENCIES if dependency.module == 'mmcv')
    assert find_version(mmcv) in [version(name) for name in installed(mmcv)]


def installed(dependency: Dependency) -> list[str]:
    from importlib.metadata import distributions

    names = {distribution.metadata['Name'] for distribution in distributions()}
    return [name for name in dependency.distributions if name in names]


def test_a_source_tree_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'mmprune_probe.py').write_text("__version__ = '3.1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    probe = Dependency('mmprune_probe', ('mmprune-probe',), '>=3', '', '')
    assert find_version(probe) == '3.1'
    sys.modules.pop('mmprune_probe')
    assert find_version(Dependency('mmprune_nothing', ('mmprune-nothing',), '', '', '')) is None


def test_requirements_ask_for_what_the_check_asks_for() -> None:
    """The check and the files for pip must not drift apart."""
    lines = [
        line
        for name in ('runtime.txt', 'lite.txt')
        for line in (ROOT / 'requirements' / name).read_text().splitlines()
        if line and not line.startswith('#')
    ]
    required = {Requirement(line).name: Requirement(line).specifier for line in lines}
    for dependency in DEPENDENCIES:
        if dependency.module == 'mmcv':
            # Older release candidates work, but nobody should be given one.
            assert str(required['mmcv-lite']) == '<2.1.0,>=2.0.1'
        else:
            assert str(required[dependency.module]) == dependency.versions
