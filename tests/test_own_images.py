"""Every command of the page about one's own images, as it stands there, in an empty folder."""

import runpy
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from test_docs import ROOT, blocks_of, is_config, is_program

PAGE = ROOT / 'docs' / 'your-own-images.md'


def commands() -> list[list[str]]:
    text = '\n'.join(block.text for block in blocks_of(PAGE) if block.language == 'sh')
    return [shlex.split(line) for line in text.replace('\\\n', ' ').splitlines() if line.strip()]


def run(command: list[str]) -> None:
    python, tool, *arguments = command
    assert python == 'python'
    # What mmengine keeps for the process, which has one run otherwise.
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        patch.setattr(sys, 'argv', [tool, *arguments])
        if tool == 'tools/diagnose.py':  # always ends by its status
            with pytest.raises(SystemExit, match=r'^0$'):
                runpy.run_path(str(ROOT / tool), run_name='__main__')
        else:
            runpy.run_path(str(ROOT / tool), run_name='__main__')


def test_from_a_folder_of_images_to_a_small_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(PAGE):
        if is_program(block):
            exec(compile(block.text, str(PAGE), 'exec'), {})
        elif is_config(block):
            (tmp_path / 'shapes.py').write_text(block.text)
    for command in commands():
        run(command)
    printed = capfd.readouterr().out
    assert 'traced, and MACs counted, on 1x3x32x32' in printed
    assert 'Channels before and after' in printed
    assert 'mean [84, 84, 84]' in printed
    full, small = (
        torch.load(path, weights_only=False)['state_dict']['backbone.layer3.0.conv1.weight']
        for path in ('work_dirs/shapes/epoch_8.pth', 'finetuned/epoch_4.pth')
    )
    assert small.numel() < full.numel()
