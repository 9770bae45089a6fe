"""Channel rules: how labels pass through each operation.

The contract of a rule, the same for all of them:

    rule(node, inputs, book) -> Value, or a list of Values where the node has several outputs

``inputs`` has a Value for every traced input and None for every constant. The rule
returns the labels of the output and tells the book what it has learned: ``unite`` for
channels that must live or die together, ``pin`` for channels that can't go, with a
reason, ``equal_counts`` for blocks that must keep equally many, ``add_site`` for the
input and output channels of a layer. Uniting or pinning too much is safe; too little is
not. So a rule must account for every factor of every input.

For example, concatenating a feature map with labels [0 1 2] and one with labels [7 8]
along dim 1 gives one with the labels [0 1 2 7 8] along dim 1, and tells the book nothing.

An operation without a rule pins whatever reaches it.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
