"""Every registry of mmprune, one line each: the table of contents of what can be extended.

Registries with a parent fall back to mmengine's, so a config may mix
``mmprune.``, ``mmcls.`` and mmengine's own names. A registry lists what it has
once the modules in its ``locations`` are imported, which it does by itself.
"""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

from mmprune.building import build_checked

# How many channels, and which: StructurePruner and its children.
PRUNERS = Registry(
    'pruner', build_func=build_checked, scope='mmprune', locations=['mmprune.pruners']
)
# Which channels of a group weigh most.
IMPORTANCE = Registry(
    'importance', build_func=build_checked, scope='mmprune', locations=['mmprune.importance']
)
# How the weights that are left make up for what was removed.
COMPENSATIONS = Registry(
    'compensation',
    build_func=build_checked,
    scope='mmprune',
    locations=['mmprune.compensation'],
)
# Class of a model -> function(model, images, mode) that makes what the model is called with.
DEMO_INPUTS = Registry('demo input', scope='mmprune', locations=['mmprune.models.demo_inputs'])
# Name of a grad_fn -> function(grad_fn) that reads it into plain data.
BACKWARD_PARSERS = Registry('backward parser', scope='mmprune', locations=['mmprune.trace.parsers'])
# Operation of a traced node -> function that carries channel labels through it.
CHANNEL_RULES = Registry('channel rule', scope='mmprune', locations=['mmprune.channels.rules'])
# Module type -> function that mends the attributes its forward reads.
SLICERS = Registry('slicer', scope='mmprune', locations=['mmprune.layers.slicers'])

# Algorithms (AutoSlim), deployed networks, distillers.
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmprune', locations=['mmprune.models'])
# Wrappers for training on several devices.
MODEL_WRAPPERS = Registry(
    'model wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmprune',
    locations=['mmprune.models'],
)
# Search loops, and loops that measure several subnets.
LOOPS = Registry(
    'loop', parent=MMENGINE_LOOPS, scope='mmprune', locations=['mmprune.search', 'mmprune.training']
)
# Hooks.
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmprune', locations=['mmprune.training'])
# Datasets.
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmprune', locations=['mmprune.datasets']
)


def table(registry: Registry) -> dict[str, Any]:
    """All entries of a registry by name, its own locations imported first.

    Plain dict look-ups instead of ``Registry.get``: keys are names of autograd nodes
    and operations, of which most are expected to be missing, and a missing key must
    not be searched for in other packages.
    """
    registry.import_from_location()
    return registry.module_dict
