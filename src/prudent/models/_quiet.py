"""What Transformers and PEFT would say on the terminal, kept off it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_transformers"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep off the terminal what is read here instead, or is no business of the user's.

    That is Transformers' bars and report of missing weights, what PEFT says when it mends its own settings for GPT-2,
    and what one of the two libraries has deprecated in the other.

    Example:
        >>> with quiet_transformers():
        ...     model = AutoModel.from_pretrained("my-model")  # doctest: +SKIP
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    shows_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()
