"""Environments: text generation as Markov decision processes, by whole turns (`TextEnv`) or by tokens (`TokenEnv`)."""

from .core import Demonstration, Reply, TextEnv
from .datasets import Rows, load_rows
from .registration import ENVIRONMENTS, as_text_env, register_environments
from .spaces import TextSpace
from .token_env import TokenEnv
from .tokenizers import ByteTokenizer, ChatTokenizer, StopStrings, Tokenizer, load_tokenizer
from .transcript import Transcript, Turn

__all__ = [
    "ENVIRONMENTS",
    "ByteTokenizer",
    "ChatTokenizer",
    "Demonstration",
    "Reply",
    "Rows",
    "StopStrings",
    "TextEnv",
    "TextSpace",
    "TokenEnv",
    "Tokenizer",
    "Transcript",
    "Turn",
    "as_text_env",
    "load_rows",
    "load_tokenizer",
    "register_environments",
]
