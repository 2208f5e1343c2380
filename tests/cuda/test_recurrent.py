"""The recurrent layers on a GPU: torch's results, no warning of weights out of place, no wait for the device."""

import copy

import pytest
import torch
from cases import each_sequence, every_sequence, tensors

from wnseq.recipes import speed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no GPU")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def on_gpu(case, dtype=torch.float32):
    """Return a module and its twin of equal weights, and an input; a row of v is zeros."""
    module, twin = case.make(dtype=dtype), case.twin(*case.args, **case.kwargs, dtype=dtype)
    with torch.no_grad():
        module.v_and_g(module.weight_names[0])[0][0] = 0
        module.accept_v_and_g()
    twin.load_state_dict({name: getattr(module, name).detach() for name in twin.state_dict()})
    return module.cuda(), twin.cuda(), case.input(dtype=dtype).cuda()


def gradients(module, result, names):
    total = sum(part.float().sin().sum() for part in tensors(result))
    return torch.autograd.grad(total, [module.get_parameter(name) for name in names])


@every_sequence
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_outputs_and_gradients_are_torchs(case, dtype):
    module, twin, x = on_gpu(case, dtype)
    found, expected = module(x), twin(x)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(tensors(found), tensors(expected), **near)
    biases = [name for name, _ in twin.named_parameters() if name.startswith("bias")]
    if biases:
        torch.testing.assert_close(gradients(module, found, biases), gradients(twin, expected, biases), **near)
    total = sum(part.sin().sum() for part in tensors(module(x)))
    total.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@each_sequence
def test_in_autocast_the_dtypes_are_torchs(case):
    module, twin, x = on_gpu(case)
    with torch.autocast("cuda", torch.float16):
        found, expected = tensors(module(x)), tensors(twin(x))
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@each_sequence
def test_nothing_waits_for_the_device(case):
    module, _, x = on_gpu(case)
    module(x)[0].sum().backward()  # the first call makes cuDNN's own state
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(x)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_sequence
def test_resets_are_those_of_a_cpu(case):
    module, _, x = on_gpu(case)
    reset = torch.rand(x.shape[:-1]) < 0.3
    expected = tensors(copy.deepcopy(module).cpu()(x.cpu(), reset=reset))
    found = [part.cpu() for part in tensors(module(x, reset=reset.cuda()))]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_speed_recipe_runs_on_the_gpu(tmp_path):
    options = ["--sizes", "[35x20x650x2]", "--device", "cuda", "--pairs", "3", "--out", str(tmp_path)]
    speed.main(["layers", *options])
    assert list(tmp_path.rglob("*.csv"))
