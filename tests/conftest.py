"""What all tests share: one thread, fixed seeds, and no state of mmengine left by another test."""

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from installation import copy_tree, install
from mmengine.utils import ManagerMixin

pytest_plugins = ['tiny_supernet']

# Detectors, segmenters and poses: `make test-family` runs these in an environment that has them.
if find_spec('mmdet') is None:
    collect_ignore = ['family']

# Two test processes share two cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Run in one thread per process, whatever a test before has set."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_mmengine() -> Iterator[None]:
    """Forget the runners, scopes, visualizers and loggers of the test.

    mmengine keeps them by name in their classes, and a runner is named after the second in which
    it starts.
    """
    yield
    for manager in _subclasses(ManagerMixin):
        for instance in manager._instance_dict.values():
            for handler in getattr(instance, 'handlers', []):
                handler.close()
        manager._instance_dict.clear()


@pytest.fixture(scope='session')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a normal install of mmprune, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp('installation')
    install(copy_tree(folder / 'source'), folder / 'site')
    return folder / 'site'


def _subclasses(cls: type) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
