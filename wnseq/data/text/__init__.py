"""Text: corpora, tokenizers, and batches for truncated back-propagation through time."""

from wnseq.data.text.bptt import IGNORE, TextBatch, shard
from wnseq.data.text.corpora import Corpus, open_corpus
from wnseq.data.text.datamodule import TextDataModule
from wnseq.data.text.tokenizer import (
    LINE_END,
    UNKNOWN,
    ByteTokenizer,
    CharTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
)
from wnseq.data.text.tokenizer_training import train_tokenizer
from wnseq.data.text.vocabulary import reorder_rows

__all__ = [
    "IGNORE",
    "LINE_END",
    "UNKNOWN",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "SubwordTokenizer",
    "TextBatch",
    "TextDataModule",
    "Tokenizer",
    "WordTokenizer",
    "open_corpus",
    "reorder_rows",
    "shard",
    "train_tokenizer",
]
