"""mmprune: exact channel pruning for OpenMMLab networks, driven by config files.

Importing the package checks its dependencies and makes its registries known
to mmengine, so that a config with ``custom_imports=dict(imports=['mmprune'])``
may say ``type='mmprune.Digits'``. What is registered is imported when it is
first asked for.
"""

from mmprune.dependencies import check_dependencies

check_dependencies()

from mmprune import registry  # noqa: E402  (imports mmengine, which has just been checked)
from mmprune.version import __version__  # noqa: E402

__all__ = ['__version__', 'registry']
