"""What mmprune knows about types of modules: layouts of their tensors, attributes to mend."""

from mmprune.layers.computed import renew_computed_weights
from mmprune.layers.cut import Cut, cut_of_masks, grouped_cut, plain_cut
from mmprune.layers.fit import check_fits
from mmprune.layers.kept_outputs import (
    PLACES,
    KeptOutputs,
    Outputs,
    keep_outputs,
    outputs_kept,
    outputs_to_keep,
    outputs_whole,
    put_back,
)
from mmprune.layers.layer import Layer, known_masks, layers_of, weight_shape
from mmprune.layers.numbers import (
    like,
    may_be_size,
    mended_numbers,
    stored_numbers,
    torchs_attention,
)
from mmprune.layers.slicers import Slicer, mended_attributes, slicer_of
from mmprune.layers.surgery import channels_of, prune_in_channels, prune_out_channels
from mmprune.layers.turned import turned_cuts

__all__ = [
    'PLACES',
    'Cut',
    'KeptOutputs',
    'Layer',
    'Outputs',
    'Slicer',
    'channels_of',
    'check_fits',
    'cut_of_masks',
    'grouped_cut',
    'keep_outputs',
    'known_masks',
    'layers_of',
    'like',
    'may_be_size',
    'mended_attributes',
    'mended_numbers',
    'outputs_kept',
    'outputs_to_keep',
    'outputs_whole',
    'plain_cut',
    'prune_in_channels',
    'prune_out_channels',
    'put_back',
    'renew_computed_weights',
    'slicer_of',
    'stored_numbers',
    'torchs_attention',
    'turned_cuts',
    'weight_shape',
]
