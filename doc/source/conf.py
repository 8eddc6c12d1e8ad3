"""Sphinx configuration of the vmsec documentation."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING

from sphinx.ext.apidoc import main as write_api_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
os.environ["SPHINX_APIDOC_OPTIONS"] = "members,show-inheritance"

project = "vmsec"
author = "the vmsec developers"
copyright = author
version = release = importlib.metadata.version("vmsec")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "cliff.sphinxext",
    "openstackdocstheme",
    "oslo_config.sphinxext",
    "reno.sphinxext",
]
html_theme = "openstackdocs"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_use_storyboard = False
openstackdocs_pdf_link = False
html_last_updated_fmt = None
exclude_patterns = ["_build"]

# Annotations name classes without their module; the same name in two packages
# is no fault, and a link less.
suppress_warnings = ["ref.python"]
autodoc_inherit_docstrings = False
# SQLAlchemy's own attributes bring its own cross-references along.
autodoc_default_options = {"exclude-members": "cache_ok, metadata"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
napoleon_use_ivar = True
napoleon_custom_sections = [
    "Units",
    "Crash",
    "Source",
    "Invariants",
    "States",
    "Layout",
]
_DAEMONS = {
    "vmsec-agent": "the agent of a compute node",
    "vmsec-allinone": "all services of vmsec in one process",
    "vmsec-api": "the interface of vmsec for operators",
    "vmsec-controller": "listens to the notifications of the cloud",
    "vmsec-kmc": "the key-management centre",
}
man_pages = [
    ("man/vmsec.1", "vmsec", "seal the disks of virtual machines", author, 1),
    *(
        (f"man/{name}.8", name, text, author, 8)
        for name, text in _DAEMONS.items()
    ),
]

autoprogram_cliff_application = "vmsec"


def _write_api_pages(_app: Sphinx) -> None:
    """One page per package of the product, made anew for every build."""
    pages = HERE / "contributor" / "api"
    shutil.rmtree(pages, ignore_errors=True)
    write_api_pages(
        [
            "--force",
            "--separate",
            "--no-toc",
            "--module-first",
            "--output-dir",
            str(pages),
            str(HERE.parents[1] / "vmsec"),
            str(HERE.parents[1] / "vmsec" / "kmc" / "migrations"),
        ]
    )


def setup(app: Sphinx) -> None:
    """Have the API pages written before they are read."""
    app.connect("builder-inited", _write_api_pages)
