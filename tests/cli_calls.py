"""Calls of the command line in this process, by the fixture ``run``."""

#: Options of a network that trains in a second.
SMALL = [
    "--model.network.init_args.hidden_channels",
    "16",
    "--model.network.init_args.num_layers",
    "2",
]


def fit(run, preset: str = "freesolv", epochs: int = 2, *more: str) -> tuple[int, str, str]:
    result = run("fit", "--config", preset, "--trainer.max_epochs", str(epochs), *SMALL, *more)
    assert result[0] == 0, result[2]
    return result


def refused(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1  # one sentence, no traceback
    return err
