"""Torch's kernels as a back end: each kind, padded and packed."""

import pytest
import torch
from cases import SEQUENCE, Case, each, tensors
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq._recurrence.call import make_call, restore
from wnseq._recurrence.torch_kernel import TORCH_KERNEL

FORMS = {"rnn": [{}, {"nonlinearity": "relu"}], "lstm": [{}, {"proj_size": 3}], "gru": [{"batch_first": True}]}
CASES = [Case(kind, *SEQUENCE[kind], kwargs=form) for kind, forms in FORMS.items() for form in forms]


@each(CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_it_runs_the_kernel_of_a_module_of_torch(case, packed):
    module, x, states = case.make_twin(), case.input(), case.states(3)
    if packed:
        x = pack_padded_sequence(x, [4, 3, 1], case.kwargs.get("batch_first", False))
    call = make_call(module, list(module.parameters()), x, states)
    assert TORCH_KERNEL.why_not(call) is None and TORCH_KERNEL.is_faster(call)
    found, expected = (tensors(result) for result in (restore(module, x, *TORCH_KERNEL.run(call)), module(x, states)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
