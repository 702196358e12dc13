"""What others have made, brought into this framework's own form."""

from imdm_dist.interop.importing import import_checkpoint
from imdm_dist.interop.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint"]
