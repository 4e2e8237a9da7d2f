"""Write docs/environments.md from the docstrings of the environments and wrappers.

    python docs/generate.py            # write it
    python docs/generate.py --check    # say whether it is up to date

Nothing is made: environments that load models or need an extra are read all the same.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import gymnasium as gym
from tokengym.envs import ENVIRONMENTS, TokenEnv, wrappers
from tokengym.envs.registration import environment_class

FILE = Path(__file__).with_name("environments.md")

INTRODUCTION = """\
# Environments

*This file is written by `python docs/generate.py` from the docstrings; change those.*

`gym.make(ID)` makes the token-level MDP of a task, `gym.make(ID, level="turn")` the one with a whole turn of the policy
per step, and `gym.make_vec(ID, num_envs, vectorization_mode="vector_entry_point")` many episodes in one process.
"""
WRAPPERS = """\
## Wrappers

`tokengym.envs.wrappers`. {summary}

```python
task = SystemPrompt(gym.make("MathVerify-v0", level="turn"), "Think step by step.")
env = TokenEnv(Retry(task, tries=3), max_tokens=512)      # or GRPO(env=Retry(task, tries=3))
```
"""


def text() -> str:
    """The whole file."""
    classes = {env_id: environment_class(env_id) for env_id in ENVIRONMENTS}
    parts = [INTRODUCTION]
    rows = [f"| [{env_id}](#{env_id.lower()}) | {_summary(cls)} |" for env_id, cls in classes.items()]
    parts.append("\n".join(["| environment | task |", "| --- | --- |", *rows]) + "\n")
    parts.append(f"## The token level\n\n`tokengym.envs.TokenEnv`. {_demoted(TokenEnv)}\n")
    parts += [f"## {env_id}\n\n{_demoted(cls)}\n" for env_id, cls in classes.items()]
    module = inspect.getdoc(wrappers) or ""
    parts.append(WRAPPERS.format(summary=module.partition("\n\n")[2]))
    for name in wrappers.__all__:
        cls = getattr(wrappers, name)
        if not inspect.isabstract(cls) and issubclass(cls, gym.Wrapper) and "Args:" in (cls.__doc__ or ""):
            parts.append(f"### {name}{_signature(cls)}\n\n{_listed(inspect.getdoc(cls) or '')}\n")
    return "\n".join(parts)


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def _demoted(cls: type) -> str:
    """A docstring with its headings a level lower."""
    return re.sub(r"^#", "##", inspect.getdoc(cls) or "", flags=re.MULTILINE)


def _signature(cls: type) -> str:
    signature = inspect.signature(cls)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def _listed(doc: str) -> str:
    """A docstring with what stands below `Args:` and the like as lists."""
    lines: list[str] = []
    section = ""
    for line in doc.splitlines():
        if re.fullmatch(r"(Args|Attributes|Raises):", line):
            section = line.rstrip(":")
            lines += [{"Args": "Arguments:", "Attributes": "Attributes:", "Raises": "Errors:"}[section], ""]
        elif section and (entry := re.match(r" {4}(\w[\w, ]*): (.*)", line)):
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            lines.append(f"* {names}: {entry[2]}")
        elif section and line.startswith("    "):
            lines.append("  " + line.strip())
        else:
            section = section if not line else ""
            lines.append(line)
    return "\n".join(lines).strip()


def main() -> None:
    written = text()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(written)
    elif not FILE.exists() or FILE.read_text() != written:
        raise SystemExit(f"{FILE.name} is not up to date: run python docs/generate.py")


if __name__ == "__main__":
    main()
