import copy
import csv
import dataclasses
import functools
import itertools
import math
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import wnseq
from wnseq.data.text import IGNORE, TextBatch, TextDataModule, Tokenizer, WordTokenizer, open_corpus
from wnseq.data.text.bptt import Streams
from wnseq.nn import WNModule, composed_weight, explain_backend
from wnseq.nn._reused_weight import compose_in
from wnseq.recipes import language_model
from wnseq.recipes.language_model import (
    Evaluation,
    LanguageModel,
    LanguageModelCLI,
    Network,
    Sampling,
    exp,
    generate,
    main,
    sample,
    score,
)
from wnseq.training import checkpoint_files, checkpoint_io
from wnseq.training.cli.respell import respell

WORDS = ["the", "weight", "of", "a", "word", "is", "its", "scale", "times", "its", "direction", "and", "no", "more"]
SMALL = [
    "--model.hidden_size=16",
    "--model.dropout=0",
    "--data.batch_size=4",
    "--data.bptt=8",
    "--trainer.log_every_n_steps=1",
    "--model.schedule=cosine",  # and so a plain embedding: a fit chooses them together
    "--model.sampling.max_new_tokens=3",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own with a text in it."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randint(len(WORDS), (4000,), generator=generator).tolist()
    lines = [" ".join(WORDS[k] for k in order[at : at + 10]) for at in range(0, 4000, 10)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=5):
    return main(["fit", "--data.corpus=text.txt", *SMALL, f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/language_model").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_words_that_were_never_seen_cost_what_they_hold():
    """Of eight letters out of eight each word holds 24 bits, which a model that predicts ``<unk>`` does not save."""
    draw_letters = random.Random(0)
    lines = [" ".join("".join(draw_letters.choices("abcdefgh", k=8)) for _ in range(8)) for _ in range(500)]
    Path("random.txt").write_text("\n".join(lines) + "\n")
    metrics = fit("--data.corpus=random.txt", "--data.tokenizer=word", "--data.vocabulary_size=20", steps=20)
    assert metrics["test/nats_per_token"] / math.log(2) / 9 < 24 / 9 < metrics["test/bits_per_byte"]
    assert metrics["test/bits_per_character"] == metrics["test/bits_per_byte"]


@pytest.mark.figures
def test_a_run_learns_and_leaves_what_it_says(capsys):
    size = ["--model.hidden_size=48", "--data.batch_size=8", "--data.bptt=16", "--model.learning_rate=0.02"]
    metrics = fit("--data.tokenizer=char", *size, "--trainer.max_epochs=1", steps=-1)
    assert metrics["test/nats_per_token"] < 1.5 < math.log(len(set("".join(WORDS))))
    printed = capsys.readouterr().out
    run = Path("runs/language_model/1")
    for left in ("checkpoints/best.ckpt", "metrics.csv", "tensorboard", "curves.png", "gates.png", "config.yaml"):
        assert (run / left).exists(), left
    assert "A sample:" in printed and "xz, having seen the training part" in printed
    for name in ("checkpoints/best.ckpt", "metrics.csv", "curves.png", "test/bits_per_byte"):
        assert name in printed
    corpus = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["wnseq"]["corpus_sha256"]
    assert corpus[:12] in printed and corpus in (run / "hparams.yaml").read_text()


def test_the_units_agree_with_each_other():
    metrics = fit("--data.tokenizer=byte")
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/nats_per_token"]))
    assert metrics["test/bits_per_byte"] == pytest.approx(metrics["test/nats_per_token"] / math.log(2))
    assert metrics["test/bits_per_character"] == pytest.approx(metrics["test/bits_per_byte"])  # the text is ASCII


@pytest.mark.parametrize("norm", ["weight", "none"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru", "minlstm", "mlstm"])
def test_every_cell_and_norm_trains(cell, norm):
    options = (f"--model.cell={cell}", f"--model.norm={norm}", "--data.tokenizer=word", "--model.num_layers=2")
    assert math.isfinite(fit(*options, steps=3)["test/nats_per_token"])


def test_both_norms_start_as_the_same_function():
    networks = []
    for norm in ("weight", "none"):
        torch.manual_seed(0)
        networks.append(Network(11, "lstm", norm, 8, 8, 2, 0.0, True, 1.0).eval())
    tokens = torch.randint(11, (5, 3))
    torch.testing.assert_close(networks[0](tokens)[0], networks[1](tokens)[0])


@pytest.mark.parametrize(("cell", "gate"), [("lstm", slice(8, 16)), ("gru", slice(8, 16))])
def test_the_gate_that_keeps_memory_starts_open(cell, gate):
    for norm in ("weight", "none"):
        rnn = Network(11, cell, norm, 8, 8, 1, 0.0, True, 1.0).rnn
        assert (rnn.bias_ih_l0[gate] + rnn.bias_hh_l0[gate] == 1).all()


@pytest.mark.parametrize(
    ("cell", "gate", "start"), [("minlstm", slice(8, 16), 1), ("mlstm", slice(8, 16), 1), ("mingru", slice(8), -1)]
)
def test_the_gate_that_keeps_memory_starts_open_in_the_minimal_cells(cell, gate, start):
    for norm in ("weight", "none"):
        bias = Network(11, cell, norm, 8, 8, 1, 0.0, True, 1.0).rnn.bias_ih_l0
        assert (bias[gate] == start).all() and (bias != start).sum() == len(bias) - 8


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (["constant"], [1, 1, 1, 1, 1, 1]),
        (["constant", "--model.warmup=2"], [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (["cosine"], [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]),
        (["decay", "--model.decay_after=1", "--model.decay_factor=0.1"], [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules(schedule, expected):
    name, *more = schedule
    fit(f"--model.schedule={name}", *more, "--trainer.limit_train_batches=2", steps=6)
    with Path("runs/language_model/1/metrics.csv").open() as log:
        rates = [float(row["lr-AdamW/pg1"]) for row in csv.DictReader(log) if row["lr-AdamW/pg1"]]
    assert rates == pytest.approx([5e-3 * factor for factor in expected])


def test_batches_of_another_length_have_a_step_of_their_size(monkeypatch):
    """Without momentum and clipping a step of SGD is the step size times the gradient."""
    seen, accumulated = [], 2
    step = torch.optim.SGD.step
    note = lambda self, closure=None: (step(self, closure), seen.append(self.param_groups[0]["lr"]))[0]  # noqa: E731
    monkeypatch.setattr(torch.optim.SGD, "step", note)
    sgd = ["--model.optimizer=sgd", "--model.learning_rate=1", "--model.schedule=constant"]
    fit(*sgd, "--data.bptt=20", "--data.random_bptt=true", f"--trainer.accumulate_grad_batches={accumulated}", steps=4)
    data = TextDataModule("text.txt", batch_size=4, bptt=20, random_bptt=True)
    data.setup("fit")
    lengths = [len(batch.inputs) for batch in itertools.islice(data.train_dataloader(), 4 * accumulated)]
    means = [sum(lengths[k : k + accumulated]) / accumulated for k in range(0, len(lengths), accumulated)]
    assert seen == pytest.approx([length / 20 for length in means]) and len(set(seen)) > 1


def test_the_plateau_schedule_lowers_the_rate_when_validation_does_not_improve():
    fit("--model.schedule=plateau", "--model.optimizer=sgd", "--model.learning_rate=1e-6", "--trainer.max_epochs=4",
        "--trainer.limit_train_batches=1", "--trainer.check_val_every_n_epoch=1", steps=-1)  # fmt: skip
    optimizer = torch.load(newest(), weights_only=True)["optimizer_states"][0]
    assert optimizer["param_groups"][0]["lr"] in (5e-7, 2.5e-7, 1.25e-7)


def test_a_plateau_that_is_stopped_in_every_epoch_ends_where_the_unbroken_one_ends(monkeypatch):
    options = ("--model.schedule=plateau", "--model.optimizer=sgd", "--model.learning_rate=1e-6", "--model.dropout=0",
               "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1",
               "--trainer.max_epochs=4")  # fmt: skip
    Path("stop_lm.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def __init__(self, step: int): self.step = step\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == self.step: raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    fit(*options, steps=-1)
    whole, resume = torch.load(newest(), weights_only=True), []
    for step in (2, 4, 8, 10):
        with pytest.raises(SystemExit):
            fit(*options, *resume, "--trainer.callbacks=stop_lm.Stop", f"--trainer.callbacks.step={step}", steps=-1)
        resume = ["--ckpt_path=last"]
    fit(*options, *resume, steps=-1)
    resumed = torch.load(newest(), weights_only=True)
    assert whole["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1.25e-7)
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_limiting_the_evaluation_keeps_the_units_true():
    fit("--data.tokenizer=byte", steps=5)
    cold = ["--data.eval_bptt=16", "--data.eval_reset_state=true", "--data.eval_batch_size=1"]
    some = main(["test", "--ckpt_path=last", "--data.corpus=text.txt", *cold, "--trainer.limit_test_batches=3"])
    assert some["test/bits_per_byte"] == pytest.approx(some["test/nats_per_token"] / math.log(2))


def test_a_model_without_data_says_what_it_lacks():
    loader = [TextBatch(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long), True)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, **quiet)
    with pytest.raises(ValueError, match=r"no network yet: fit with a TextDataModule, or call build"):
        trainer.fit(LanguageModel(), loader, loader)


def test_an_overflowing_perplexity_is_infinite():
    assert exp(1.0) == math.e and exp(1000.0) == math.inf


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


@pytest.mark.parametrize(
    "more",
    [
        ["--model.average=ema", "--model.average_epochs=0.02", "--data.random_bptt=true", "--data.bptt=10"],
        ["--model.average=asgd", "--model.average_patience=1", "--model.optimizer=sgd", "--model.learning_rate=60"],
    ],
    ids=["ema", "asgd"],
)  # fmt: skip
def test_a_resumed_average_is_the_uninterrupted_one_to_the_bit(more, capsys):
    same = [
        "--data.tokenizer=char",
        "--model.schedule=constant",
        *more,
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=2",
    ]
    fit(*same, steps=14)
    whole = torch.load(newest(), weights_only=True)
    averaged, last = whole["state_dict"], whole["current_model_state"]
    assert any(not torch.equal(averaged[name], last[name]) for name in last)
    assert ("averaging the weights from step" in capsys.readouterr().out) == ("--model.average=asgd" in more)
    fit(*same, steps=7)
    path = newest()
    fit(*same, f"--ckpt_path={path}", steps=14)
    resumed = torch.load(path, weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())


def test_a_run_whose_subwords_have_a_size_goes_on_with_the_same_words(capsys):
    generator = random.Random(0)
    Path("text.txt").write_text("".join(f"{generator.randrange(10**9)}\n" for _ in range(2000)))
    size = "--data.vocabulary_size=300"
    fit(size, steps=2)
    fit(size, "--ckpt_path=last", steps=3)
    main(["fit", "--resume=last", "--trainer.max_steps=4"])
    assert torch.load("runs/language_model/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    with pytest.raises(SystemExit):
        main(["fit", "--resume=last", "--data.vocabulary_size=310"])
    assert "has a size of its own, 300 entries, and vocabulary_size is 310" in capsys.readouterr().err


@pytest.mark.parametrize("refused", ["--data.bptt=7", "--data.eval_batch_size=3", "--model.hidden_size=9"])
def test_a_refused_resume_leaves_the_run_as_it_was(refused, capsys):
    fit("--data.tokenizer=char", steps=3)
    run = Path("runs/language_model/1")

    def content():  # but for the file that TensorBoard's writer opens at once
        files = (path for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name)
        return {path: path.read_bytes() for path in files}

    before = content()
    resume = ["fit", f"--resume={run}", "--trainer.max_steps=5"]
    with pytest.raises(SystemExit):
        main([*resume, refused])
    assert refused.partition("=")[0].rpartition(".")[2] in capsys.readouterr().err
    assert content() == before
    main(resume)


@pytest.mark.parametrize("order", ["--data.partial_shuffle=true", "--data.reset_state=true"])
def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(order):
    options = ("--model.dropout=0.3", "--model.schedule=constant", "--trainer.limit_val_batches=2")
    options += ("--model.weight_drop=0.3", order, "--trainer.limit_train_batches=5")
    fit(*options, steps=14)
    whole = weights(newest())
    fit(*options, steps=7)
    fit(*options, "--ckpt_path=last", steps=14)
    resumed = weights(newest())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_distilled_run_learns_what_its_teacher_predicts_and_resumes_to_the_bit(capsys):
    fit("--model.hidden_size=24", steps=12)
    teacher = str(newest())
    options = ("--model.dropout=0.3", f"--model.distill_from={teacher}", "--trainer.limit_val_batches=2")
    options += (f"--data.tokenizer={teacher}", "--model.schedule=constant", "--trainer.limit_train_batches=5")
    fit(*options, steps=14)
    assert f"distilled from {teacher}, " in capsys.readouterr().out
    whole = torch.load(newest(), weights_only=True)
    assert whole["teacher_state"][0].shape == (1, 4, 24) and whole["carried_state"][0].shape == (1, 4, 16)
    assert not any("teacher" in name for name in whole["state_dict"])
    fit(*options, steps=7)
    fit(*(option for option in options if "distill" not in option), "--ckpt_path=last", steps=14)  # and with it again
    resumed = torch.load(newest(), weights_only=True)
    for key in ("carried_state", "teacher_state"):
        assert all(torch.equal(*pair) for pair in zip(whole[key], resumed[key], strict=True))
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, resumed["state_dict"][name])
    fit(*(option for option in options if "distill" not in option), steps=14)
    assert not torch.equal(whole["state_dict"]["network.decoder.bias"], weights(newest())["network.decoder.bias"])
    fit(f"--model.init_from={Path('runs/language_model/2/checkpoints/last.ckpt')}", steps=1)  # a run without a teacher
    assert torch.load(newest(), weights_only=True)["hyper_parameters"]["distill_from"] is None
    model = LanguageModel(hidden_size=16, dropout=0.3, schedule="constant")
    with pytest.raises(ValueError, match=re.escape(f"the run to be resumed has distill_from {teacher}")):
        Trainer(max_steps=20, logger=False).fit(
            model,
            TextDataModule("text.txt", teacher, batch_size=4, bptt=8),
            ckpt_path="runs/language_model/2/checkpoints/last.ckpt",
        )


def test_the_words_for_a_checkpoint_name_a_teacher_too():
    fit(*EPOCH, steps=-1)
    fit("--model.distill_from=best", f"--data.tokenizer={newest()}", steps=1)
    saved = torch.load(newest(), weights_only=True)["hyper_parameters"]["distill_from"]
    assert Path(saved) == Path("runs/language_model/1/checkpoints/best.ckpt")


@pytest.mark.parametrize(("cell", "norm"), [*itertools.product(("lstm", "gru"), ("weight", "none")), ("rnn", "weight")])
def test_the_weight_drop_of_the_recurrent_net(cell, norm):
    rates = [Network(11, cell, norm, 8, 8, 1, 0.0, True, 1.0, *given).rnn.weight_drop for given in ((), (0.4,))]
    assert rates == [0.0, 0.4]


def test_a_slim_penalty_shrinks_units_in_training_alone():
    fit("--model.slim_penalty=1e4", "--model.schedule=constant", steps=1)
    scales = [value for name, value in weights(newest()).items() if name.endswith("_g")]
    assert len(scales) == 2 and not any(scale.any() for scale in scales)
    main(["test", f"--ckpt_path={newest()}"])


def test_the_state_is_carried_between_batches_and_one_a_stage():
    data = TextDataModule("text.txt", "char", batch_size=4, bptt=8)
    data.setup()
    model = LanguageModel(hidden_size=8, dropout=0.0)
    model.build(data.tokenizer)
    first, second = (
        TextBatch(*(torch.randint(5, (3, 4)) for _ in range(2)), True),
        TextBatch(*(torch.randint(5, (3, 4)) for _ in range(2)), False),
    )
    model._step(first, "train")
    carried = model.states["train"]
    model._step(second, "val")
    assert model.states["train"] is carried
    assert not any(state.requires_grad for state in carried)
    nats, _ = model._step(second, "train")
    logits, _ = model.network(torch.cat([first.inputs, second.inputs]))
    expected = nn.functional.cross_entropy(logits[3:].flatten(0, 1), second.targets.flatten(), reduction="sum")
    torch.testing.assert_close(nats, expected)


def test_documents_are_read_as_if_each_were_alone(folder):
    documents = ["one line\nand one\n\n", "two\n\n\n", "the third\n\n"] * 9
    (folder / "text.txt").write_text("".join(documents))
    model = LanguageModel(hidden_size=8, dropout=0.0)
    data = TextDataModule("text.txt", "byte", batch_size=1, bptt=8, eval_batch_size=1, eval_bptt=7, documents=True)
    data.setup()
    model.build(data.tokenizer)
    nats = sum(model._step(batch, "train")[0] for batch in data.train_dataloader())
    text = data.text.parts["train"].read().decode()
    apart = re.findall(r"(?s)\n|.+?\n\n|.+$", text)  # each further blank line is one of its own
    assert len(apart) > 20
    expected = 0.0
    for document in apart:
        ids = torch.tensor([[data.tokenizer.start, *data.tokenizer.encode(document)]]).T
        expected += model.network(ids[:-1], None, ids[1:])[0]
    torch.testing.assert_close(nats, expected)
    evaluated = sum(model._step(batch, "val")[0] for batch in data.val_dataloader())
    assert 0 < evaluated < nats
    one_stream = ["--data.documents=true", "--data.tokenizer=byte", "--data.eval_batch_size=1"]
    measured = fit(*one_stream, steps=2)["test/nats_per_token"]
    text = data.text.parts["test"].read().decode()
    assert text.count("\n\n") > 1
    assert score(newest(), text)["nats_per_token"] == pytest.approx(measured, rel=1e-5)
    cached = main(["test", "--ckpt_path=last", "--model.evaluation.cache_window=9"])["test/nats_per_token"]
    assert score(newest(), text, Evaluation(cache_window=9))["nats_per_token"] == pytest.approx(cached, rel=1e-5)
    fit(*one_stream[1:], steps=2)
    assert abs(score(newest(), text)["nats_per_token"] - measured) > 1e-4
    for kind in ("lstm", "gru", "rnn"):
        network = Network(256, kind, "none", 8, 8, 1, 0.0, True, 1.0)
        torch.testing.assert_close(network(ids, reset=ids >= 0)[0][-1:], network(ids[-1:])[0])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("norm", ["weight", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_cross_entropy_of_the_logits(tied, norm, chunked):
    network = Network(11, "lstm", "weight", 8, 8, 2, 0.0, tied, 1.0, embedding_norm=norm)
    tokens, targets = torch.randint(11, (2, 7, 3))
    targets[0, 0] = IGNORE
    results = []
    for ours in (True, False):
        network.zero_grad()
        if ours:
            loss, state = network(tokens, None, targets, "mean", chunked)
        else:
            logits, state = network(tokens)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        results.append((loss.detach(), state, gradients))
    torch.testing.assert_close(*results)


def test_a_chunked_softmax_trains_alike(monkeypatch):
    small = ("--data.tokenizer=char", "--trainer.limit_test_batches=2")
    whole = fit("--model.chunked_softmax=false", *small)
    monkeypatch.setattr("wnseq.losses.CPU_CHUNK", 0)
    monkeypatch.setattr("wnseq.losses.MIN_CHUNK_CLASSES", 3)
    assert fit("--model.chunked_softmax=true", *small) == pytest.approx(whole, rel=1e-3)


MIXED = ["--trainer.precision=bf16-mixed", "--model.schedule=constant", "--trainer.gradient_clip_val=1e-3",
         "--model.learning_rate=1e-2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1",
         "--data.tokenizer=char"]  # fmt: skip


def test_mixed_precision_resumes_to_the_bit():
    fit(*MIXED, steps=6)
    whole = weights(newest())
    fit(*MIXED, steps=3)
    fit(*MIXED, "--ckpt_path=last", steps=6)
    resumed = weights(newest())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_mixed_precision_clips(algorithm):
    found = []
    for steps in (1, 4):
        fit(*MIXED, "--model.optimizer=sgd", f"--trainer.gradient_clip_algorithm={algorithm}", steps=steps)
        found.append(weights(newest()))
    moved = max((found[1][name] - found[0][name]).abs().max() for name in found[0])
    assert 0 < moved < 3.1e-5  # three steps of at most 1e-2 · 1e-3


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_the_optimizer_is_fused_but_where_gradients_are_scaled(precision, fused):
    model = LanguageModel(schedule="constant")
    model.build(Tokenizer.from_state({"kind": "byte"}))
    model._trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    assert model.configure_optimizers()["optimizer"].param_groups[0]["fused"] is fused


def test_evaluation_does_not_depend_on_how_it_is_batched():
    fit(steps=5)
    path = str(newest())
    same = [
        "test",
        f"--ckpt_path={path}",
        "--data.corpus=text.txt",
        "--data.eval_reset_state=true",
        "--data.eval_bptt=16",
    ]
    one, many = (main([*same, f"--data.eval_batch_size={n}"]) for n in (1, 50))
    assert one["test/nats_per_token"] == pytest.approx(many["test/nats_per_token"], rel=1e-5)


def test_a_checkpoint_alone_samples(capsys):
    fit("--data.tokenizer=char")
    path = newest()
    Path("text.txt").unlink()
    (text,) = generate(path, "the ", max_new_tokens=20, seed=3)
    assert text.startswith("the ") and len(text) == 24
    assert [text] == generate(LanguageModel.load_from_checkpoint(path), "the ", max_new_tokens=20, seed=3)
    capsys.readouterr()
    main(["predict", f"--ckpt_path={path}", "--model.sampling.prompt=the ", "--model.sampling.max_new_tokens=20",
          "--model.sampling.seed=3"])  # fmt: skip
    assert text in capsys.readouterr().out


def test_a_test_adapts_to_its_text(capsys):
    fit("--data.tokenizer=char", "--model.dropout=0.1", steps=20)
    path, same = newest(), ["test", "--data.eval_batch_size=1", "--data.eval_bptt=60"]
    before = weights(path)
    cache = ["--model.evaluation.cache_window=30", "--model.evaluation.cache_theta=0.5"]
    dynamic = ["--model.evaluation.dynamic_rate=0.001", "--model.evaluation.rms_batches=3"]

    def nats(*options):
        return main([*same, f"--ckpt_path={path}", *options])["test/nats_per_token"]

    static, cached = nats(), nats(*cache)
    assert cached < static - 0.01
    part = open_corpus("text.txt").parts["test"].read().decode()
    how = Evaluation(cache_window=30, cache_theta=0.5)
    assert score(path, part, how)["nats_per_token"] == pytest.approx(cached, rel=1e-5)
    assert score(path, part)["nats_per_token"] == pytest.approx(static, rel=1e-5)
    assert "evaluated with a cache of 30 positions, theta 0.5, lambda 0.1\n" in capsys.readouterr().out
    adapted = nats(*dynamic)
    said = "evaluated with dynamic evaluation each 5 tokens, rate 0.001, decay 0.001, epsilon 1\n"
    assert said in capsys.readouterr().out
    assert abs(adapted - static) > 1e-4
    assert adapted == pytest.approx(nats(*dynamic, "--data.eval_bptt=5"), rel=1e-5)  # cut where a step is taken
    Path("other.txt").write_text(part)
    capsys.readouterr()
    other = nats(*dynamic, "--data.test=other.txt")  # gradients are those of the checkpoint's own training part
    assert other == pytest.approx(adapted, rel=1e-6)
    assert re.search(r"^gradients of corpus .*/text\.txt \(sha256 .*\), train part: ", capsys.readouterr().out, re.M)
    same[0] = "validate"
    of_validation = main([*same, f"--ckpt_path={path}", *dynamic, "--data.val=other.txt"])
    assert of_validation["val/nats_per_token"] == pytest.approx(adapted, rel=1e-6)
    same[0] = "test"
    capsys.readouterr()
    both = nats(*cache, *dynamic, "--model.evaluation.tune=true", "--trainer.limit_val_batches=2")
    printed = capsys.readouterr().out
    assert both < static
    assert "… of 55 tried" in printed
    chosen = re.findall("(?<=validation part: ).*", printed)[-5]
    assert f"evaluated with a {chosen}\n" in printed
    with pytest.raises(SystemExit):
        nats(*cache, "--model.evaluation.tune=true", "--trainer.limit_val_batches=0")
    assert "evaluation.tune needs validation batches, got limit_val_batches 0 of" in capsys.readouterr().err
    again = weights(path)
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_a_test_of_another_text_is_tuned_on_the_checkpoint_s_own(folder, capsys):
    (folder / "other.txt").write_text("the weight of another text is its direction\n" * 30)
    fit("--data.tokenizer=char", "--data.cut=blocks")
    tune = ["test", f"--ckpt_path={newest()}", "--model.evaluation.cache_window=30", "--model.evaluation.tune=true"]
    chosen = []
    for text in ([], ["--data.test=other.txt"]):
        capsys.readouterr()
        main([*tune, *text])
        said = capsys.readouterr().out
        chosen.append(re.findall(r".* nats per token of the validation part: .*", said))
        assert ("tuned on corpus" in said) is bool(text) and "gradients of" not in said
    assert len(chosen[0]) == 5 and chosen[0] == chosen[1]
    assert re.search(r"^tuned on corpus .*/text\.txt \(sha256 .*\), val part: ", said, re.M)
    (folder / "third.txt").write_text("the scale of a third text is its norm\n" * 30)
    main([*tune, "--data.corpus=third.txt", "--data.test=other.txt"])  # a text that the command names is taken
    assert re.search(r"^tuned on corpus .*/third\.txt \(sha256 .*\), val part: ", capsys.readouterr().out, re.M)
    (folder / "text.txt").unlink()
    with pytest.raises(SystemExit):
        main([*tune, "--data.test=other.txt"])
    assert "text.txt, is not there any more: dynamic evaluation and evaluation.tune" in capsys.readouterr().err


def test_a_model_that_reads_backward_adapts_to_its_text_as_one_to_the_reversed_text(capsys):
    fit("--data.tokenizer=char", "--data.backward=true", "--trainer.limit_test_batches=1")
    path, adapts = newest(), [f"--model.evaluation.{name}={value}" for name, value in (
        ("cache_window", 30), ("dynamic_rate", 0.001), ("rms_batches", 3), ("tune", "true")
    )]  # fmt: skip
    same = ["test", "--data.eval_batch_size=1", "--data.eval_bptt=60", "--trainer.limit_val_batches=2", *adapts]
    capsys.readouterr()
    found = main([*same, f"--ckpt_path={path}"])["test/nats_per_token"]
    said = capsys.readouterr().out
    for name, part in open_corpus("text.txt").parts.items():
        Path(f"{name}.txt").write_text(part.read().decode()[::-1])
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["wnseq"]["data"]["backward"] = False
    torch.save(checkpoint, "reversed.ckpt")
    parts = ["--data.corpus=train.txt", "--data.val=val.txt", "--data.test=test.txt"]
    assert main([*same, "--ckpt_path=reversed.ckpt", *parts])["test/nats_per_token"] == pytest.approx(found, rel=1e-6)
    told = [line for line in said.splitlines() if "validation part" in line or "evaluated with" in line]
    assert len(told) >= 3 + 3 + 5 + 1 and told[-1] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"dynamic_rate": 1e-3}, "needs the scale of the gradients on training data: use the command test"),
        ({"cache_window": 9, "tune": True}, "chooses on the validation part, for a test: use the command test"),
    ],
)
def test_what_needs_data_is_refused_without_data(how, text, capsys):
    model = built(evaluation=Evaluation(**how))
    for call in (lambda: generate(model, "a"), lambda: score(model, "abc"), lambda: model.predict_step(None, 0)):
        with pytest.raises(ValueError, match=text):
            call()
    plain = built()
    with pytest.raises(ValueError, match=text):
        score(plain, "abc", Evaluation(**how))
    cached = built(evaluation=Evaluation(cache_window=9))
    assert score(cached, "abcabc") == score(plain, "abcabc", Evaluation(cache_window=9)) != score(plain, "abcabc")
    assert score(model, "abcabc", Evaluation()) == score(plain, "abcabc")
    fit(steps=1)
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path=last", *(f"--model.evaluation.{name}={value}" for name, value in how.items())])
    assert text in capsys.readouterr().err


def test_the_general_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("slim (write the checkpoint of a smaller model", "export (write a model for ONNX Runtime"):
        assert words in shown
    with pytest.raises(SystemExit):
        main(["exprot"])
    assert "unknown subcommand 'exprot'. Did you mean export?" in capsys.readouterr().err


def test_a_cache_makes_what_was_read_likelier_in_samples():
    model = LanguageModel(hidden_size=8, evaluation=Evaluation(cache_window=50, cache_theta=1.0, cache_lambda=0.9))
    model.build(Tokenizer.from_state({"kind": "byte"}))
    how = Sampling(prompt="abababab", max_new_tokens=40, temperature=1.0, top_p=1.0)
    drawn = bytes(ids[0] for ids in sample(model, how))
    assert set(b"ab") <= set(drawn) and sum(drawn.count(letter) for letter in b"ab") > 20
    model.evaluation = Evaluation()
    assert sum(ids[0] in b"ab" for ids in sample(model, how)) < 10


@pytest.mark.parametrize("prompt", ["", "one\ntwo", "one\n\n", "\n\n\n"])
def test_a_sample_of_documents_begins_again_after_a_blank_line(prompt):
    model, masks = built(), []
    end, model.documents = model.tokenizer.start, True
    model.network.decoder.bias.data[end] = math.log(len(model.tokenizer))  # which is drawn half of the time
    model.network.register_forward_pre_hook(lambda _, __, options: masks.append(options["reset"]), with_kwargs=True)
    drawn = list(sample(model, how := Sampling(prompt=prompt, number=2, max_new_tokens=40, temperature=1.0, top_p=1.0)))
    for n in range(2):
        text = np.array([*model.tokenizer.encode(prompt), *(ids[n] for ids in drawn)])
        expected = Streams(text, 1, end, documents=True).batch(0, len(text), reset_state=True).reset
        assert torch.cat(masks)[:, n].tolist() == expected.flatten().tolist() and expected.sum() > 3
    if prompt.endswith("\n\n"):
        assert list(sample(model, dataclasses.replace(how, prompt=""))) == drawn
    model.documents = False
    list(sample(model, how))
    assert masks[-1] is None


def test_a_model_is_measured_as_it_reads(capsys):
    fit("--data.tokenizer=char", "--data.backward=true", "--trainer.limit_test_batches=1")
    Path("two.txt").write_text("the weight\n\nof a word\n\n" * 40)
    trainer = functools.partial(Trainer, logger=False, enable_progress_bar=False, accelerator="cpu")
    for path in (newest(), None):
        model = LanguageModel.load_from_checkpoint(newest()) if path is None else LanguageModel(hidden_size=16)
        with pytest.raises(ValueError, match=r"^the \w+ reads the other way: give --data\.backward True"):
            trainer().test(model, TextDataModule("text.txt", newest()), ckpt_path=path, verbose=False)
    assert model.reads_backward
    with pytest.raises(ValueError, match="reads from the end"):
        generate(model)
    fit("--data.tokenizer=char", "--data.corpus=two.txt", "--data.documents=true")
    model, line = LanguageModel.load_from_checkpoint(newest()), "trained with data.documents True, measured with False"
    for documents, told in ((True, False), (False, True)):
        capsys.readouterr()
        trainer().test(model, TextDataModule("two.txt", newest(), documents=documents), verbose=False)
        assert (line in capsys.readouterr().out) == told and model.documents


@pytest.mark.parametrize("sizes", [{}, {"num_layers": 2, "embedding_size": 6, "embedding_norm": "weight"}])
def test_sampling_composes_the_weights_once(sizes, monkeypatch):
    model = built(**sizes)
    calls = []
    for part in model.network.modules():
        if isinstance(part, WNModule) and part is not model.network.encoder:
            compose = part.compose_weights
            monkeypatch.setattr(part, "compose_weights", lambda c=compose, p=part: calls.append(p) or c())
    assert len(list(sample(model, Sampling(prompt="ab", max_new_tokens=9)))) == 9
    assert len(calls) == len({*calls}) == (3 if sizes else 1) and model.network.training


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1}, "temperature must be at least 0, got -1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0}, "top_p must be greater than 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top_p must be greater than 0 and at most 1, got 1.5"),
    ],
)
def test_a_bad_manner_of_sampling_is_refused(how, text):
    with pytest.raises(ValueError, match=text):
        Sampling(**how)


def test_fine_tuning_takes_weights_and_tokenizer(monkeypatch):
    fit("--data.tokenizer=char", steps=60)
    path = newest()
    Path("other.txt").write_text(Path("text.txt").read_text().replace("word", "gate"))
    before = main(["test", f"--ckpt_path={path}", "--data.corpus=other.txt"])["test/nats_per_token"]
    read, load = [], checkpoint_io.load_checked
    for module in (checkpoint_io, checkpoint_files):
        monkeypatch.setattr(module, "load_checked", lambda path, *options: read.append(path) or load(path, *options))
    after = main(["fit", "--data.corpus=other.txt", f"--model.init_from={path}", *SMALL, "--trainer.max_steps=1",
                  "--model.learning_rate=1e-6"])["test/nats_per_token"]  # fmt: skip
    assert after == pytest.approx(before, abs=1e-3)
    assert read.count(path) == 1 and checkpoint_files._handed_over == {}


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's
def test_fine_tuning_from_a_plain_torch_checkpoint():
    fit("--data.tokenizer=char", steps=1)
    tokenizer = Tokenizer.from_checkpoint(newest())
    plain = Network(len(tokenizer), "lstm", "none", 16, 16, 1, 0.0, True, 1.0)
    torch.save(plain.state_dict(), "plain.pt")
    model = LanguageModel(hidden_size=16, schedule="constant", init_from="plain.pt")
    data = TextDataModule("text.txt", "char", batch_size=4, bptt=8)
    trainer = Trainer(max_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.warns(UserWarning, match=r"plain.pt doesn't say which tokens its rows are.*--model.init_vocabulary"):
        trainer.fit(model, data)
    tokens = torch.randint(5, (3, 2))
    torch.testing.assert_close(model.network.eval()(tokens)[0], plain.eval()(tokens)[0])


@pytest.mark.parametrize("form", [lambda state: state, lambda state: {"model_state_dict": state, "epoch": 3},
                                  lambda state: {f"module.{name}": value for name, value in state.items()}],
                         ids=["flat", "an entry", "DataParallel"])  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_checkpoint_with_the_words_in_another_order(tied, form, capsys):
    data = TextDataModule("text.txt", "word", batch_size=4, bptt=8)
    data.setup()
    words = [*reversed(data.tokenizer.tokens), "zebra"]  # and one that the text lacks
    words.remove("weight")
    Path("words.txt").write_text("\n".join(words))
    plain = Network(len(words), "lstm", "none", 8, 8, 1, 0.0, tied, 1.0)
    nn.init.normal_(plain.decoder.bias)
    torch.save(form(plain.state_dict()), "plain.pt")
    model = LanguageModel(hidden_size=8, tied=tied, init_from="plain.pt", init_vocabulary="words.txt")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(limit_val_batches=1, **quiet).validate(model, data, verbose=False)
    fresh = data.tokenizer.tokens.index("weight")
    assert f"{len(words) - 1} of {len(data.tokenizer)} tokens have a row in plain.pt" in capsys.readouterr().out
    text = ["scale", "times", "its", "<eos>", "the"]
    own, theirs = (torch.tensor([[words.index(word)] for word in text]) for words in (data.tokenizer.tokens, words))
    found, expected = model.network.eval()(own)[0], plain.eval()(theirs)[0]
    columns = [k for k in range(len(data.tokenizer)) if k != fresh]
    same = [words.index(data.tokenizer.tokens[k]) for k in columns]
    torch.testing.assert_close(found[..., columns], expected[..., same])


@pytest.mark.parametrize("form", ["wnseq", "torch_hooks", "torch_parametrizations"])
def test_rows_are_carried_whatever_the_form_of_a_checkpoint(form):
    data, quiet = TextDataModule("text.txt", "word", batch_size=4, bptt=8), {"logger": False, "max_steps": 0}
    quiet |= {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer, source = Trainer(**quiet), LanguageModel(hidden_size=8, embedding_norm="weight")
    trainer.fit(source, data)
    trainer.save_checkpoint("lm.ckpt")
    respell(Path("lm.ckpt"), Path("other.ckpt"), form)
    unknown, *tokens = source.tokenizer.tokens
    data = TextDataModule("text.txt", "word", batch_size=4, bptt=8)
    data.setup()
    data.tokenizer = WordTokenizer([unknown, *reversed(tokens)])
    model = LanguageModel(init_from="other.ckpt")
    model.build(data.tokenizer)
    Trainer(**quiet).fit(model, data)
    before, after = (each.network.encoder.compose_weights()["weight"] for each in (source, model))
    torch.testing.assert_close(after, before[[0, *range(len(tokens), 0, -1)]])


@pytest.mark.parametrize(
    ("words", "options", "text"),
    [
        ("a\nb", {"init_from": "own.pt"}, "own.pt has a tokenizer of its own: leave init_vocabulary out"),
        ("a\nb", {"init_from": "plain.pt", "kind": "byte"}, "has words, and the tokenizer is of kind byte"),
        ("a\nb", {}, "init_vocabulary is that of init_from, which must be given too"),
        ("x\ny", {"init_from": "plain.pt"}, "words.txt has none of the tokenizer's"),
        ("the\nof", {"init_from": "plain.pt"}, "words.txt has 2 words, and encoder.weight 5 rows"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(words, options, text):
    options = dict(options)
    Path("words.txt").write_text(words)
    kind = options.pop("kind", "word")
    torch.save({"wnseq": {}, "state_dict": {"encoder.weight": torch.ones(2, 8)}}, "own.pt")
    torch.save(Network(5, "lstm", "none", 8, 8, 1, 0.0, True, 1.0).state_dict(), "plain.pt")
    with pytest.raises(ValueError, match=text):
        Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False).validate(
            LanguageModel(hidden_size=8, init_vocabulary="words.txt", **options),
            TextDataModule("text.txt", kind, batch_size=4, bptt=8),
            verbose=False,
        )


def test_a_checkpoint_holds_plain_types_and_says_what_it_is():
    fit()
    checkpoint = torch.load(newest(), weights_only=True)
    about = checkpoint["wnseq"]
    assert about["recipe"] == "language_model" and about["corpus"] == "text.txt" and len(about["corpus_sha256"]) == 64
    assert Tokenizer.from_state(about["tokenizer"]).sha256 == about["tokenizer_sha256"]
    assert "init_from" not in checkpoint["hyper_parameters"] and "sampling" not in checkpoint["hyper_parameters"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model.tied=true", "--model.embedding_size=8"], "a single layer needs hidden_size 8, got 16"),
        (
            ["--model.hidden_size=0", "--model.tied=false", "--model.embedding_size=0", "--model.num_layers=0",
             "--model.learning_rate=0", "--model.decay_factor=1", "--model.weight_decay=-1", "--model.warmup=-1",
             "--model.decay_after=-1", "--model.dropout=1", "--model.weight_drop=1"],
            ["hidden_size must be at least 1, got 0", "embedding_size must be at least 1, got 0",
             "num_layers must be at least 1, got 0", "learning_rate must be greater than 0, got 0",
             "decay_factor must be greater than 0 and less than 1, got 1", "weight_decay must be at least 0, got -1",
             "warmup must be at least 0, got -1", "decay_after must be at least 0, got -1",
             "; dropout must be at least 0 and less than 1, got 1", "weight_drop must be at least 0 and less than 1"],
        ),
        (["--model.weight_drop=0.5", "--model.cell=mlstm"], "weight_drop is for lstm, gru and rnn, got mlstm"),
        (["--model.weight_drop=0.5", "--model.cell=mingru"], "weight_drop is for lstm, gru and rnn, got mingru"),
        (["--model.slim_penalty=1", "--model.norm=none"], "slim_penalty needs norm weight, one width"),
        (["--model.slim_penalty=1", "--model.cell=mlstm"], "no mlstm and no average, got 1"),
        (["--model.slim_penalty=1", "--model.average=ema"], "no mlstm and no average, got 1"),
        (["--model.evaluation.cache_theta=1"], "evaluation.cache_theta does nothing without evaluation.cache_window"),
        (["--model.average=asgd", "--trainer.limit_val_batches=0"], "by which the average begins, needs a validation"),
        (
            ["--model.slim_penalty=1", "--model.num_layers=2", "--model.embedding_size=8"],
            "slim_penalty needs norm weight, one width",
        ),
        (["--model.hidden_dropout=0.5"], "hidden_dropout is that between layers, got 0.5 and a single layer"),
        (["--model.v_decay=0.1", "--model.norm=none"], "v_decay is for weights that have a v: set --model.norm weight"),
        (["--model.count_start=g"], "needs an embedding that has a g: set --model.embedding_norm weight"),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=-1"], "the schedule needs --trainer.max_epochs"),
        (["--model.sampling.top_p=2"], "top_p must be greater than 0 and at most 1, got 2"),
        (["--data.corpus=nowhere.txt"], "nowhere.txt"),
        (["--data.bptt=100000"], "shorter than one batch"),
        (["--data.tokenizer=words"], "Did you mean 'word'"),
        (["--model.hiden_size=3"], "hidden_size"),
        (["--model.init_from=nowhere.ckpt"], "nowhere.ckpt"),
        (["--model.distill_from=nowhere.ckpt"], "--model.distill_from: there is no checkpoint at nowhere.ckpt"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(*arguments)
    assert stop.value.code in (1, 2)
    told = capsys.readouterr().err
    assert all(part in told for part in ([text] if isinstance(text, str) else text))
    assert "Traceback" not in told and len(told.splitlines()) < 6
    assert not Path("runs").exists() or not list(Path("runs").glob("*/*"))


def test_a_checkpoint_of_another_size_is_refused_and_its_rows_are_carried_to_another_vocabulary(capsys):
    fit("--data.tokenizer=char", steps=1)
    path = newest()
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={path}", "--model.hidden_size=32", steps=1)
    assert "it was made with --model.cell lstm --model.norm weight" in capsys.readouterr().err
    Path("other.txt").write_text(Path("text.txt").read_text().replace("word", "W\u00f6rt"))
    fit(f"--model.init_from={path}", "--data.tokenizer=char", "--data.corpus=other.txt", "--model.learning_rate=1e-9")
    before, after = (torch.load(each, weights_only=True) for each in (path, newest()))
    old, new = (each["wnseq"]["tokenizer"]["tokens"] for each in (before, after))
    said = (
        f"{len({*old} & {*new})} of {len(new)} tokens are in both and keep their rows, 0 start with the mean of their"
    )
    assert said in capsys.readouterr().out
    for name in ("network.encoder.weight", "network.decoder.bias"):
        rows, found = before["state_dict"][name], after["state_dict"][name]
        torch.testing.assert_close(found[new.index("e")], rows[old.index("e")], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[new.index("\u00f6")], rows.mean(0), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(("cell", "backend"), [("lstm", "aot_eager"), ("gru", "inductor")])
def test_a_compiled_step_trains_as_the_plain_one_does(cell, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler, and there is no g++")
    data = TextDataModule(corpus="text.txt", tokenizer="word", batch_size=4, bptt=12, random_bptt=True)
    data.setup("fit")
    batches = itertools.islice(itertools.cycle(data.train_dataloader()), 25)
    curves = [[], []]
    torch.manual_seed(0)
    plain = Network(len(data.tokenizer), cell, "weight", 16, 16, 1, 0.0, True, 1.0)
    networks = [plain, copy.deepcopy(plain)]
    optimizers = [torch.optim.SGD(network.parameters(), lr=2.0) for network in networks]
    torch._dynamo.reset()
    steps = [plain, torch.compile(networks[1], fullgraph=True, dynamic=True, backend=backend)]
    states = [None, None]
    for batch in batches:
        for k, step in enumerate(steps):
            logits, state = step(batch.inputs, None if batch.reset_state else states[k])
            states[k] = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)
            optimizers[k].zero_grad()
            loss.backward()
            optimizers[k].step()
            curves[k].append(loss.item())
    assert sum(curves[0][-5:]) / 5 < curves[0][0] - 0.03
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)


class Interrupt(Callback):
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_):
        if batch_idx == 1:
            raise ValueError("interrupted")


def test_an_interrupted_evaluation_leaves_nothing_in_the_next():
    data = TextDataModule("text.txt", "char", batch_size=4, bptt=8)
    model = LanguageModel(hidden_size=8, dropout=0.0)
    data.setup()
    model.build(data.tokenizer)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    (expected,) = Trainer(**quiet).validate(model, data, verbose=False)
    with pytest.raises(ValueError, match="interrupted"):
        Trainer(callbacks=[Interrupt()], **quiet).validate(model, data, verbose=False)
    assert Trainer(**quiet).validate(model, data, verbose=False) == [expected]


# ---- regularisers, and an embedding with a g


def built(**options):
    """A model of bytes without dropout but what is given, the same at each call."""
    torch.manual_seed(0)
    model = LanguageModel(**{"hidden_size": 8, "dropout": 0.0, **options})
    model.build(Tokenizer.from_state({"kind": "byte"}))
    model.log = lambda *_, **__: None
    return model


BATCH = TextBatch(*(torch.randint(97, 105, (7, 3), generator=torch.Generator().manual_seed(k)) for k in (0, 1)), True)
REGULARISERS = ["input_dropout", "hidden_dropout", "output_dropout", "embedding_dropout", "weight_drop",
                "activation_penalty", "temporal_penalty"]  # fmt: skip


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("sizes", [{}, {"embedding_size": 6, "embedding_norm": "weight"}], ids=["one", "widths"])
@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_acts_in_training_alone_and_keeps_the_kernels(name, sizes, cell, monkeypatch):
    plain, model = (built(cell=cell, num_layers=2, **sizes, **given) for given in ({}, {name: 0.5}))
    assert all(
        torch.equal(*pair) for pair in zip(plain.state_dict().values(), model.state_dict().values(), strict=True)
    )
    fused = []
    for function in ("tied_embedding", "fused_linear_cross_entropy"):
        own = getattr(language_model, function)
        monkeypatch.setattr(language_model, function, lambda *a, own=own, **k: fused.append(own) or own(*a, **k))
    losses, kernels = [], []
    for each in (plain, model):
        with explain_backend() as chosen:
            losses.append(each.training_step(BATCH, 0))
        kernels.append([choice.name for choice in chosen])
        losses[-1].backward()
    assert losses[0] != losses[1] and len(fused) == 4
    assert kernels[0] == kernels[1] and "unrolled" not in kernels[0]
    gradients = [{key: value.grad for key, value in each.network.named_parameters()} for each in (plain, model)]
    assert all((gradient is None) == (gradients[1][key] is None) for key, gradient in gradients[0].items())
    assert any(not torch.equal(value, gradients[1][key]) for key, value in gradients[0].items() if value is not None)
    for each in (plain, model):
        each.eval()
    assert torch.equal(plain._step(BATCH, "val")[0], model._step(BATCH, "val")[0])


def test_the_dropout_of_an_embedding_leaves_the_softmax_whole():
    model = built(embedding_dropout=0.9)
    model.training_step(BATCH, 0).backward()
    read, predicted = torch.zeros(256).bool(), model.network.encoder.weight.grad.any(1)
    read[BATCH.inputs.unique()] = True
    assert predicted.all() and not read.all()
    assert composed_weight(model.network.decoder) is model.network.encoder.weight


def test_the_penalties_are_those_of_the_last_layer():
    model = built(num_layers=2, activation_penalty=2.0, temporal_penalty=3.0, output_dropout=0.5)
    torch.manual_seed(1)
    loss = model.training_step(BATCH, 0)
    torch.manual_seed(1)
    model.states.clear()
    outputs = []
    nats, _ = model._step(BATCH, "train", "mean", outputs)
    whole, dropped = outputs
    assert not whole.eq(0).any() and dropped.eq(0).any()
    expected = 2 * dropped.square().mean() + 3 * (whole[1:] - whole[:-1]).square().mean()
    torch.testing.assert_close(loss, nats + expected)


def test_a_normalised_embedding_starts_as_the_plain_one_and_is_composed_once_a_batch(monkeypatch):
    models = [built(embedding_norm=norm) for norm in ("none", "weight")]
    found = [model._step(BATCH, "val")[0] for model in models]
    torch.testing.assert_close(*found)
    network, calls = models[1].network, []
    monkeypatch.setattr("wnseq.nn._module.compose_in", lambda m, v, *a: calls.append(v) or compose_in(m, v, *a))
    models[1].training_step(BATCH, 0).backward()
    assert sum(v is network.encoder.weight_v for v in calls) == 1 and len(calls) == 3
    plain = models[0].training_step(BATCH, 0).backward() or models[0].network.encoder.weight
    row = plain[97] / plain[97].norm()
    torch.testing.assert_close(network.encoder.weight_g.grad[97], (plain.grad[97] * row).sum())


@pytest.mark.parametrize(("norm", "key"), [("weight", "encoder.weight_g"), ("none", "encoder.weight")])
def test_the_decay_of_the_embedding_is_its_own(norm, key):
    model = built(embedding_norm=norm, weight_decay=0.1, embedding_decay=0.2, v_decay=0.3, schedule="constant")
    model._trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=10)
    names = {id(value): name for name, value in model.network.named_parameters()}
    groups = model.configure_optimizers()["optimizer"].param_groups
    decays = {names[id(value)]: group["weight_decay"] for group in groups for value in group["params"]}
    rnn = {f"rnn.weight_{part}_l0_g": 0.1 for part in ("ih", "hh")}
    directions = dict.fromkeys((name for name in decays if name.endswith("_v")), 0.3)
    assert len(directions) == (3 if norm == "weight" else 2)
    assert {name: decay for name, decay in decays.items() if decay} == {key: 0.2, **rnn, **directions}
    assert decays.keys() == {*names.values()}


def test_starts_from_counts_need_no_data_afterwards():
    options = ("--data.tokenizer=char", "--model.learning_rate=1e-9", "--model.embedding_norm=weight")
    fit(*options, "--model.count_start=g", steps=1)
    saved = torch.load(newest(), weights_only=True)
    tokens = saved["wnseq"]["tokenizer"]["tokens"]
    text = Path("text.txt").read_text()
    g = saved["state_dict"]["network.encoder.weight_g"]
    ratio = g[tokens.index("e")] / g[tokens.index("k") if "k" in tokens else tokens.index("w")]
    counts = [text[: int(len(text) * 0.9)].count(letter) for letter in ("e", "w")]
    assert ratio == pytest.approx(math.log1p(counts[0]) / math.log1p(counts[1]), rel=0.01)
    path = newest()
    Path("text.txt").rename("other.txt")
    (text,) = generate(path, "the ", max_new_tokens=3)
    main(["fit", "--data.corpus=other.txt", *SMALL, "--trainer.max_steps=1", f"--model.init_from={path}",
          "--model.count_start=bias", "--model.learning_rate=1e-9"])  # fmt: skip
    tuned = weights(newest())
    assert not tuned["network.decoder.bias"].abs().gt(1e-6).any()  # the checkpoint's, not that of the counts
    torch.testing.assert_close(tuned["network.encoder.weight_g"], g)


def test_the_bias_starts_at_the_log_frequencies():
    fit("--data.tokenizer=char", "--model.learning_rate=1e-9", "--model.count_start=bias", steps=1)
    bias = weights(newest())["network.decoder.bias"]
    assert bias.exp().sum() == pytest.approx(1, abs=1e-4) and bias.std() > 0.5


def test_rows_of_a_normalised_embedding_are_carried_to_another_vocabulary():
    fit("--data.tokenizer=char", "--model.embedding_norm=weight", steps=2)
    path = newest()
    Path("other.txt").write_text(Path("text.txt").read_text().replace("word", "W\u00f6rt"))
    fit(f"--model.init_from={path}", "--data.tokenizer=char", "--data.corpus=other.txt", "--model.learning_rate=1e-9")
    before, after = (torch.load(each, weights_only=True) for each in (path, newest()))
    old, new = (each["wnseq"]["tokenizer"]["tokens"] for each in (before, after))
    for each in (before, after):
        weights = each["state_dict"]
        weights["row"] = wnseq.weight_norm(weights["network.encoder.weight_v"], weights["network.encoder.weight_g"])
    for name in ("network.encoder.weight_v", "network.encoder.weight_g", "row", "network.decoder.bias"):
        rows, found = (each["state_dict"][name] for each in (before, after))
        torch.testing.assert_close(found[new.index("e")], rows[old.index("e")], rtol=0, atol=1e-6)
        if name in ("row", "network.decoder.bias"):
            torch.testing.assert_close(found[new.index("\u00f6")], rows.mean(0), rtol=0, atol=1e-6)


# ---- what a checkpoint decides, and what a user brings

ONE_STREAM = "--data.eval_batch_size=1"
EPOCH = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]


def test_a_checkpoint_is_measured_on_its_own_text_unless_another_is_named(folder, monkeypatch, capsys):
    fitted = fit("--data.tokenizer=char", "--data.cut=blocks", ONE_STREAM, *EPOCH, steps=-1)
    best = newest("best").absolute()
    (folder / "other.txt").write_text("the weight of another text is its direction\n" * 30)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")  # where text.txt is not
    capsys.readouterr()
    assert main(["test", f"--ckpt_path={best}"]) == pytest.approx(
        {name: value for name, value in fitted.items() if name.startswith("test/")}
    )
    said = capsys.readouterr().out
    assert "text.txt (sha256 " in said and ", test part: " in said and "trained on" not in said
    assert "characters, 0.00% of the test tokens unknown" in said and f"checkpoint   ../runs/{'language_model'}" in said
    found = main(["validate", f"--ckpt_path={best}"])
    assert found == pytest.approx({name: value for name, value in fitted.items() if name.startswith("val/")})
    other = main(["test", f"--ckpt_path={best}", "--data.test=../other.txt"])
    said = capsys.readouterr().out
    assert "corpus ../other.txt" in said and re.search(r"trained on   corpus text\.txt \(sha256 .*another one", said)
    scored = score(best, (folder / "other.txt").read_text())
    for name in ("nats_per_token", "perplexity", "bits_per_byte", "bits_per_character"):
        assert scored[name] == pytest.approx(other[f"test/{name}"], rel=1e-5)
    assert scored["tokens"] == 30 * 44 and "word_perplexity" not in scored
    assert score(LanguageModel.load_from_checkpoint(best), "zzz")["share_unknown"] == 1
    (folder / "text.txt").unlink()
    assert main(["test", f"--ckpt_path={best}", "--data.test=../other.txt"]) == other
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={best}"])
    assert "text.txt, is not there any more: name a text by --data.corpus PATH" in capsys.readouterr().err


def test_fine_tuning_takes_the_shape_and_the_hyper_parameters_of_the_checkpoint(capsys):
    fit("--model.hidden_size=24", "--model.cell=gru", "--model.dropout=0.25", "--data.tokenizer=byte", *EPOCH, steps=-1)
    path = newest()
    short = ["--data.corpus=text.txt", "--data.batch_size=4", "--data.bptt=8", "--trainer.max_steps=1",
             "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]  # fmt: skip
    capsys.readouterr()
    main(["fit", *short, "--model.init_from=best", "--model.dropout=0.1", "--model.learning_rate=1e-9"])
    out = capsys.readouterr().out
    assert re.search(
        r"best.ckpt \(step 2 of 2, epoch 1 of 1, val/nats_per_token [\d.]+\), with its cell gru, hidden_size 24\n", out
    )
    tuned = torch.load(newest(), weights_only=True)
    assert [tuned["hyper_parameters"][name] for name in ("hidden_size", "cell", "dropout")] == [24, "gru", 0.1]
    before = weights(path)
    assert all(torch.allclose(tuned["state_dict"][name], before[name], atol=1e-6) for name in before)
    model = LanguageModel(init_from=str(path), learning_rate=1e-9)
    data = TextDataModule("text.txt", str(path), batch_size=4, bptt=8)
    trainer = Trainer(max_steps=1, limit_val_batches=1, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(model, data)
    assert (model.hparams.hidden_size, model.hparams.dropout, model.hparams.learning_rate) == (24, 0.25, 1e-9)


def test_epochs_and_dropout_are_those_of_the_size_of_the_text(monkeypatch, capsys):
    short = ["fit", "--data.corpus=text.txt", "--data.tokenizer=char", "--model.hidden_size=8", "--data.batch_size=4",
             *(f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test"))]  # fmt: skip
    monkeypatch.setattr(LanguageModelCLI, "settings", lambda *_: {"trainer.max_epochs": 2, "model.dropout": 0.25})
    main(short)
    assert re.search(r"^chosen for about [\d,]+ training tokens: trainer.max_epochs 2, model.dropout 0.25$",
                     capsys.readouterr().out, re.M)  # fmt: skip
    checkpoint = torch.load(newest(), weights_only=True)
    assert (checkpoint["epoch"], checkpoint["hyper_parameters"]["dropout"]) == (1, 0.25)
    assert "max_epochs: 2" in Path("runs/language_model/1/config.yaml").read_text()
    main([*short, "--trainer.max_epochs=1", "--model.dropout=0.1"])
    assert "chosen for" not in capsys.readouterr().out
    checkpoint = torch.load(newest(), weights_only=True)
    assert (checkpoint["epoch"], checkpoint["hyper_parameters"]["dropout"]) == (0, 0.1)


FOUND_BEST = {"model.schedule": "one_cycle", "model.learning_rate": 1.5e-2}
FOUND_BEST |= {"model.embedding_norm": "weight", "model.count_start": "g"}


def settings(tokens, entries, given=(), start=None, **model):
    options = SimpleNamespace(model=SimpleNamespace(**{"norm": "weight", "cell": "lstm"} | model))
    return LanguageModelCLI.settings(SimpleNamespace(start=start), tokens, entries, options, set(given))


@pytest.mark.parametrize(
    ("tokens", "entries", "epochs", "dropout"),
    [
        (140_000, 2000, 25, 0.5),  # the embedded text
        (270_000, 2000, 17, 0.3),  # a megabyte in subwords
        (885_000, 128, 15, 0.2),  # and in characters
        (2_000_000, 33_000, 3, 0.1),
        (100_000_000, 2000, 1, 0.1),
    ],
)
def test_the_settings_of_a_size(tokens, entries, epochs, dropout):
    large = {"data.batch_size": 32, "model.learning_rate": 7e-3}
    expected = {"trainer.max_epochs": epochs, "model.dropout": dropout}
    assert settings(tokens, entries) == expected | (large if tokens >= 500_000 else FOUND_BEST)


@pytest.mark.parametrize(
    ("given", "model"),
    [
        (["model.schedule"], {}),
        (["model.warmup"], {}),
        (["model.optimizer"], {}),
        (["model.embedding_norm"], {}),
        (["model.count_start"], {}),
        ([], {"norm": "none"}),
        ([], {"cell": "gru"}),
        ([], {"start": "a checkpoint, which has them"}),
    ],
)
def test_what_was_found_best_together_is_chosen_together(given, model):
    assert settings(1000, 50, ["model.learning_rate"]) == settings(1000, 50)
    assert settings(1000, 50, given, **model).keys() == {"trainer.max_epochs", "model.dropout"}


def test_a_checkpoint_that_began_from_counts_needs_no_training_text(folder):
    text = "the cat sat on the mat\n" * 50
    (folder / "other.txt").write_text(text)
    fit("--model.embedding_norm=weight", "--model.count_start=g")
    measured = main(["test", "--ckpt_path=last", "--data.test=other.txt", "--data.eval_batch_size=1"])
    assert math.isclose(measured["test/perplexity"], score(newest(), text)["perplexity"], rel_tol=1e-5)
    with pytest.raises(ValueError, match="there is no network yet: fit the model first, or load a checkpoint of it"):
        Trainer(logger=False, enable_progress_bar=False).test(
            LanguageModel(embedding_norm="weight", count_start="g"),
            TextDataModule(tokenizer=str(newest()), test="other.txt"),
        )


def test_samples_side_by_side_from_a_file_of_prompts_are_kept(capsys):
    Path("prompts.txt").write_text("the \nits \n")
    fit("--data.tokenizer=char", "--model.sampling.every_n_epochs=1", "--model.sampling.max_new_tokens=9",
        "--trainer.max_epochs=2", "--trainer.limit_train_batches=2", steps=-1)  # fmt: skip
    kept = Path("runs/language_model/1/samples.txt").read_text()
    assert [line.partition(":")[0] for line in kept.splitlines() if line.startswith("---")] == ["--- sample 0"] * 3
    assert "step 2, " in kept and "step 4, " in kept
    events = EventAccumulator("runs/language_model/1/tensorboard").Reload().Tensors("samples/text_summary")
    assert [event.step for event in events] == [2, 4, 4]  # the last has the whole file
    assert len(events[0].tensor_proto.string_val[0]) == 9
    path, short = newest(), {"max_new_tokens": 9, "temperature": 1.0, "top_p": 1.0}
    three = generate(path, "the ", number=3, seed=5, **short)
    assert three == [generate(path, "the ", seed=seed, **short)[0] for seed in (5, 6, 7)]
    assert len(set(three)) == 3 and all(len(text) == 13 for text in three)
    arguments = [f"--model.sampling.{name}={value}" for name, value in {**short, "number": 2, "seed": 5}.items()]
    predict = ["predict", f"--ckpt_path={path}", *arguments, "--model.sampling.prompts=prompts.txt"]
    capsys.readouterr()
    for _ in range(2):
        main([*predict, "--model.sampling.output=out/samples.txt"])
    expected = [text for prompt in ("the ", "its ") for text in generate(path, prompt, number=2, seed=5, **short)]
    said = capsys.readouterr().out
    assert all(f"{text}\n" in said for text in expected)
    written = Path("out/samples.txt").read_text()
    assert written.count("--- sample ") == 8 and "--- sample 0: prompts 'prompts.txt', number 2, " in written
    with pytest.raises(ValueError, match=r"sampling\.prompt and sampling\.prompts exclude each other"):
        Sampling(prompt="a", prompts="prompts.txt")
