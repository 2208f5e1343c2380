"""The private names that the command line needs still mean what it takes them for."""

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from wnseq.training import _lightning_internals as internals


def test_options_and_subcommands_are_found() -> None:
    parser = LightningArgumentParser(prog="program")
    fit = LightningArgumentParser()
    fit.add_argument("--step", "-s", type=int)
    parser.add_subcommands().add_subcommand("fit", fit)
    assert internals.subparsers(parser)["fit"] is fit
    assert {"--step", "-s"} <= set(internals.option_names(fit))
    assert "--step" not in internals.option_names(parser)


def test_lightning_still_has_the_method_that_is_overridden() -> None:
    assert callable(LightningCLI._parse_ckpt_path)
