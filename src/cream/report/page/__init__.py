"""A run, or several side by side, as one HTML page that needs no network and no server.

`records` reads what a run stored, `sections` and its neighbours turn it into titled pieces of
markup (figures are SVG drawn here), `entries` and `packing` prepare what the explorer shows, and
`document` puts the page together. Nothing runs a model. Texts of models are untrusted everywhere:
`markup.text` is the only way into the markup, and completions reach the browser as compressed JSON
that the page's script shows through ``textContent`` alone.
"""

from cream.report.markup import PageSection
from cream.report.page.document import PageResult, write_full_page, write_page
from cream.report.page.methods import page_parts

__all__ = ["PageResult", "PageSection", "page_parts", "write_full_page", "write_page"]
