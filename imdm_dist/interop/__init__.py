"""Imports of published checkpoints (MDLM, SDTT, IMDM) into run folders of this framework."""

from imdm_dist.interop.importing import import_checkpoint
from imdm_dist.interop.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint"]
