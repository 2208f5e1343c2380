"""A user's own text, by the commands of docs/your-own-data.md."""

import json
import re
from pathlib import Path

import pytest

from wnseq.recipes.language_model import main

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
PROSE = "Der Weg ist weit, und «größer» ist das Ziel.\nThe weight of a word is its scale.\n"
SMALL = ["--model.hidden_size=8", "--data.batch_size=4", "--data.bptt=8", "--trainer.max_epochs=1",
         *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test"))]  # fmt: skip
SAID = [  # by the output of each command
    r"files: book\.txt; cut 90 : 5 : 5 .* its order",
    r"files: one\.txt, two\.txt; not read: notes\.pdf \(no \.txt or \.tokens file\).*\(recognised as cp1252, utf-8\)",
    r"files: posts\.jsonl; cut",
    r"files: book\.txt; .* in each of 10 stretches",
    r"(?s)files: book\.txt\nval part: one\.txt\ntest part: two\.txt",
    r"tokenizer: word \(punctuation\), 2\d entries, 0\.00% of the test tokens unknown",
    r"measured on  corpus .*book\.txt \(sha256 .*\), test part: ",
    r"(?s)measured on  corpus articles \(sha256 .*trained on   corpus book\.txt",
    r"(?s)Der .*Der .*Der .*The .*The .*The ",
]


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    Path("articles").mkdir()
    for name, encoding in (("book.txt", "utf-8"), ("articles/one.txt", "cp1252"), ("articles/two.txt", "utf-8")):
        Path(name).write_bytes((PROSE * 200).encode(encoding))
    Path("articles/notes.pdf").write_bytes(b"%PDF")
    Path("posts.jsonl").write_text(f"{json.dumps({'text': PROSE * 9})}\n" * 30)
    Path("prompts.txt").write_text("Der \nThe ")
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    commands = [line.split() for block in blocks for line in block.splitlines() if "run language_model" in line]
    assert len(commands) == len(SAID)
    for (_, _, _, *words), said in zip(commands, SAID, strict=True):
        if "one.txt" in " ".join(words) or words[-1] == "articles":  # the page does not know its encoding
            Path("articles/one.txt").write_text(PROSE * 200, "utf-8")
        main([*words, *(SMALL if words[0].startswith("--") else [])])
        assert re.search(said, capsys.readouterr().out), (words, said)
    assert Path("samples.txt").read_text().count("--- sample ") == 6
