"""The checkpoint that a command starts from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from wnseq import __version__
from wnseq.training.cli.starting_point import (
    StartingPoint,
    describe_start,
    find_start,
    given_options,
    resume_arguments,
)

INFO = {"version": __version__, "recipe": "toy", "corpus": "a.txt", "corpus_sha256": "1" * 64, "data": {"size": 8}}


def options(**given: Any) -> Namespace:
    model = {"width": 4, "lr": 0.1, "init_from": None}
    return Namespace(model=Namespace(**model | given.pop("model", {})), **given)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "1" / "checkpoints"
    folder.mkdir(parents=True)
    content = {"wnseq": INFO, "hyper_parameters": {"width": 6, "lr": 0.5}, "state_dict": {}, "loops": {}}
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt"


@pytest.mark.parametrize("named", ["best", "path"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_checkpoint_is_found_by_both_options(saved: Path, tmp_path: Path, named: str, resumed: bool) -> None:
    name = "best" if named == "best" else str(saved)
    given = options(ckpt_path=name) if resumed else options(ckpt_path=None, model={"init_from": name})
    start = find_start(given, tmp_path, "toy")
    assert start == StartingPoint(saved, {"width": 6, "lr": 0.5}, INFO, resumed)
    own = {"model.width": 6, "model.lr": 0.5}
    assert start is not None
    assert start.defaults(None, set(), "fit") == (own | {"data.size": 8} if resumed else own)
    select = SimpleNamespace(options_from_checkpoint=lambda data, given, command: {command: (data, given)})
    if resumed:
        assert start.defaults(select, {"data.x"}, "test")["data.test"] == ({"size": 8}, {"x"})
    start.apply(given, "fit", SimpleNamespace(resume_may_change=("width", "lr")))
    assert (given.ckpt_path if resumed else given.model.init_from) == str(saved)


def test_a_run_that_goes_on_reads_nothing_again_that_it_started_from(saved: Path) -> None:
    start = StartingPoint(saved, {"width": 6, "lr": 0.5, "decay": 2.6}, INFO, resumed=True)
    model = {"width": 6, "lr": None, "decay": None, "init_from": "gone.pt", "init_vocabulary": "gone.txt"}
    given = options(ckpt_path=str(saved), model=model)
    start.apply(given, "fit", SimpleNamespace(resume_may_change=("lr",)))
    decided = {"width": 6, "lr": None, "decay": 2.6, "init_from": None, "init_vocabulary": None}
    assert given.model.as_dict() == decided
    for command in ("test", "validate", "predict"):
        given = options(ckpt_path=str(saved), model={"width": 6, "lr": 0.5, "init_from": "b.pt"})
        with pytest.raises(ValueError, match=r"best\.ckpt has all weights: --model\.init_from b\.pt would do nothing"):
            start.apply(given, command)


def test_an_evaluation_takes_no_hyper_parameter_that_would_do_nothing_in_it(saved: Path) -> None:
    start = StartingPoint(saved, {"width": 6, "lr": 0.5}, INFO, resumed=True)
    model_class = SimpleNamespace(resume_may_change=("lr", "width"), evaluation_may_change=("width",))
    start.apply(options(ckpt_path="x", model={"width": 7, "lr": 0.5}), "test", model_class)
    start.apply(options(ckpt_path="x", model={"width": 7, "lr": 0.1}), "fit", model_class)
    with pytest.raises(ValueError, match=r"was made with lr 0\.5: --model\.lr 0\.1 would not fit its weights, or do"):
        start.apply(options(ckpt_path="x", model={"width": 7, "lr": 0.1}), "test", model_class)


def test_nothing_named_is_no_start(tmp_path: Path) -> None:
    assert find_start(options(ckpt_path=None), tmp_path, "toy") is None


def test_a_plain_state_dict_has_no_hyper_parameters(tmp_path: Path) -> None:
    torch.save({"hyper_parameters": {"dropout": 1}, "state_dict": {}}, tmp_path / "plain.pt")
    start = find_start(options(model={"init_from": str(tmp_path / "plain.pt")}), tmp_path, "toy")
    assert start is not None and start.defaults(None, set(), "fit") == {}


@pytest.mark.parametrize(
    ("given", "recipe", "text"),
    [
        ({"model": {"init_from": "none.ckpt"}}, "toy", r"--model\.init_from: there is no checkpoint at none\.ckpt"),
        ({"model": {"init_from": "last"}}, "toy", r"--model\.init_from last: no run in .* has left a last\.ckpt"),
        ({"ckpt_path": "last"}, "toy", r"--ckpt_path last: no run"),
        ({"model": {"init_from": "best"}}, "vae", r"is of the recipe toy, this one is vae"),
    ],
)
def test_a_start_that_is_none_is_refused(
    saved: Path, tmp_path: Path, given: dict[str, Any], recipe: str, text: str
) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=text):
        find_start(options(**given), tmp_path, recipe)


def test_the_screen_names_what_comes_from_the_checkpoint(saved: Path) -> None:
    defaults = {"model.width": 4, "model.lr": 0.5}
    start = StartingPoint(saved, {"width": 6, "lr": 0.5}, INFO, resumed=False)
    assert describe_start(start, set(), defaults.get)[0].endswith("best.ckpt, with its width 6")
    assert describe_start(start, {"model.width"}, defaults.get)[0].endswith("best.ckpt")
    assert describe_start(None, set(), defaults.get) == []
    begun = replace(start, progress="step 2 of 9, the run was not finished")
    assert (
        "best.ckpt (step 2 of 9, the run was not finished), with its" in describe_start(begun, set(), defaults.get)[0]
    )
    for progress, said in ((begun.progress, "at step 2 of 9"), ("", "at its start")):
        line = describe_start(replace(start, progress=progress, resumed=True), set(), defaults.get)[0]
        assert line.startswith("resuming from ") and line.endswith(
            f"{said} in a new run, whose log begins with that of the run so far"
        )


def test_the_screen_names_what_was_measured_and_another_text(saved: Path) -> None:
    start = StartingPoint(saved, {}, INFO, resumed=True)

    def data(digest: str) -> Any:
        provenance = {"corpus": "b.txt", "corpus_sha256": digest * 64}
        return SimpleNamespace(provenance=lambda: provenance, describe_part=lambda part: f"the {part} part")

    whole, first = (
        SimpleNamespace(limit_val_batches=limit, num_val_batches=[number]) for limit, number in ((1.0, 7), (1, 1))
    )
    same, other = (list(start.describe_measured(data(digest), "val", whole)) for digest in "12")
    assert same[0].startswith("checkpoint   ") and same[0].endswith("best.ckpt")
    assert same[1:] == ["measured on  the val part"]
    assert other == [*same, "trained on   corpus a.txt (sha256 111111111111), which is another one"]
    own = replace(start, info={**INFO, "data": {**INFO.get("data", {}), "val": "/c.txt"}})
    for path, said in (("/c.txt", same), ("/d.txt", other)):  # a file that was the run's part, and another one
        measured = data("2")
        measured.val = path
        assert list(own.describe_measured(measured, "val", whole)) == said
    (said,) = list(start.describe_measured(data("1"), "val", first))[2:]
    assert said == "of these     1 batches, by limit_val_batches 1"
    assert len(list(start.describe_measured(None, "val", whole))) == 1


def test_given_options_are_named_in_full() -> None:
    given = Namespace(data=Namespace(corpus="x"), model=Namespace(sampling=Namespace(seed=1)), config=[])
    assert given_options(given) == {"data.corpus", "model.sampling.seed", "config"}


def test_a_run_goes_on_from_its_last_checkpoint_whatever_it_started_from(tmp_path: Path) -> None:
    words = ["fit", "--ckpt_path", "a", "--ckpt_path=b", "--data.corpus", "my text.txt"]
    assert resume_arguments(words, Path("last.ckpt")) == "fit --data.corpus 'my text.txt' --ckpt_path last.ckpt"
