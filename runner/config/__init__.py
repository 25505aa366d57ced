"""What a request says: YAML composed by Hydra, then one pydantic tree that finds every fault at once.

`tree` is the shape of a request and the user's manual of every key; `compose` turns a command line into
plain values and translates what Hydra says. It refuses unknown keys, wrong types, values out of bounds and
missing ones. What it does not know: whether files exist or belong together; that is the contract's.
"""

from runner.config.compose import Command, compose, conf_dir, parse_command, plain, translated
from runner.config.faults import parse_request
from runner.config.tree import Request

__all__ = ["Command", "Request", "compose", "conf_dir", "parse_command", "parse_request", "plain", "translated"]
