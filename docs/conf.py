"""Settings of the site: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import layerscope

project = "layerscope"
author = "The layerscope developers"
project_copyright = author
version = release = layerscope.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sitebuilder.extension",
]
exclude_patterns = ["sitebuilder", "**.ipynb_checkpoints"]
nitpicky = True
default_role = "name"

# Pages are read as a host shows them; every block of Python is executed, see sitebuilder/blocks.py.
suppress_warnings = ["myst-nb.lexer"]  # of cells that are not executed, under `-D`
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["runs/*"]  # executed already, for hours
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds of a cell, also where the machine is busy
nb_output_stderr = "remove"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # from other hosts

autodoc_typehints = "none"  # docstrings say more than annotations do
autodoc_member_order = "bysource"
autosummary_generate = False  # sitebuilder/reference.py writes the pages
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "layerscope"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
