"""Checking at import that the packages mmprune stands on are there, in versions that work.

pip cannot do this alone: two distributions provide the module ``mmcv``, and
which of them a person has is that person's choice, so mmprune's setup.py may
not require either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Dependency:
    """A module, the distributions that provide it, and the versions that work.

    Attributes:
        module: Name under which it is imported.
        distributions: Names under which pip knows it.
        versions: Versions that work, as in a requirement.
        reason: Why not others.
        remedy: What to type, or to do.
    """

    module: str
    distributions: tuple[str, ...]
    versions: str
    reason: str
    remedy: str


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
        ('mmengine', 'mmengine-lite'),
        '>=0.11.0rc3',
        'earlier ones cannot load their own checkpoints with torch>=2.6',
        "pip install 'mmengine>=0.11.0rc3'",
    ),
    Dependency(
        'mmcls',
        ('mmcls',),
        '>=1.0.0rc6',
        'earlier ones are not based on mmengine, and a bare `pip install mmcls` gives 0.25.0',
        "pip install 'mmcls>=1.0.0rc6'",
    ),
    Dependency(
        'mmcv',
        ('mmcv', 'mmcv-lite'),
        '>=2.0.0rc4,<2.1.0',
        'mmcls asserts this range',
        'if there is another mmcv, `pip uninstall mmcv mmcv-lite` first; then either '
        "`pip install 'mmcv-lite>=2.0.1,<2.1.0' opencv-python-headless` (pure Python, enough for "
        "mmprune; it is mmprune's extra `lite`) or `mim install 'mmcv>=2.0.1,<2.1.0'` (with "
        'compiled operators); never both, they own the same folder',
    ),
)


def find_version(dependency: Dependency) -> str | None:
    """Version of a dependency as it is installed, or None if it is not."""
    for distribution in dependency.distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    if find_spec(dependency.module) is None:
        return None
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
    problems = []
    for dependency in dependencies:
        found = find(dependency)
        if found is None:
            state = 'is not installed'
        elif SpecifierSet(dependency.versions).contains(found, prereleases=True):
            continue
        else:
            state = f'{found} is installed'
        problems.append(
            f'{dependency.module} {state}; mmprune needs {dependency.module}{dependency.versions}, '
            f'because {dependency.reason}.\n    What to do: {dependency.remedy}.'
        )
    if problems:
        raise ImportError('mmprune cannot be imported:\n  ' + '\n  '.join(problems))
