"""Settings of Sphinx, which makes pages of this directory: "make doc"."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "py"))
sys.dont_write_bytecode = True

project = "Wallaroo"
author = "the Wallaroo authors"
project_copyright = author
root_doc = "index"
extensions = ["sphinx.ext.autodoc"]
needs_sphinx = "5.0"
language = "en"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
highlight_language = "none"
# "--workers" has two hyphens.
smartquotes = False

html_theme = "alabaster"
html_theme_options = {
    "description": "Python pipelines with state, exactly once",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
# No page fetches anything from elsewhere.
html_static_path: list = []
html_show_sourcelink = False
html_show_copyright = False
html_last_updated_fmt = None
