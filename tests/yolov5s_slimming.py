"""A real slimming run of YOLOv5s with 4 classes: its channels, and its parameters per layer."""

_CHANNELS = """
model.0.bn 32 30
model.1.bn 64 64
model.2.cv1.bn 32 32
model.2.cv2.bn 32 17
model.2.cv3.bn 64 55
model.2.m.0.cv1.bn 32 32
model.2.m.0.cv2.bn 32 32
model.3.bn 128 86
model.4.cv1.bn 64 64
model.4.cv2.bn 64 3
model.4.cv3.bn 128 67
model.4.m.0.cv1.bn 64 64
model.4.m.0.cv2.bn 64 64
model.4.m.1.cv1.bn 64 64
model.4.m.1.cv2.bn 64 64
model.5.bn 256 34
model.6.cv1.bn 128 128
model.6.cv2.bn 128 1
model.6.cv3.bn 256 39
model.6.m.0.cv1.bn 128 128
model.6.m.0.cv2.bn 128 128
model.6.m.1.cv1.bn 128 128
model.6.m.1.cv2.bn 128 128
model.6.m.2.cv1.bn 128 128
model.6.m.2.cv2.bn 128 128
model.7.bn 512 10
model.8.cv1.bn 256 256
model.8.cv2.bn 256 1
model.8.cv3.bn 512 13
model.8.m.0.cv1.bn 256 256
model.8.m.0.cv2.bn 256 256
model.9.cv1.bn 256 8
model.9.cv2.bn 512 7
model.10.bn 256 6
model.13.cv1.bn 128 3
model.13.cv2.bn 128 8
model.13.cv3.bn 256 11
model.13.m.0.cv1.bn 128 3
model.13.m.0.cv2.bn 128 5
model.14.bn 128 14
model.17.cv1.bn 64 28
model.17.cv2.bn 64 11
model.17.cv3.bn 128 113
model.17.m.0.cv1.bn 64 29
model.17.m.0.cv2.bn 64 54
model.18.bn 128 43
model.20.cv1.bn 128 25
model.20.cv2.bn 128 25
model.20.cv3.bn 256 165
model.20.m.0.cv1.bn 128 25
model.20.m.0.cv2.bn 128 57
model.21.bn 256 44
model.23.cv1.bn 256 12
model.23.cv2.bn 256 17
model.23.cv3.bn 512 266
model.23.m.0.cv1.bn 256 40
model.23.m.0.cv2.bn 256 46
"""
CHANNELS = {
    name: (int(before), int(after))
    for name, before, after in (line.split() for line in _CHANNELS.split('\n') if line)
}
"""Channels before and after, by norm."""

PARAMETERS = [
    3300,
    17_408,
    16_407,
    42_742,
    92_951,
    20_570,
    502_809,
    3530,
    662_835,
    358,
    54,
    0,
    0,
    842,
    182,
    0,
    0,
    25_880,
    43_817,
    0,
    30_424,
    65_428,
    0,
    36_010,
    14_769,
]
"""Of the 25 layers after slimming."""
