"""The error inputs of torch's own database of modules: wnseq's raise the same, in words that torch's tests match."""

import importlib.util
import re
import sys
import types
import unittest
from unittest import mock

import pytest
import torch

import wnseq

if importlib.util.find_spec("expecttest") is None:  # torch's test classes, none of which is used, are derived from it
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase

with mock.patch.object(torch.backends, "disable_global_flags"):  # it would hold for every test of the process
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

COUNTERPARTS = {
    "RNN": [wnseq.WNRNN],
    "GRU": [wnseq.WNGRU, wnseq.GRU],
    "LSTM": [wnseq.WNLSTM, wnseq.LSTM],
    "RNNCell": [wnseq.WNRNNCell],
    "GRUCell": [wnseq.WNGRUCell],
    "LSTMCell": [wnseq.WNLSTMCell],
}


def error_inputs(info):
    return info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)


INPUTS = [
    pytest.param(cls, error, id=f"{cls.__module__[:5]}{cls.__name__}-{number}")
    for info in module_db
    if info.module_cls.__name__ in COUNTERPARTS and info.module_error_inputs_func
    for number, error in enumerate(error_inputs(info))
    for cls in (info.module_cls, *COUNTERPARTS[info.module_cls.__name__])
]


def test_the_database_has_errors_of_every_module():
    found = {param.values[0] for param in INPUTS}
    assert found >= {cls for classes in COUNTERPARTS.values() for cls in classes} and len(INPUTS) > 100


@pytest.mark.filterwarnings("ignore:.* means True, as in torch:UserWarning")
@pytest.mark.parametrize(("cls", "error"), INPUTS)
def test_an_error_input_is_refused_as_by_torch(cls, error):
    given = error.module_error_input
    arguments, inputs = given.constructor_input, given.forward_input

    def construct():
        return cls(*arguments.args, **arguments.kwargs)

    with pytest.raises(error.error_type) as raised:
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            construct()
        else:
            module = construct()
            with torch.no_grad():
                module(*inputs.args, **inputs.kwargs)
    assert re.search(error.error_regex, str(raised.value))
