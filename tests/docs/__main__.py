"""Brings the sections that are made from the code up to date: python -m tests.docs"""

import sys

from tests.docs import ROOT, filled, pages

for page in pages():
    before = page.read_text()
    after = filled(before)
    if after != before:
        page.write_text(after)
        sys.stderr.write(f"brought up to date: {page.relative_to(ROOT)}\n")
