"""The command line as a user meets it, called in this process."""

from processes import REPOSITORY

from anchors_jax.__main__ import main


def config(name, variant="smoke"):
    """The flag for a config of this repository."""
    return f"--config={REPOSITORY}/configs/{name}.py:{variant}"


def command(*words):
    """`anchors_jax WORDS`; returns the exit status."""
    return main(["anchors_jax", *map(str, words)])


def one_sentence(error):
    """What went to the error stream says one thing, and says that it is an error."""
    assert error.startswith("error: "), error
    assert len(error.strip().splitlines()) == 1, error


def refused(capsys, *words, status, message):
    """`anchors_jax WORDS` ends with `status` and one sentence that has `message` in it."""
    assert command(*words) == status
    error = capsys.readouterr().err
    assert message in error, error
    one_sentence(error)
