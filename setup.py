"""Build and install mmprune; settings of the development tools are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What mim looks for under <package>/.mim.
MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Copy configs, tools and model-index.yml to ``mmprune/.mim`` in what is built.

    The copy goes into the build folder only, so that the source tree stays as
    it is and no symbolic link has to survive a wheel or a checkout.
    """

    def run(self) -> None:
        """Build from nothing: what an earlier build left must not be shipped."""
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / 'mmprune'
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for name in MIM_FILES:
            source, target = ROOT / name, package / '.mim' / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.py[cod]', '.*')
                shutil.copytree(source, target, ignore=ignore)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


def read_version() -> str:
    """Version of the package, read without importing it."""
    text = (ROOT / 'mmprune' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE)
    if match is None:
        raise ValueError('mmprune/version.py has no line __version__ = "..."')
    return match.group(1)


def read_requirements(purpose: str) -> list[str]:
    """Requirements of ``requirements/<purpose>.txt`` without its comments."""
    lines = (ROOT / 'requirements' / f'{purpose}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def together(purposes: str) -> list[str]:
    """Requirements of several purposes."""
    return [line for purpose in purposes.split() for line in read_requirements(purpose)]


# Extra -> files of requirements. The first four are stacks, of which one is needed.
EXTRAS = {
    'mmengine': 'mmengine search',
    'mmcls': 'mmengine search mmcls',
    'mmpretrain': 'mmengine search mmpretrain',
    'onedl': 'onedl search',
    'search': 'search',
    'lite': 'lite',
    # The name is OpenMMLab's: `mim install` adds the extra "mim" by itself.
    'mim': 'mminstall',
    'openmim': 'openmim',
    'onnx': 'onnx',
    'digits': 'digits',
    'mnist': 'mnist',
    'tests': 'mmengine mmcls search digits lite onnx openmim tests',
    'dev': 'dev',
    'docs': 'docs',
}

setup(
    name='mmprune',
    version=read_version(),
    description='Exact channel pruning for PyTorch networks, by one call or by config files',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords=['channel pruning', 'slimmable networks', 'model compression', 'OpenMMLab'],
    packages=find_packages(include=['mmprune', 'mmprune.*']),
    package_data={'mmprune': ['py.typed', 'search/page.html']},
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10',
    install_requires=read_requirements('runtime'),
    extras_require={
        **{name: together(files) for name, files in EXTRAS.items()},
    },
    zip_safe=False,
)
