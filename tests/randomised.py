"""Networks whose numbers prove something, and subnets that keep no channels in order."""

from mmprune.testing import randomise, scattered

__all__ = ['randomise', 'scattered']
