"""One environment for each stack of packages, below a folder that git ignores.

What all stacks share (torch, numpy, scipy and what these need) is not installed again: each
environment sees links to the files of the environment that ``make venv`` has made. What makes a
stack is installed by pip into its own environment, so that a stack has what it lists and nothing
else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / '.stacks'
WHEELS = Path(os.environ.get('WHEELS') or ROOT.parent / 'shared' / 'wheels')
CONSTRAINTS = ROOT / 'requirements' / 'constraints.txt'
RUNTIME = ROOT / 'requirements' / 'runtime.txt'
BESIDE = ('matplotlib', 'scikit-learn', 'optuna')
"""What every stack has beside mmprune's own requirements: mmengine's, images, and a search's."""
CV2 = 'opencv-python-headless'
"""mmengine's runner and mmcv import cv2, and leave it to others to say so."""


@dataclass(frozen=True)
class Stack:
    """A set of packages that mmprune is to work with.

    Attributes:
        name: What it is called on the command line.
        packages: What is installed, as pip takes it; empty for the environment of ``make venv``.
        scope: The package of OpenMMLab whose classifier is tried, and the config's
            ``default_scope``; empty if there is none.
        without: Packages that are installed without those that they ask for.
        compiled: Packages that are compiled here, beside the numpy that the stack has.
        wheel: Pattern of a wheel that is installed as it is; without it the stack is skipped.
        only_by_name: It takes long, so it is built only if it is asked for.
        note: What a reader of the table should know.
    """

    name: str
    packages: tuple[str, ...] = ()
    scope: str = ''
    without: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    wheel: str = ''
    only_by_name: bool = False
    note: str = ''


# mmpretrain imports torchvision without saying so. Its numbers are not needed, so that one for
# another torch will do.
STACKS = (
    Stack('plain', ('mmengine==0.11.0rc3', CV2), note='no mmcv, no model zoo'),
    Stack('mmcls', scope='mmcls', note='the tested set: `make venv`'),
    Stack(
        'mmpretrain',
        ('mmengine==0.11.0rc3', 'mmpretrain==1.2.0', CV2),
        'mmpretrain',
        without=('torchvision',),
        wheel='mmcv-2.0.1-*.whl',
        note='full mmcv, from a wheel',
    ),
    Stack(
        'mmpretrain-lite',
        ('mmengine==0.11.0rc3', 'mmpretrain==1.2.0', CV2),
        'mmpretrain',
        without=('mmcv-lite==2.2.0', 'torchvision'),
        note='mmcv 2.2, without operators',
    ),
    *(
        Stack(
            f'mmpretrain-{version}',
            ('mmengine==0.11.0rc3', 'mmpretrain==1.2.0', 'setuptools>=77,<81', CV2),
            'mmpretrain',
            without=('torchvision',),
            compiled=(f'mmcv=={version}',),
            only_by_name=True,
            note='full mmcv, which compiles for half an hour',
        )
        for version in ('2.1.0', '2.2.0')
    ),
    Stack('onedl', ('onedl-mmengine>=0.10.12', CV2), note='onedl-mmengine alone'),
    Stack(
        'onedl-all',
        ('onedl-mmengine>=0.10.12', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection'),
        'mmpretrain',
        without=('torchvision',),
        only_by_name=True,
        note='the whole family; its mmcv compiles for half an hour',
    ),
    Stack(
        'family',
        (
            *('mmengine==0.11.0rc3', 'mmpretrain==1.2.0'),
            *('pycocotools', 'shapely', 'terminaltables', 'six', 'tqdm', 'prettytable'),
            *('json-tricks', 'munkres', 'pillow', 'ftfy', 'regex'),
            *('onnx', 'onnxruntime', 'onnxscript'),
            *('pytest', 'pytest-xdist', 'openmim', 'setuptools>=77,<81', 'cython', CV2),
        ),
        without=(
            *('mmdet==3.3.0', 'mmsegmentation==1.2.2', 'mmpose==1.3.2', 'mmyolo==0.6.0'),
            *('torchvision', 'mlxtend'),
        ),
        compiled=('xtcocotools==1.14.3',),
        wheel='mmcv-2.0.1-*.whl',
        only_by_name=True,
        note='detectors, segmenters, poses: `make test-family`',
    ),
    Stack(
        'mmengine-0.10',
        ('addict', 'termcolor', 'yapf', CV2),
        without=('mmengine==0.10.7',),
        note='its checkpoints are loaded by mmprune, since it cannot with this torch',
    ),
)


def python_of(stack: Stack) -> Path:
    """The interpreter that runs a stack."""
    if stack.packages or stack.without:
        return FOLDER / stack.name / 'bin' / 'python'
    return Path(sys.executable)


def build(stack: Stack) -> str:
    """Make the environment of a stack, or leave it as it is if it is complete.

    Returns:
        Why it cannot be made here; empty if it is there.
    """
    wheels = sorted(WHEELS.glob(stack.wheel)) if stack.wheel else []
    if stack.wheel and not wheels:
        return f'no {stack.wheel} in {os.path.relpath(WHEELS, ROOT)}'
    folder, wanted = FOLDER / stack.name, repr((sys.version, stack, shared_names()))
    ready = folder / 'ready'
    if python_of(stack) == Path(sys.executable) or (
        ready.is_file() and ready.read_text(encoding='utf-8') == wanted
    ):
        return ''
    print(f'building {folder.relative_to(ROOT)}', flush=True)
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    site = next((folder / 'lib').glob('python*/site-packages'))
    shared = folder / 'shared'
    link_distributions(closure(shared_names()), shared)
    (site / 'shared.pth').write_text(f'{shared}\n', encoding='utf-8')
    if 'torchvision' in stack.without:
        shutil.copy(Path(__file__).with_name('torchvision_ops.py'), site)
        (site / 'torchvision_ops.pth').write_text('import torchvision_ops\n', encoding='utf-8')
    pip = [str(python_of(stack)), '-m', 'pip', 'install', '--quiet']
    constraints = folder / 'constraints.txt'
    constraints.write_text(unless_named(stack.packages), encoding='utf-8')
    steps = [
        [*stack.packages, '-c', str(constraints)] if stack.packages else [],
        ['--no-deps', *stack.without, *map(str, wheels)] if stack.without or wheels else [],
        ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', *stack.compiled]
        if stack.compiled
        else [],
    ]
    for arguments in filter(None, steps):
        subprocess.run([*pip, *arguments], check=True)
    ready.write_text(wanted, encoding='utf-8')
    return ''


def shared_names() -> list[str]:
    """Distributions that every stack has; what they need comes with them."""
    lines = RUNTIME.read_text(encoding='utf-8').splitlines()
    return [*(Requirement(line).name for line in lines if line and line[0] != '#'), *BESIDE]


def unless_named(packages: Iterable[str]) -> str:
    """The constraints of the tested set, less those of packages that a stack chooses itself."""
    chosen = {normalised(Requirement(package).name) for package in packages}
    lines = CONSTRAINTS.read_text(encoding='utf-8').splitlines()
    kept = [line for line in lines if normalised(line.partition('==')[0]) not in chosen]
    return '\n'.join(kept) + '\n'


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def closure(names: Iterable[str]) -> list[Distribution]:
    """Installed distributions, and all that they ask for."""
    installed = {normalised(d.metadata['Name']): d for d in distributions()}
    found: dict[str, Distribution] = {}
    waiting = [normalised(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name not in installed:
            continue
        found[name] = installed[name]
        for line in installed[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
                waiting.append(normalised(requirement.name))
    return list(found.values())


def link_distributions(found: Iterable[Distribution], folder: Path) -> None:
    """Link the files of distributions into a folder for the path of Python, folder by folder."""
    folder.mkdir()
    for distribution in found:
        for first in sorted({file.parts[0] for file in distribution.files or []} - {'..'}):
            target, link = Path(distribution.locate_file(first)), folder / first
            if target.exists() and first != '__pycache__' and not link.exists():
                link.symlink_to(target)
