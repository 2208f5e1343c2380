"""Text: corpora and labelled texts, tokenizers, and batches of streams or of whole texts."""

from wnseq.data.text.bptt import IGNORE, TextBatch, shard, text_batches
from wnseq.data.text.corpora import Corpus, open_corpus
from wnseq.data.text.datamodule import TextDataModule
from wnseq.data.text.encoding import exp
from wnseq.data.text.labelled import LabelledText, open_labelled
from wnseq.data.text.labelled_batches import LabelledBatch, pad_texts
from wnseq.data.text.labelled_datamodule import LabelledTextDataModule
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
from wnseq.data.text.vocabulary import match_tokens, reorder_rows

__all__ = [
    "IGNORE",
    "LINE_END",
    "UNKNOWN",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "LabelledBatch",
    "LabelledText",
    "LabelledTextDataModule",
    "SubwordTokenizer",
    "TextBatch",
    "TextDataModule",
    "Tokenizer",
    "WordTokenizer",
    "exp",
    "match_tokens",
    "open_corpus",
    "open_labelled",
    "pad_texts",
    "reorder_rows",
    "shard",
    "text_batches",
    "train_tokenizer",
]
