"""The life of a module: copied, averaged, pickled, shared, moved, cast, saved and loaded, pruned and parametrised."""

import copy
import io
import pickle

import lightning.pytorch as pl
import pytest
import torch
from cases import each_form, each_module, tensors
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wnseq import (
    GRU,
    LSTM,
    RNN,
    WNGRU,
    WNLSTM,
    LockedDropout,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    WNConv2d,
    WNLSTMCell,
    pixelcnn,
)
from wnseq.nn._module import add_safe_globals


def close(actual, expected, **tolerance):
    torch.testing.assert_close(tensors(actual), tensors(expected), **tolerance)


def save(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return buffer


@each_module
@pytest.mark.parametrize("before", ["nothing", "inference", "a step of training"])
def test_copies_before_and_after_a_forward(case, before):
    training = before != "inference"
    module, x = case.make().train(training), case.input()
    with torch.set_grad_enabled(training):
        result = None if before == "nothing" else module(x)
        copies = [copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))]
    if before == "a step of training":
        sum(tensor.sum() for tensor in tensors(result)).backward()
    expected = module(x)
    for other in copies:
        close(other(x), expected)
        assert other.training == training and [*other.state_dict()] == [*module.state_dict()]
    with torch.no_grad():
        copies[0].v_and_g(module.weight_names[0])[1].zero_()
    close(module(x), expected)  # a deep copy shares nothing


@each_module
def test_a_whole_module_is_saved_and_loaded(case):
    module, x = case.make(), case.input()
    expected = module(x)
    close(torch.load(save(module), weights_only=False)(x), expected)
    with torch.serialization.safe_globals([]):  # puts back what was allowed
        add_safe_globals()
        close(torch.load(save(module), weights_only=True)(x), expected)


OTHERS = [
    lambda: MeanOnlyBatchNorm1d(3),
    lambda: MeanOnlyBatchNorm2d(3),
    lambda: LockedDropout(0.5),
    lambda: LSTM(3, 4),
    lambda: GRU(3, 4),
    lambda: RNN(3, 4),
    lambda: pixelcnn.DownShiftedConv2d(WNConv2d(3, 4, (2, 3))),
]


@pytest.mark.parametrize("make", OTHERS)
def test_a_module_without_weight_norm_is_saved_and_loaded(make):
    module = make()
    with torch.serialization.safe_globals([]):
        add_safe_globals()
        loaded = torch.load(save(module), weights_only=True)
    assert type(loaded) is type(module) and loaded.state_dict().keys() == module.state_dict().keys()


def test_loading_a_whole_module_unasked_is_refused():
    with torch.serialization.safe_globals([]):
        torch.serialization.clear_safe_globals()
        with pytest.raises(pickle.UnpicklingError, match=r"wnseq\.nn\._rnn\.WNLSTM"):
            torch.load(save(WNLSTM(5, 6)), weights_only=True)


@each_form
def test_a_loaded_module_still_guards_its_weights(case):
    with torch.serialization.safe_globals([]):
        add_safe_globals()
        loaded = [copy.deepcopy(case.make()), torch.load(save(case.make()), weights_only=True)]
    for module in loaded:
        with pytest.raises(RuntimeError, match="is no parameter: it is composed"):
            delattr(module, module.weight_names[0])


@each_module
def test_a_state_dict_goes_round_strict_or_not_assigned_or_copied(case):
    module, x = case.make(), case.input()
    expected = module(x)
    for assign in (False, True):
        for device in ("cpu", "meta"):
            if device == "meta" and not assign:
                continue  # nothing can be copied into nothing
            other = case.make(1, device=device)
            state = torch.load(save(module.state_dict()), weights_only=True)
            assert other.load_state_dict(state, assign=assign) == ([], [])
            close(other(x), expected)
    other = case.make(1)
    state = {name: value for name, value in module.state_dict().items() if name != f"{module.weight_names[0]}_g"}
    missing, unexpected = other.load_state_dict({**state, "extra": x}, strict=False)
    assert (missing, unexpected) == ([f"{module.weight_names[0]}_g"], ["extra"])
    plain = case.make_twin(2)
    for assign in (False, True):
        other = case.make(3)
        other.load_state_dict(plain.state_dict(), assign=assign)
        close(other(x), plain(x))


@each_form
def test_comes_to_life_from_the_meta_device(case):
    module = case.make(device="meta")
    assert all(tensor.is_meta for tensor in tensors(module(case.input().to("meta"))))
    module.to_empty(device="cpu")
    torch.manual_seed(4)
    module.reset_parameters()
    close(module(x := case.input()), case.make(4)(x))


@each_module
def test_is_cast_as_torch_s(case):
    for cast in ("double", "bfloat16", "half", "to"):
        module, reference = case.make(), case.make_twin()
        x = case.input()
        for each in (module, reference):
            each.to(torch.float64) if cast == "to" else getattr(each, cast)()
        x = x.to(next(reference.parameters()).dtype)
        assert {p.dtype for p in module.parameters()} == {x.dtype}
        half = x.dtype in (torch.half, torch.bfloat16)
        close(module(x), reference(x), **({"rtol": 0, "atol": 0.03} if half else {}))
        module.float()
        assert {tensor.dtype for tensor in tensors(module(x.float()))} == {torch.float32}


@each_module
def test_an_average_of_models_is_a_model(case):
    for average in (None, get_ema_multi_avg_fn(0.5)):
        model, x = case.make(), case.input()
        model(x)
        averaged = AveragedModel(model, multi_avg_fn=average)
        averaged.update_parameters(model)
        other = case.make(1)
        averaged.update_parameters(other)
        for mean, a, b in zip(averaged.parameters(), model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mean.detach(), (a.detach() + b.detach()) / 2)
        assert all(tensor.isfinite().all() for tensor in tensors(averaged(x)))


@each_form
def test_memory_is_shared(case):
    module = case.make().share_memory()
    assert all(p.is_shared() for p in module.parameters())
    seen = pickle.loads(pickle.dumps(module))
    close(seen(x := case.input()), module(x))


def zero_the_g(module):
    with torch.no_grad():
        module.weight_hh_l0_g.zero_()


@pytest.mark.slow
def test_another_process_writes_into_a_shared_module():
    module = WNLSTM(5, 6).share_memory()
    worker = torch.multiprocessing.get_context("spawn").Process(target=zero_the_g, args=(module,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and (module.weight_hh_l0_g == 0).all()


REFUSED = [
    lambda module, name: prune.l1_unstructured(module, name, 0.5),
    lambda module, name: prune.random_structured(module, name, 0.5, dim=0),
    lambda module, name: prune.identity(module, name),
    lambda module, name: parametrize.register_parametrization(module, name, nn.Identity()),
    lambda module, name: parametrizations.weight_norm(module, name),
    lambda module, name: parametrizations.spectral_norm(module, name),
    lambda module, name: parametrizations.orthogonal(module, name),
    lambda module, name: nn.utils.weight_norm(module, name),
    lambda module, name: nn.utils.spectral_norm(module, name),
    delattr,
]


@each_form
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_what_would_be_lost_on_a_composed_weight_is_refused(case):
    module, x = case.make(), case.input()
    name, keys, expected = module.weight_names[-1], [*module.state_dict()], module(x)
    for change in REFUSED:
        with pytest.raises(RuntimeError, match=f"{name} is no parameter.*{name}_v and {name}_g.*assign a changed copy"):
            change(module, name)
        assert [*module.state_dict()] == keys
        close(module(x), expected)


@pytest.mark.parametrize("module", [WNGRU(5, 6), WNLSTMCell(5, 6)], ids=["WNGRU", "WNLSTMCell"])
def test_v_and_g_may_be_pruned_and_parametrised(module):
    x, name = torch.randn(3, 5), module.weight_names[1]
    prune.l1_unstructured(module, f"{name}_v", 0.5)
    assert ((getattr(module, name) == 0) == (getattr(module, f"{name}_v") == 0)).all()
    prune.remove(module, f"{name}_v")
    parametrize.register_parametrization(module, f"{name}_g", nn.Softplus())
    module(x)
    assert (module.v_and_g(name)[1] > 0).all()


def test_a_key_that_is_no_weight_is_an_ordinary_key():
    module = WNLSTM(5, 6)
    with pytest.raises(KeyError, match="weight_xx"):
        module._parameters["weight_xx"]
    with pytest.raises(RuntimeError, match="weight_hh_l0 is no parameter"):
        module._parameters["weight_hh_l0"]
    del module._parameters["bias_hh_l0"]
    assert "bias_hh_l0" not in module._parameters


class Fit(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, index):
        return sum(tensor.square().mean() for tensor in tensors(self.network(batch)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


AVERAGES = {
    "average": WeightAveraging,
    "EMA": lambda: EMAWeightAveraging(decay=0.5),
    "SWA": lambda: StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1),
}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, loggers and deprecations
@pytest.mark.parametrize("callback", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("network", [WNLSTM, WNLSTMCell])
def test_lightning_averages(callback, network, tmp_path):
    model = Fit(network(5, 6))
    before = copy.deepcopy(model.state_dict())
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[callback()],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.randn(8, 5), batch_size=4))
    after = model.state_dict()
    assert [*after] == [*before]
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(
        after["network." + model.network.weight_names[0] + "_g"],
        before["network." + model.network.weight_names[0] + "_g"],
    )
