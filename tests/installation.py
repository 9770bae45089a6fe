"""Building mmprune from a clean copy of its tree, and installing what was built."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a clean checkout does not have.
IGNORED = (
    '.git',
    '.venv*',
    '.stacks',
    '__pycache__',
    '*.egg-info',
    'build',
    'dist',
    'work_dirs',
    '.*_cache',
)


def copy_tree(target: Path) -> Path:
    """Copy the project as a clean checkout would have it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*IGNORED))
    return target


def clean_environment(**variables: str) -> dict[str, str]:
    """Environment in which the working tree is not importable by accident."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    # One thread each, as for the tests themselves: small networks gain nothing from more.
    return {**environment, 'OMP_NUM_THREADS': '1', **variables}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command and return what it printed; fail with all of it if it failed."""
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, f'{command} failed:\n{finished.stdout}'
    return finished.stdout


def install(source: Path, target: Path) -> None:
    """Install a source tree, sdist or wheel into a folder: a normal install, not an editable one.

    Nothing is fetched: the environment of the tests has setuptools and all dependencies.
    """
    pip = (sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation')
    run(*pip, '--target', target, source, cwd=source.parent)


def mim(installed: Path, folder: Path, *command: str | Path) -> str:
    """Run a mim command in a folder of the user's, and return what it printed."""
    # The script `mim` is this module's main, and need not be on the PATH.
    return run(
        sys.executable, '-m', 'mim', *command, cwd=folder, PYTHONPATH=str(installed), CI='true'
    )


def accuracy(output: str) -> float:
    """Accuracy that a test printed, in percent."""
    return float(re.findall(r'Epoch\(test\).*accuracy/top1: ([\d.]+)', output)[-1])
