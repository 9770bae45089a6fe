"""What is built and installed: everything that mim and a user need, and nothing else."""

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from pathlib import Path

import pytest
from installation import ROOT, copy_tree, install, run
from packaging.requirements import Requirement

# What `make venv` installs.
TESTED = (
    'runtime',
    'mmengine',
    'mmcls',
    'search',
    'digits',
    'mnist',
    'lite',
    'onnx',
    'openmim',
    'tests',
    'dev',
    'docs',
)
BACKEND = 'from setuptools import build_meta; build_meta.build_{kind}({target!r})'


def build(kind: str, source: Path, target: Path) -> Path:
    target.mkdir()
    code = BACKEND.format(kind=kind, target=str(target))
    run(sys.executable, '-c', code, cwd=source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp('source') / 'mmprune')


@pytest.fixture(scope='module')
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build('wheel', source, tmp_path_factory.mktemp('wheel') / 'out'))


def project_files(
    folder: str, suffixes: Iterable[str] = ('.json', '.py', '.yml', '.md', '.sh')
) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob('*')
        if path.suffix in suffixes and '__pycache__' not in path.parts
    }


def test_a_wheel_has_the_package_and_what_mim_needs(wheel: zipfile.ZipFile) -> None:
    expected = project_files('mmprune', ['.html', '.py', '.typed'])
    for folder in ('configs', 'tools'):
        expected |= {f'mmprune/.mim/{name}' for name in project_files(folder)}
    expected.add('mmprune/.mim/model-index.yml')
    found = {name for name in wheel.namelist() if '.dist-info/' not in name}
    assert found == expected
    for name in found:
        assert wheel.read(name) == (ROOT / name.replace('mmprune/.mim/', '')).read_bytes()


def test_the_metadata_name_every_requirement_and_extra(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    metadata = message_from_bytes(wheel.read(name))
    assert metadata['Name'] == 'mmprune'
    assert metadata['Requires-Python'] == '>=3.10'
    required = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    always = {requirement.name for requirement in required if requirement.marker is None}
    assert always == {'torch', 'numpy', 'packaging', 'scipy', 'rich', 'pyyaml', 'ordered-set'}
    extras = {
        extra: {
            requirement.name
            for requirement in required
            if requirement.marker and requirement.marker.evaluate({'extra': extra})
        }
        for extra in metadata.get_all('Provides-Extra')
    }
    assert extras['lite'] == {'mmcv-lite', 'opencv-python-headless'}
    assert extras['mim'] == {'mmcv', 'mmengine'}
    assert extras['openmim'] == {'openmim', 'setuptools'}
    assert extras['onnx'] == {'onnx', 'onnxruntime', 'onnxscript'}
    # Two distributions own the folder mmengine, and several the folder mmcv: one of each.
    assert extras['mmengine'] == {'mmengine'} | extras['search']
    assert extras['mmcls'] == {'mmcls'} | extras['mmengine']
    assert extras['mmpretrain'] == {'mmpretrain'} | extras['mmengine']
    assert extras['onedl'] == {'onedl-mmengine'} | extras['search']
    assert {'pytest', 'mmcv-lite', 'onnx', 'mmcls', 'scikit-learn'} <= extras['tests']
    assert {'mypy', 'ruff', 'torch-pruning', 'scikit-image'} <= extras['dev']
    assert {'sphinx', 'myst-parser'} <= extras['docs']
    assert {'sphinx', 'myst-parser'} <= extras['docs']


def test_a_second_build_ships_nothing_of_the_first(source: Path, tmp_path: Path) -> None:
    stray = [source / 'mmprune' / 'stray.py', source / 'configs' / 'stray.py']
    for path in stray:
        path.write_text('')
    first = zipfile.ZipFile(build('wheel', source, tmp_path / 'first')).namelist()
    assert {'mmprune/stray.py', 'mmprune/.mim/configs/stray.py'} <= set(first)
    for path in stray:
        path.unlink()
    second = zipfile.ZipFile(build('wheel', source, tmp_path / 'second')).namelist()
    assert not [name for name in second if 'stray' in name]


def test_a_build_leaves_the_package_folder_as_it_was(wheel: zipfile.ZipFile, source: Path) -> None:
    assert wheel.namelist()
    left = {path.name for path in source.iterdir()} - {path.name for path in ROOT.iterdir()}
    # setuptools' own, both ignored by git.
    assert left <= {'build', 'mmprune.egg-info'}
    assert not (source / 'mmprune' / '.mim').exists()


def test_an_sdist_can_be_built_from_and_holds_the_tests(source: Path, tmp_path: Path) -> None:
    archive = build('sdist', source, tmp_path / 'sdist')
    with tarfile.open(archive) as tar:
        names = {name.split('/', 1)[-1] for name in tar.getnames()}
        # Python 3.11 knows filters from 3.11.4 on, and later ones warn without.
        kept = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
        tar.extractall(tmp_path / 'unpacked', **kept)
    expected = {'LICENSE', 'Makefile', 'README.md', 'model-index.yml', 'pyproject.toml', 'setup.py'}
    for folder in ('configs', 'mmprune', 'tests', 'tools'):
        expected |= project_files(folder)
    expected |= project_files('requirements', ['.txt'])
    assert not expected - names
    (unpacked,) = (tmp_path / 'unpacked').iterdir()
    install(unpacked, tmp_path / 'installed')
    assert (tmp_path / 'installed/mmprune/.mim/tools/train.py').is_file()


def test_requirements_are_pinned_by_the_constraints() -> None:
    """Every requirement has one pinned version, which satisfies it."""
    folder = ROOT / 'requirements'
    pinned = dict(
        line.split('==')
        for line in (folder / 'constraints.txt').read_text().splitlines()
        if line and not line.startswith('#')
    )
    pinned = {name.lower().replace('_', '-'): version for name, version in pinned.items()}
    for file in TESTED:
        for line in (folder / f'{file}.txt').read_text().splitlines():
            if line and not line.startswith('#'):
                requirement = Requirement(line)
                assert requirement.specifier.contains(pinned[requirement.name], prereleases=True)
