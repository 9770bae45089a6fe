"""mmprune: exact channel pruning for PyTorch networks, by one call or by OpenMMLab's configs.

Importing the package checks its dependencies and makes its registries known
to mmengine, so that a config with ``custom_imports=dict(imports=['mmprune'])``
may say ``type='mmprune.Digits'``. What is registered, and what is behind
``mmprune.prune`` and its like, is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from mmprune.dependencies import check_dependencies

check_dependencies()

from mmprune import registry  # noqa: E402  (imports mmengine, which has just been checked)
from mmprune.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from mmprune.door import Pruned, load, make_supernet, prune, save

__all__ = [
    'Pruned',
    '__version__',
    'load',
    'make_supernet',
    'prune',
    'registry',
    'save',
]


def __getattr__(name: str) -> Any:
    """Open the door when somebody knocks: it brings torch and the pruners."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmprune import door

    return getattr(door, name)
