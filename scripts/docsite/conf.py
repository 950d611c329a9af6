"""How Sphinx reads the pages and lays them out."""

project = "CrypRQ"
copyright = "the CrypRQ authors"  # the name is Sphinx's
extensions = ["myst_parser", "sphinx.ext.graphviz"]
root_doc = "docs/index"
include_patterns = ["*.md", "**/*.md"]

# Anchors as forges have them, down to the deepest heading of a page.
myst_heading_anchors = 6
nitpicky = True

html_theme = "furo"
html_title = "CrypRQ"
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
graphviz_output_format = "svg"
