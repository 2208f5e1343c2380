"""The error inputs of torch's own database of modules: wnseq's raise the same, in words that torch's tests match."""

import importlib.util
import itertools
import sys
import types
import unittest
from unittest import mock

import pytest
import torch

import wnseq

COUNTERPARTS = {
    "RNN": [wnseq.WNRNN],
    "GRU": [wnseq.WNGRU, wnseq.GRU],
    "LSTM": [wnseq.WNLSTM, wnseq.LSTM],
    "RNNCell": [wnseq.WNRNNCell],
    "GRUCell": [wnseq.WNGRUCell],
    "LSTMCell": [wnseq.WNLSTMCell],
}


@pytest.fixture(scope="module")
def database():
    """Import torch's database, which takes a second, where it is used."""
    if importlib.util.find_spec("expecttest") is None:  # torch's test classes, none of which is used, derive from it
        sys.modules["expecttest"] = types.ModuleType("expecttest")
        sys.modules["expecttest"].TestCase = unittest.TestCase
    with mock.patch.object(torch.backends, "disable_global_flags"):  # it would hold for every test of the process
        return importlib.import_module("torch.testing._internal.common_modules")


@pytest.mark.filterwarnings("ignore:.* means True, as in torch:UserWarning")
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_every_error_input_is_refused_as_by_torch(name, database):
    (info,) = (info for info in database.module_db if info.module_cls.__name__ == name)
    errors = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert len(errors) >= 4
    for cls, error in itertools.product((info.module_cls, *COUNTERPARTS[name]), errors):
        given = error.module_error_input
        arguments, inputs = given.constructor_input, given.forward_input
        with pytest.raises(error.error_type, match=error.error_regex):
            module = cls(*arguments.args, **arguments.kwargs)
            if error.error_on != database.ModuleErrorEnum.CONSTRUCTION_ERROR:
                with torch.no_grad():
                    module(*inputs.args, **inputs.kwargs)
