"""Conversion of whole models from torch.nn to weight normalisation and back, and to smaller ones."""

from wnseq.convert._forms import state_dict_as
from wnseq.convert._models import remove_weight_norm, weight_normalize
from wnseq.convert._report import ConversionReport, conversion_report
from wnseq.convert._slim import slim

__all__ = ["ConversionReport", "conversion_report", "remove_weight_norm", "slim", "state_dict_as", "weight_normalize"]
