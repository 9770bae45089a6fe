"""Lets torchvision be imported beside a torch that it was not compiled for.

Its Python parts work; its own operators are defined here in name only, so that what it registers
for them finds them. A ``.pth`` file of a stack's environment imports this module.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

OPERATORS = ('nms', 'qnms', 'roi_align', 'roi_pool', 'ps_roi_align', 'ps_roi_pool', 'deform_conv2d')


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; when torchvision is looked for, its operators are defined first."""

    defined: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != 'torchvision' or self.defined is not None:
            return
        import torch

        self.defined = torch.library.Library('torchvision', 'FRAGMENT')
        for operator in OPERATORS:
            self.defined.define(f'{operator}(Tensor a, Tensor b, float c) -> Tensor')


sys.meta_path.insert(0, _BeforeTorchvision())
