import csv
import io
import itertools
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from wnseq import weight_norm
from wnseq.data.text import ByteTokenizer, LabelledTextDataModule, Tokenizer, pad_texts
from wnseq.recipes import language_model
from wnseq.recipes.text_classifier import (
    Network,
    TextClassifier,
    classify,
    layers,
    macro_f1,
    main,
    slanted_triangle,
)

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
         "num_sanity_val_steps": 0}  # fmt: skip
WORDS = {"good": "fine great lovely superb", "bad": "dull awful boring poor"}
SMALL = ["--data.dataset=texts.csv", "--data.tokenizer=word", "--model.hidden_size=8", "--model.head_size=8",
         "--trainer.log_every_n_steps=1", "--data.batch_size=16"]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        f"the {word} film number {number % 9},{label}"
        for label, words in WORDS.items()
        for word in words.split()
        for number in range(40)
    ]
    Path("texts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


def newest(recipe="text_classifier", name="last"):
    return max(Path(f"runs/{recipe}").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def weights(path):
    """Those of a checkpoint, the composed embedding among them."""
    state = torch.load(path, weights_only=True)["state_dict"]
    if "network.encoder.weight" not in state:
        v, g = (state[f"network.encoder.weight_{part}"] for part in "vg")
        state["network.encoder.weight"] = weight_norm(v, g)
    return state


def network(cell="lstm", norm="weight", layers=2, **options):
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 256, "embedding_size": 5, "hidden_size": 6, "num_layers": layers, "tied": False,
             "classes": 3, "dropout": 0.5, "embedding_dropout": 0.0, "weight_drop": 0.0, "head_size": 4,
             "head_dropout": 0.5}  # fmt: skip
    return Network(cell=cell, norm=norm, **{**sizes, **options}).eval()


CELLS = get_args(get_type_hints(TextClassifier.__init__)["cell"])
TEXTS = ["a text", "", "a longer text than the others", "short"]


@pytest.mark.parametrize("tied", [False, True], ids=["one width", "own widths"])
@pytest.mark.parametrize(("cell", "norm"), [*itertools.product(CELLS, ("weight", "none"))], ids="-".join)
def test_a_text_s_logits_depend_on_neither_padding_nor_its_neighbours(cell, norm, tied):
    net = network(cell, norm, tied=tied)
    tokens, lengths = pad_texts(TEXTS, ByteTokenizer())
    together = net.pool(tokens, lengths)
    for place, text in enumerate(TEXTS):
        ids, length = pad_texts([text], ByteTokenizer())
        outputs, state = net.rnn(net.encoder(ids))
        assert outputs.shape[2] == (5 if tied else 6)
        last = (state[0] if isinstance(state, tuple) else state)[-1]
        torch.testing.assert_close(last[:, -outputs.shape[2] :], outputs[-1])
        alone = torch.cat((outputs[-1], outputs.amax(0), outputs.mean(0)), 1)
        torch.testing.assert_close(together[place : place + 1], alone)
        torch.testing.assert_close(net(tokens, lengths)[place : place + 1], net(ids, length))
    padded = torch.cat((tokens, torch.full((7, 4), 99)))
    torch.testing.assert_close(net.pool(padded, lengths), together)
    reversed_texts = pad_texts([text[::-1] for text in TEXTS], ByteTokenizer())
    net.backward = True
    torch.testing.assert_close(net.pool(*reversed_texts), together)


def test_whole_tokens_are_dropped_in_training_alone():
    tokens, lengths = pad_texts(TEXTS, ByteTokenizer())
    quiet = {"dropout": 0.0, "head_dropout": 0.0}
    plain, dropping = network(**quiet), network(**quiet, embedding_dropout=0.5)
    torch.testing.assert_close(dropping(tokens, lengths), plain(tokens, lengths), rtol=0, atol=0)
    seen = []
    dropping.dropout.register_forward_hook(lambda _, args, output: seen.append(output))
    dropping.train().pool(tokens, lengths)
    dropped = (seen[0] == 0).all(2)  # (T, N)
    for token in tokens.unique():
        assert len(dropped[tokens == token].unique()) == 1  # at all of its places, or at none
    assert 0 < dropped.sum() < dropped.numel()


def test_weight_normalisation_changes_no_function_at_the_start():
    tokens, lengths = pad_texts(TEXTS, ByteTokenizer())
    torch.testing.assert_close(network()(tokens, lengths), network(norm="none")(tokens, lengths))


@pytest.mark.parametrize(("tied", "names_of"), [(False, "rnn.*_l{}"), (True, "rnn.layers.{}.*")])
def test_layers_are_in_their_order_and_whole(tied, names_of):
    net = network(tied=tied)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [[names[id(parameter)] for parameter in layer] for layer in layers(net)]
    assert [{name.split(".")[0] for name in layer} for layer in found] == [{"head"}, {"rnn"}, {"rnn"}, {"encoder"}]
    for layer, number in ((found[1], 1), (found[2], 0)):
        assert all(fnmatch(name.partition("_v")[0].partition("_g")[0], names_of.format(number)) for name in layer)
    assert sorted(sum(found, [])) == sorted(names.values())  # noqa: RUF017


def test_the_step_size_rises_for_a_tenth_and_falls_back():
    assert [slanted_triangle(progress) for progress in (0, 0.05, 0.1, 0.55, 1, 1.1)] == pytest.approx(
        [1 / 32, (1 + 31 / 2) / 32, 1, (1 + 31 / 2) / 32, 1 / 32, 1 / 32]
    )


def predicted(capsys, text, *options):
    Path("long.txt").write_text(text + "\n")
    main(["predict", "--ckpt_path=best", "--data.predict=long.txt", *options])
    return capsys.readouterr().out


def test_a_run_whose_subwords_have_a_size_goes_on_with_the_same_words(capsys):
    rows = [f"{'ab'[n % 2]} {n * 7919 % 1000003} {n * 104729 % 999983},{n % 2}" for n in range(200)]
    Path("texts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    options = [*(word for word in SMALL if "tokenizer" not in word), "--data.vocabulary_size=300"]
    main([*options, "--trainer.max_epochs=1"])
    main([*options, "--trainer.max_epochs=2", "--ckpt_path=last"])
    main(["fit", "--resume=last", "--trainer.max_epochs=3"])
    checkpoint = torch.load("runs/text_classifier/1/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 2 and len(Tokenizer.from_state(checkpoint["wnseq"]["tokenizer"])) == 300
    with pytest.raises(SystemExit):
        main(["fit", "--resume=last", "--data.vocabulary_size=310"])
    assert "has a size of its own, 300 entries, and vocabulary_size is 310" in capsys.readouterr().err


def test_macro_f1_is_the_mean_over_the_classes():
    assert macro_f1([[8, 2], [0, 0]]) == pytest.approx((2 * 8 / 18 + 0) / 2)
    assert macro_f1([[5, 0, 0], [0, 3, 0], [0, 0, 0]]) == 1


def test_a_run_learns_tells_its_mistakes_and_classifies_from_its_checkpoint(capsys, monkeypatch):
    metrics = main([*SMALL, "--trainer.max_epochs=8", "--model.learning_rate=0.02"])
    told = capsys.readouterr().out
    assert metrics["test/error_percent"] < 20
    accuracy = 100 - metrics["test/error_percent"]
    assert f"accuracy {accuracy:.1f} %, macro F1 {metrics['test/macro_f1_percent']:.1f} %" in told
    assert "in 2 classes: bad, good" in told and "texts is" not in told
    assert ("most confident mistakes" in told) == (metrics["test/error_percent"] > 0)

    best = newest(name="best")
    monkeypatch.setattr(sys, "stdin", io.StringIO('a great, "lovely" film\n\nan awful film\n'))
    main(["predict", "--ckpt_path=best", "--data.predict=-"])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["predicted", "probability", "text"]
    assert [row[2] for row in rows[1:]] == ['a great, "lovely" film', "", "an awful film"]
    texts = [row[2] for row in rows[1:]]
    two = LabelledTextDataModule("texts.csv", predict="-")
    two.trainer = SimpleNamespace(world_size=2, global_rank=0)
    with pytest.raises(ValueError, match=r"standard input is read by one process: --trainer\.devices 1"):
        two.setup("predict")
    probabilities = classify(best, texts)
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(probabilities.amax(1).tolist(), abs=1e-4)
    assert [("bad", "good")[index] for index in probabilities.argmax(1).tolist()] == [row[0] for row in rows[1:]]
    with pytest.raises(TypeError, match="texts must be a list of texts, got a string"):
        classify(best, "a great film")

    # a long text is cut as in training
    text = "a great film " * 20
    (row,) = csv.DictReader(io.StringIO(predicted(capsys, text, "--data.max_tokens=9")))
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["wnseq"]["data"]["max_tokens"] = 9
    torch.save(checkpoint, "short.ckpt")
    short, whole = (classify(path, ["the film", text]) for path in ("short.ckpt", best))
    assert float(row["probability"]) == pytest.approx(short[1].max().item(), abs=1e-4)
    assert not torch.allclose(short[1], whole[1], atol=1e-4)
    torch.testing.assert_close(short[0], whole[0])

    # a table in which one class is missing, and one with an unknown class
    Path("good.csv").write_text("text,label\na great film,good\na superb film,good\n")
    found = main(["test", "--ckpt_path=best", "--data.test=good.csv"])
    assert found["test/error_percent"] == 0 and "dataset good.csv, test part: 2 texts" in capsys.readouterr().out
    Path("odd.csv").write_text("text,label\na great film,better\n")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path=best", "--data.test=odd.csv"])
    assert "odd.csv: line 2: the label 'better' is none of the classes" in capsys.readouterr().err

    # a table of other columns, where the one of the training is not there any more
    Path("texts.csv").unlink()
    Path("other.csv").write_text("film;stars\na great film;good\na superb film;good\n", "cp1252")
    columns = ["--data.text=film", "--data.label=stars"]
    assert main(["test", "--ckpt_path=best", "--data.test=other.csv", *columns])["test/error_percent"] == 0
    assert main(["validate", "--ckpt_path=best", "--data.val=good.csv"])["val/error_percent"] == 0
    capsys.readouterr()
    main(["predict", "--ckpt_path=best", "--data.test=other.csv", *columns])
    assert [row[0] for row in csv.reader(io.StringIO(capsys.readouterr().out))] == ["predicted", "good", "good"]
    for arguments in (["--data.val=good.csv"], []):  # the test part is read
        with pytest.raises(SystemExit):
            main(["test", "--ckpt_path=best", *arguments])
        told = capsys.readouterr().err
        assert "is not there any more" in told and "measured as a whole by --data.test PATH" in told


def test_mistakes_and_the_confusion_are_those_of_the_texts():
    data = LabelledTextDataModule("texts.csv", tokenizer="word", batch_size=64, eval_batch_size=7)
    model = TextClassifier(hidden_size=4, head_size=4)
    trainer = Trainer(max_epochs=1, limit_train_batches=1, **QUIET)
    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)
    rows = data.rows["test"]
    with torch.no_grad():
        logits = model.eval()(*pad_texts([row.text for row in rows], data.tokenizer))
    labels, predicted = torch.tensor([data.classes.index(row.label) for row in rows]), logits.argmax(1)
    assert model.confusion == [[float(((labels == a) & (predicted == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert found["test/error_percent"] == pytest.approx(100 * (labels != predicted).float().mean().item(), rel=1e-5)
    assert found["test/nats_per_text"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    wrong = {place: (label, found) for _, place, label, found in model.mistakes}
    assert wrong == {
        place: (int(labels[place]), int(predicted[place]))
        for place in range(len(rows))
        if labels[place] != predicted[place]
    }


LM = ["--data.corpus=texts.csv", "--data.field=text", "--data.tokenizer=word", "--data.bptt=8", "--data.batch_size=4",
      "--data.eval_batch_size=2", "--model.hidden_size=8", "--model.num_layers=2", "--trainer.max_epochs=1",
      "--model.dropout=0.4", "--model.embedding_dropout=0.2", "--trainer.limit_train_batches=2",
      "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1",
      "--model.sampling.max_new_tokens=2"]  # fmt: skip


class Trained(Callback):
    """Which layers have a gradient, step by step."""

    def __init__(self):
        self.depths = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        found = [any(parameter.grad is not None for parameter in layer) for layer in layers(pl_module.network)]
        self.depths.append(sum(found))
        assert found == sorted(found, reverse=True)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the resumed run keeps no checkpoint
def test_the_chain_from_a_language_model_to_a_classifier(capsys):
    language_model.main(["fit", *LM])
    lent = newest("language_model", "best")
    short = [*SMALL[:1], *SMALL[3:], "--trainer.limit_train_batches=2", "--trainer.max_epochs=4"]
    capsys.readouterr()
    main([*short, "--model.init_from=language_model/best", "--model.learning_rate=1e-9"])
    told = capsys.readouterr().out
    assert "model: 2 x 8 lstm, norm weight, layer_decay 2.6, unfreeze_epochs 1" in told
    assert f"starting from {lent} (step 2 of 2, " in told
    assert "), with its hidden_size 8, num_layers 2, tied True, dropout 0.4, embedding_dropout 0.2" in told
    assert "the head is new" in told
    before, after = weights(lent), weights(newest())
    encoder = [name for name in after if name.startswith(("network.encoder", "network.rnn"))]
    assert len(encoder) > 8
    for name in encoder:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    saved = torch.load(newest(), weights_only=True)
    assert saved["wnseq"]["tokenizer"] == torch.load(lent, weights_only=True)["wnseq"]["tokenizer"]
    rates = {"dropout": 0.4, "embedding_dropout": 0.2, "weight_drop": 0.0, "dropout_factor": 0.5}
    assert saved["hyper_parameters"].items() >= rates.items()

    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path=language_model/best"])
    assert "best.ckpt is of the recipe language_model, this one is text_classifier" in capsys.readouterr().err

    # layers thaw one an epoch, with smaller and smaller steps; a run that resumes inside an epoch goes on alike
    def make():
        torch.manual_seed(0)  # the same new head
        data = LabelledTextDataModule("texts.csv", tokenizer=str(lent), batch_size=16)
        return TextClassifier(init_from=str(lent), schedule="constant", weight_decay=0.0, dropout_factor=0,
                              head_dropout=0), data  # fmt: skip

    whole, seen = make(), Trained()
    trainer = Trainer(max_epochs=5, limit_train_batches=2, callbacks=[seen], **QUIET)
    trainer.fit(*whole)
    assert seen.depths == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    rates = {group["lr"]: len(group["params"]) for group in trainer.optimizers[0].param_groups}
    assert sorted(rates, reverse=True) == pytest.approx([5e-3 / 2.6**depth for depth in range(4)])
    inside = ModelCheckpoint("inside", filename="stopped", every_n_train_steps=5)  # in the third epoch
    Trainer(max_epochs=3, limit_train_batches=2, callbacks=[inside], **QUIET | {"enable_checkpointing": True}).fit(
        *make()
    )
    resumed, seen = make(), Trained()
    Trainer(max_epochs=5, limit_train_batches=2, callbacks=[seen], **QUIET).fit(
        *resumed, ckpt_path="inside/stopped.ckpt"
    )
    assert seen.depths == [3, 4, 4, 4, 4]
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name

    # another vocabulary, and other classes
    Path("stars.csv").write_text("text,label\n" + "".join(f"a superb {n} film,{n % 3}\n" for n in range(60)))
    main([*short, "--data.tokenizer=char", f"--model.init_from={lent}"])
    assert "start with the mean of their old pieces" in capsys.readouterr().out
    main([*short, "--data.dataset=stars.csv", "--model.init_from=best"])
    told = capsys.readouterr().out
    assert "the head is new" in told and "in 3 classes: 0, 1, 2" in told and "tokenizer: char" in told


def test_what_keeps_a_model_from_its_start_is_said():
    main([*SMALL, "--trainer.max_steps=1"])
    saved = str(newest())
    with pytest.raises(ValueError, match="there is no network yet: fit with a LabelledTextDataModule, or call build"):
        Trainer(max_epochs=1, **QUIET).fit(TextClassifier(init_from=saved), *(torch.utils.data.DataLoader([1]),) * 2)
    data = LabelledTextDataModule("texts.csv", tokenizer=saved)
    with pytest.raises(ValueError, match=r"it was made with .* --model\.head_size 8 \(size mismatch for head"):
        Trainer(max_epochs=1, **QUIET).fit(TextClassifier(init_from=saved, head_size=20), data)


@pytest.mark.parametrize("cell", ["lstm", "mlstm"])
def test_an_encoder_of_layers_of_their_own_widths_is_taken_over_and_trains(cell, capsys):
    language_model.main(["fit", *LM, "--model.embedding_size=6", f"--model.cell={cell}"])
    lent = newest("language_model", "best")
    short = [*SMALL[:1], *SMALL[3:], "--trainer.limit_train_batches=2", "--trainer.max_epochs=1"]
    main([*short, f"--model.init_from={lent}", "--model.learning_rate=1e-9", "--model.unfreeze_epochs=0"])
    assert "embedding_size 6, hidden_size 8, num_layers 2, tied True" in capsys.readouterr().out
    before, after = weights(lent), weights(newest())
    encoder = [name for name in after if name.startswith(("network.encoder", "network.rnn.layers."))]
    assert len(encoder) > 8
    for name in encoder:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    assert classify(newest(), ["a superb film", ""]).shape == (2, 2)
    with pytest.raises(ValueError, match="hidden_size must be 6 too"):
        TextClassifier(embedding_size=6, hidden_size=8, tied=True)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the test keeps no checkpoint
def test_a_backward_encoder_is_averaged_with_a_forward_one(capsys):
    language_model.main([*LM, "--data.backward=true", "--model.sampling.every_n_epochs=1"])
    told = capsys.readouterr().out
    assert "characters, read backward" in told and "No sample: the model reads backward" in told
    assert not Path("runs/language_model/1/samples.txt").exists()
    lent = newest("language_model", "best")
    with pytest.raises(ValueError, match="the model reads from the end of a text to its beginning: it neither draws"):
        language_model.score(lent, "a text")
    short = [*SMALL[:1], *SMALL[3:], "--trainer.max_steps=2", "--model.unfreeze_epochs=0", "--model.learning_rate=0.05"]
    main(["fit", *short, f"--model.init_from={lent}"])
    backward = newest()
    main(["fit", *short, "--model.hidden_size=4", f"--data.tokenizer={lent}"])
    forward = newest()
    saved = [torch.load(path, weights_only=True)["hyper_parameters"]["backward"] for path in (backward, forward)]
    assert saved == [True, None]

    data = LabelledTextDataModule("texts.csv", tokenizer=str(lent))
    trained = TextClassifier.load_from_checkpoint(backward)
    fresh = TextClassifier(**{**trained.hparams, "backward": None})
    losses = [
        Trainer(**QUIET).test(model, data, ckpt_path=path, weights_only=True, verbose=False)[0]["test/nats_per_text"]
        for model, path in ((trained, None), (fresh, backward))
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="the checkpoint reads the other way: leave backward out"):
        Trainer(**QUIET).test(
            TextClassifier(**{**trained.hparams, "backward": False}), data, ckpt_path=backward, weights_only=True
        )
    assert main(["test", f"--ckpt_path={forward}", "--model.average_with=last"]) == main(
        ["test", f"--ckpt_path={forward}", f"--model.average_with={newest()}"]
    )

    found = main(["test", f"--ckpt_path={forward}", f"--model.average_with={backward}"])
    data = LabelledTextDataModule("texts.csv", tokenizer=str(lent))
    data.setup("test")
    texts = [row.text for row in data.rows["test"]]
    labels = torch.tensor([data.classes.index(row.label) for row in data.rows["test"]])
    alone = [classify(path, texts) for path in (forward, backward)]
    mean = classify(forward, texts, average_with=backward)
    torch.testing.assert_close(mean, (alone[0] + alone[1]) / 2)
    assert found["test/nats_per_text"] == pytest.approx(nn.functional.nll_loss(mean.log(), labels).item(), rel=1e-5)
    assert not torch.allclose(alone[0], alone[1])

    Path("stars.csv").write_text("text,label\n" + "".join(f"a superb {n} film,{n % 3}\n" for n in range(60)))
    main(["fit", *short, "--data.dataset=stars.csv", f"--data.tokenizer={lent}", "--model.schedule=one_cycle"])
    rows = csv.DictReader((newest().parent.parent / "metrics.csv").read_text().splitlines())
    rates = [float(value) for row in rows for name, value in row.items() if name.startswith("lr-") and value]
    assert min(rates) == pytest.approx(0.05 / 25)
    for run, arguments, text in (
        (main, ["fit", *short, f"--model.init_from={lent}", "--model.backward=false"], "reads the other way"),
        (main, ["test", f"--ckpt_path={forward}", f"--model.average_with={newest()}"], "has the classes 0, 1, 2"),
        (main, ["fit", *short, f"--model.average_with={newest()}"], "average_with is for an evaluation: train each"),
        (language_model.main, ["fit", *LM[:2], *LM[3:], f"--model.init_from={lent}"], "give --data.backward True"),
    ):
        with pytest.raises(SystemExit):
            run(arguments)
        assert text in capsys.readouterr().err


def test_a_classifier_that_goes_on_reads_the_way_it_did():
    main([*SMALL, "--trainer.max_steps=1", "--model.backward=true"])
    data, path = LabelledTextDataModule("texts.csv", tokenizer=str(newest())), str(newest())
    trainer = Trainer(max_epochs=0, **QUIET)
    trainer.fit(kept := TextClassifier(init_from=path), data)
    assert kept.network.backward
    with pytest.raises(ValueError, match=r"reads the other way: leave --model\.backward out"):
        trainer.fit(TextClassifier(init_from=path, backward=False), data)


def test_a_classifier_goes_on_from_its_head_where_the_classes_are_the_same():
    main([*SMALL, "--trainer.max_steps=3"])
    path = newest()
    main([*SMALL[:1], *SMALL[4:], "--trainer.max_steps=1", "--model.init_from=last", "--model.learning_rate=1e-9"])
    before, after = weights(path), weights(newest())
    assert path != newest()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


def test_layers_do_not_thaw_on_several_processes():
    for epochs in (0, 1):
        model = TextClassifier(unfreeze_epochs=epochs)
        model._trainer = SimpleNamespace(world_size=2, state=SimpleNamespace(fn="fit"), callbacks=[])
        if epochs:
            with pytest.raises(ValueError, match=r"unfreeze_epochs must be 0 on several processes, .* got 1"):
                model.configure_callbacks()
        else:
            assert len(model.configure_callbacks()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model.dropout=0.8", "--model.dropout_factor=2"], "dropout times dropout_factor must be less than 1"),
        (["--model.cell=elman"], "--model.cell"),
        (["--model.cell=mlstm", "--model.weight_drop=0.3"], "weight_drop is for lstm, gru and rnn, got mlstm"),
        (["--model.layer_decay=0.5"], "layer_decay must be at least 1, got 0.5"),
        (["--data.text=words"], "has no column 'words': it has text, label"),
        (["--data.predict=texts.csv"], "is for predict, not for training"),
        (["--model.init_from=language_model/best"], "no run in runs/language_model has left a best.ckpt"),
        (["--data.dataset=one.csv"], "one.csv has one class only, 'x'"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(arguments, text, capsys):
    Path("one.csv").write_text("text,label\n" + "".join(f"text {n},x\n" for n in range(20)))
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, "--trainer.max_steps=1", *arguments])
    told = capsys.readouterr().err
    assert stop.value.code in (1, 2) and text in told and "Traceback" not in told and len(told.splitlines()) < 6
    assert not list(Path("runs").glob("*/*"))
