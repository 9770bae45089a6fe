"""What a measured time is good for: one device, with one version of torch."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mmprune.errors import InputError
from mmprune.schema import Count

CPU_INFO = Path('/proc/cpuinfo')


@dataclass(frozen=True)
class Device:
    """Where times were measured.

    Attributes:
        kind: ``'cpu'`` or ``'cuda'``.
        name: Model of the processor or of the GPU.
        threads: CPU threads of torch.
        torch_version: With the version of CUDA if that was used.
        system: Operating system and architecture.
    """

    kind: str
    name: str
    threads: Count
    torch_version: str
    system: str

    @classmethod
    def of(cls, device: torch.device | str = 'cpu') -> Device:
        """The device at hand.

        Raises:
            InputError: There is no such device.
        """
        device = torch.device(device)
        if device.type == 'cuda' and not torch.cuda.is_available():
            raise InputError(f"device '{device}': torch finds no CUDA device; use 'cpu'")
        is_cuda = device.type == 'cuda'
        return cls(
            kind=device.type,
            name=torch.cuda.get_device_name(device) if is_cuda else processor(),
            threads=torch.get_num_threads(),
            torch_version=torch.__version__ + (f', CUDA {torch.version.cuda}' if is_cuda else ''),
            system=f'{platform.system()} {platform.machine()}',
        )

    def differences(self, other: Device) -> list[str]:
        """What is another on the other device, in words."""
        ours, theirs = asdict(self), asdict(other)
        return [f'{n}: {ours[n]!r}, now {theirs[n]!r}' for n in ours if ours[n] != theirs[n]]

    def __str__(self) -> str:
        threads = f', {self.threads} threads' if self.kind == 'cpu' else ''
        return f'{self.name}{threads}, torch {self.torch_version}, {self.system}'


def processor(info: Path = CPU_INFO) -> str:
    """Model of the processor."""
    if info.is_file():
        for line in info.read_text(encoding='utf-8', errors='replace').splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name' and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
