"""Trains the reward model that `Summarize-v0` has built in, and measures it on documents that it has not seen.

    python -m benchmarks.summarize_model               # some minutes; writes envs/tasks/summarize_model

A Llama of 0.1 M parameters over the words of the documents learns to prefer the news in one sentence to worse summaries.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from tokengym.envs.tasks import summarize
from tokengym.envs.tasks.generated import Draw, GeneratedRows, stable_hash
from tokengym.envs.tasks.summarize_documents import (
    DAYS,
    FOODS,
    NAMES,
    PLACES,
    THINGS,
    VERBS,
    WEATHER,
    draw_document,
    worse_summary,
)
from tokengym.rewards import Ranking, ScalarRewardModel, train_reward_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from .machine import machine

OUT = Path(__file__).parent / "results" / "summarize_model.json"
WORDS = r"[A-Za-z]+|[^\sA-Za-z]"
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<end>"


@dataclass(frozen=True)
class Stage:
    """A part of the training: the kinds of worse summaries that there are in it."""

    documents: int
    kinds: int
    learning_rate: float


# To compare facts with the document takes long to find, and is not found among what is easier to see: it comes first.
STAGES = (Stage(1_600, 7, 5e-4), Stage(32_000, 7, 3e-3), Stage(32_000, 14, 2e-3))


def main(stages: tuple[Stage, ...] = STAGES, model: Path = summarize.MODEL, out: Path = OUT, seed: int = 0) -> None:
    """Train, measure, write.

    Args:
        stages: one after the other.
        model: the folder that the model goes to.
        out: where the results go.
        seed: of weights and order.
    """
    reward = ScalarRewardModel(network(seed), tokenizer())
    first, results = 0, []
    for stage in stages:
        results.append(
            train_reward_model(
                reward,
                rankings("train", range(first, first + stage.documents), stage.kinds),
                held_out=rankings("test", range(1_000)),
                learning_rate=stage.learning_rate,
                seed=seed,
            )
        )
        print(f"{stage}: accuracy {results[-1].accuracy:.3f}", flush=True)
        first += stage.documents
    result = results[-1]
    reward.calibrate([episode for ranking in rankings("train", range(500)) for episode in ranking.episodes()])
    reward.save(model)
    summary = {
        "command": "python -m benchmarks.summarize_model",
        "machine": machine(),
        "parameters": sum(p.numel() for p in reward.text.model.parameters()),
        "stages": [asdict(stage) for stage in stages],
        "accuracy": result.accuracy,
        "accuracy_before": results[0].accuracy_before,
        "last_loss": result.losses[-1],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"accuracy on {result.pairs} held-out pairs {results[0].accuracy_before:.3f} → {result.accuracy:.3f}")


def rankings(split: str, documents: range, kinds: int = 14) -> list[Ranking]:
    """Documents with their good summary and a worse one; every other prompt asks for it in words."""
    rows = GeneratedRows("Summarize rankings", draw_document, split)
    found = []
    for i in documents:
        row = rows[i]
        worse = worse_summary(Draw((stable_hash(("worse summaries", split), 8), 0), i), row, kinds)
        prompt = (summarize.BRIEF, summarize.FULL)[i % 2].format(document=row["document"])
        found.append(Ranking(prompt, [row["answer"], worse]))
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """The words of the documents; whatever else there is is unknown."""
    lists = (NAMES, VERBS, THINGS, PLACES, DAYS, FOODS, WEATHER)
    rows = GeneratedRows("Summarize rankings", draw_document, "train")
    texts = [summarize.FULL, *(word for words in lists for word in words), *(rows[i]["document"] for i in range(200))]
    known = {word for text in texts for word in re.findall(WORDS, text.replace("{document}", ""))}
    special = ["<unknown>", "<system>", "<user>", "<assistant>", "<end>"]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *sorted(known)])}, unk_token="<unknown>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    backend.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unknown>", eos_token="<end>", model_max_length=8192
    )
    made.chat_template = TEMPLATE
    return made


def network(seed: int) -> LlamaForSequenceClassification:
    """With random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=8192,
        initializer_range=0.06,
    )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        # Equal words attend to one another from the start: to compare with the document need not be found by chance.
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model


if __name__ == "__main__":
    tyro.cli(main)
