"""What tools/print_config.py does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmprune.config import files_of, load_config
from mmprune.errors import check_choice
from mmprune.fileio import check_outputs, write_text


def print_config(
    config: str | os.PathLike[str],
    cfg_options: dict[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> str:
    """Print a config with all that it inherits and all that the command line sets.

    Args:
        config: A config file, which may be one of mmprune's by its mere name.
        cfg_options: Values to set in the config, by dotted key.
        out: A file to write it to as well, which is a config that needs no other file.

    Returns:
        The text.

    Raises:
        InputError: The config cannot be read.
    """
    cfg = load_config(config, cfg_options)
    if out is not None:
        check_choice('the suffix of --out', Path(out).suffix, ('.py',))
    check_outputs([out], inputs=files_of(cfg))
    text = cfg.pretty_text
    print(f'# {cfg.filename}', text, sep='\n')
    if out is not None:
        write_text(text, out)
    return text
