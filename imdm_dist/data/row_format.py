"""What data, models, couplings and evaluators must have in common, told before anything is packed or made."""

from __future__ import annotations

from dataclasses import dataclass

from imdm_dist.config.data import DataConfig
from imdm_dist.data.corpus import data_root
from imdm_dist.data.prepare import NotPreparedError, prepare
from imdm_dist.data.tokenizer import load_tokenizer

SYNTHETIC = "synthetic"
"""In place of a tokenizer's name: the language that has none."""


@dataclass(frozen=True)
class RowFormat:
    """The tokens that rows consist of."""

    name: str
    """What data.tokenizer calls the tokenizer."""
    length: int
    """Tokens in a row."""
    most: int
    """Ids that the settings ask for, the mask's included; a BPE of a short text has fewer."""
    vocab_size: int | None = None
    """Ids that there are; None if a BPE is still to be trained, of which mask and fingerprint are not known either."""
    mask_id: int | None = None
    tokenizer: str | None = None
    """Fingerprint; None for the synthetic language."""

    def unlike(self, ours: RowFormat, length: bool = True) -> str | None:
        """What these have that `ours`, the data's, have not, with the remedy; None if they are alike or may still be.

        Args:
            length: whether rows must be equally long.
        """
        words = []
        if length and self.length != ours.length:
            words.append(
                f"has rows of {self.length} tokens, data.length is {ours.length}: set data.length={self.length}"
            )
        theirs_size, our_size = self.vocab_size, ours.vocab_size
        if theirs_size is not None and our_size is not None:
            same = theirs_size == our_size
        elif self.name == ours.name or SYNTHETIC in (self.name, ours.name):
            same = self.most == ours.most
        else:
            same = (theirs_size or 0) <= ours.most and (our_size or 0) <= self.most
        known = theirs_size is not None and our_size is not None
        if not same and (self.name, self.most) != (ours.name, ours.most):
            what = f"data.tokenizer={self.name}"
            if self.name == SYNTHETIC:
                what = f"data.source={SYNTHETIC}"
            elif self.name == ours.name:
                what = f"data.bpe_size={self.most - 1}"
            there, here = theirs_size or self.most, our_size or ours.most
            words.append(f"has {there} ids, data.tokenizer={ours.name} has {here}: set {what}")
        elif not same or (known and (self.tokenizer, self.mask_id) != (ours.tokenizer, ours.mask_id)):
            words.append(
                f"was made with another tokenizer than data.tokenizer={ours.name} is now: "
                "give the data.* settings it was made with, and the same text"
            )
        return "; it ".join(words) or None


def row_format(config: DataConfig) -> RowFormat:
    """The tokens that these settings lead to; nothing is built.

    Raises:
        ValueError: a file or a tokenizer is missing or wrong.
    """
    try:
        data = prepare(config, may_build=False)
    except NotPreparedError:
        if config.source == SYNTHETIC:
            return RowFormat(SYNTHETIC, 2, 3)
        if config.tokenizer == "embedded":
            return RowFormat(config.tokenizer, config.length, config.bpe_size + 1)
        loaded = load_tokenizer(config.tokenizer, data_root(config)[0])
        return _known(config, config.length, loaded.vocab_size, loaded.mask_id, loaded.fingerprint)
    train = data.train
    fingerprint = data.tokenizer.fingerprint if data.tokenizer else None
    return _known(config, train.length, train.vocab_size, train.mask_id, fingerprint)


def _known(config: DataConfig, length: int, vocab_size: int, mask_id: int, tokenizer: str | None) -> RowFormat:
    name = SYNTHETIC if config.source == SYNTHETIC else config.tokenizer
    most = config.bpe_size + 1 if name == "embedded" else vocab_size
    return RowFormat(name, length, most, vocab_size, mask_id, tokenizer)
