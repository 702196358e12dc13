"""Text to fixed-length token files: reading, tokenizing, packing, and the order rows are visited in."""

from imdm_dist.data.prepare import Dataset, prepare
from imdm_dist.data.row_order import RowOrder
from imdm_dist.data.token_file import TokenFile
from imdm_dist.data.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Dataset", "RowOrder", "TokenFile", "Tokenizer", "load_tokenizer", "prepare"]
