"""The documentation site: the pages of this folder, and an API page for each module from its docstrings.

make docs        # docs/_build/index.html
"""

from __future__ import annotations

from sphinx.ext.napoleon import GoogleDocstring

import imdm_dist

project = "imdm_dist"
author = "the developers of imdm_dist"
version = release = imdm_dist.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "imdm_dist"
html_copy_source = False

# Links of the pages to files of the repository lead nowhere here; tests/docs holds every link against the files.
suppress_warnings = ["myst.xref_missing", "ref.python"]
default_role = "code"  # a single backtick is code, as in Markdown
myst_heading_anchors = 3

apidoc_modules = [
    {"path": "../imdm_dist", "destination": "api", "separate_modules": True, "module_first": True, "max_depth": 2}
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True, "ignore-module-all": True}
# What the pages do not need to be made: importing a module must not want a GPU or a cluster.
autodoc_mock_imports = ["apex"]
napoleon_google_docstring = True
# Else what stands before a colon in the docstring of an attribute is taken for its type.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._dedent(self._consume_to_end()))
