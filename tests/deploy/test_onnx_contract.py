"""What an ONNX file says about its input and output, for networks of several kinds."""

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from mmprune.deploy.onnx_contract import describe_onnx
from mmprune.deploy.onnx_export import export_onnx


class Network(nn.Module):
    def __init__(self, end: nn.Module, preprocessor: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.end, self.data_preprocessor = nn.Conv2d(3, 4, 3), end, preprocessor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.conv(x))


FLAT = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ('end', 'preprocessor', 'given', 'returned'),
    [
        (FLAT, None, 'as the network takes it: its config has no normalisation', 'raw scores'),
        (nn.Sequential(FLAT, nn.Softmax(1)), None, 'no normalisation', 'probabilities: every row'),
        (
            nn.ReLU(),
            ImgDataPreprocessor([1, 2, 3], [4, 5, 6], bgr_to_rgb=True),
            'mean [1, 2, 3] and std [4, 5, 6], pixels from 0 to 255, channels in the order RGB',
            'N x 4 x 6 x 6, as forward',
        ),
        (
            FLAT,
            ImgDataPreprocessor(),
            'in which the pipeline loads them (BGR by mmcv)',
            'N x 4, raw',
        ),
    ],
)
def test_contracts(end, preprocessor, given, returned, tmp_path):
    onnx = pytest.importorskip('onnx')
    network = Network(end, preprocessor).eval()
    image, path = torch.rand(1, 3, 8, 8), tmp_path / 'network.onnx'
    export_onnx(network, image, path)
    told = describe_onnx(path, network, image)
    assert given in told['input']
    assert returned in told['output']
    stored = {each.key: each.value for each in onnx.load(str(path)).metadata_props}
    assert {key: stored[key] for key in told} == told
