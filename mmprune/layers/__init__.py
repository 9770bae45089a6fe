"""What mmprune knows about types of modules: layouts of their tensors, attributes to mend."""

from mmprune.layers.computed import renew_computed_weights
from mmprune.layers.cut import Cut, cut_of_masks, plain_cut
from mmprune.layers.layer import Layer, known_masks, layers_of, weight_shape
from mmprune.layers.numbers import like, mended_numbers, size_in, stored_numbers
from mmprune.layers.slicers import Slicer, mended_attributes, slicer_of

__all__ = [
    'Cut',
    'Layer',
    'Slicer',
    'cut_of_masks',
    'known_masks',
    'layers_of',
    'like',
    'mended_attributes',
    'mended_numbers',
    'plain_cut',
    'renew_computed_weights',
    'size_in',
    'slicer_of',
    'stored_numbers',
    'weight_shape',
]
