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
from wnseq.data.text.vocabulary import match_rows, read_vocabulary

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
    "match_rows",
    "open_corpus",
    "read_vocabulary",
    "shard",
    "train_tokenizer",
]
