"""The two-token language of Sec. 5.2 of arXiv 2605.10518: the rows 00 and 11, equally likely."""

from __future__ import annotations

import numpy as np

ROWS = np.array([[0, 0], [1, 1]])
"""int64 [2, 2]."""
MASK_ID = 2
"""The mask is appended to the vocabulary {0, 1}."""
