"""Sphinx's settings for `make docs`. What it reads is laid out by stage.py."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import mmprune  # noqa: E402  (found by the line above)

project = 'mmprune'
copyright = 'the mmprune contributors'
release = mmprune.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
root_doc = 'index'
exclude_patterns = ['files']

html_theme = 'furo'
html_title = f'mmprune {release}'
html_show_sourcelink = False
html_copy_source = False

# Links to sections are checked too: their names are those that GitHub gives.
myst_heading_anchors = 6

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
copybutton_exclude = '.linenos, .gp, .go'


def hide_bases(app: Sphinx, name: str, thing: type, options: object, bases: list[object]) -> None:
    """Bases that are of no use to a reader are left out."""
    bases[:] = [base for base in bases if base is not object]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect('autodoc-process-bases', hide_bases)
