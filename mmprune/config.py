"""Finding and reading config files."""

import json
import logging
import os
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError
from mmengine.logging import print_log

from mmprune.errors import InputError, MissingFileError
from mmprune.renamed_configs import RENAMED

_PACKAGE = Path(__file__).resolve().parent
# In a normal install, and in a source tree.
CONFIG_ROOTS = (_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs')


def load_config(
    config: str | os.PathLike[str] | Config, cfg_options: dict[str, Any] | None = None
) -> Config:
    """Read a config, and set what the command line overrides.

    Args:
        config: A config file, which :func:`find_config` finds, or a config
            that was read already, which stays as it is.
        cfg_options: Values by dotted key, such as ``{'train_cfg.max_epochs': 3}``.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If the file is not a config, or an option does not fit it.
    """
    if isinstance(config, Config):
        cfg, name = deepcopy(config), config.filename
    else:
        name = str(config)
        cfg = _read(find_config(config), name)
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError) as error:
        raise InputError(f'{name}: --cfg-options {cfg_options} do not fit: {error}') from error
    return cfg


def find_config(config: str | os.PathLike[str]) -> Path:
    """Find a config file, also one that comes with mmprune.

    Args:
        config: A path, a path inside mmprune's ``configs``, or the mere name
            of one of the files there; names of before 0.2 are found, and the new ones said.

    Raises:
        MissingFileError: If there is none; the message offers similar names.
    """
    path = Path(config).expanduser()
    if path.is_file():
        return path
    own = [
        (file, root)
        for root in CONFIG_ROOTS
        if root.is_dir()
        for file in sorted(root.rglob('*.py'))
        if '_base_' not in file.parts
    ]
    for file, root in own:
        if file.name == str(config) or file == root / path:
            return file
    new_name = RENAMED.get(path.name)
    for file, _ in own:
        if file.name == new_name:
            print_log(f'{config} is called {new_name} since 0.2', 'current', logging.WARNING)
            return file
    names = sorted({file.name for file, _ in own})
    close = get_close_matches(path.name, names, n=3) or names
    raise MissingFileError(
        f'{config}: no such config file, neither from here ({Path.cwd()}) nor among those of '
        f'mmprune, which has {", ".join(close) or "none here"}.'
    )


def _read(file: Path, name: str) -> Config:
    """Read a config file; what it imports and inherits is read with it."""
    try:
        return Config.fromfile(file)
    except FileNotFoundError as error:
        raise MissingFileError(f'{name}: a file it builds on is missing: {error}') from error
    except ImportError as error:
        raise InputError(f'{name}: {error}') from error
    except (
        OSError,
        SyntaxError,
        ConfigParsingError,
        json.JSONDecodeError,
        yaml.YAMLError,
    ) as error:
        reason = str(error).rstrip('!.')
        raise InputError(
            f'{name}: not a config file: {reason}. A config is a Python, YAML or JSON file of '
            'settings, such as configs/digits/resnet-small_1xb64_digits.py.'
        ) from error
