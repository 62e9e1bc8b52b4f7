"""BERT: masked words (Devlin et al. 2019, §3.1), and next-sentence prediction if asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker import tokens
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.workloads.batches import global_batch

# Of the chosen words 80 % become [MASK], 10 % a random word, 10 % stay.
MASKED, RANDOM = 0.8, 0.1


class BertMLM:
    """Sequences of [CLS] A [SEP], or with NSP [CLS] A [SEP] B [SEP] where B follows A in half of them."""

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.vocab_size: int = config["model"]["vocab_size"]
        self.nsp = bool(config["model"].get("nsp"))
        self.special: dict[str, int] = data["special"]
        self.train_N = tokens.read(data["train"])
        self._generator = torch.Generator().manual_seed(config["seed"] + 1)
        # Words only: an id that is no special token, to replace a word by another.
        self._words_W = torch.tensor([i for i in range(data["vocab_size"]) if i not in self.special.values()])
        count = config["eval_batches"] * global_batch(config)
        # Fixed masks: every mode is asked the same questions.
        generator = torch.Generator().manual_seed(config["seed"] + 2)
        self.eval_batch = self._examples(tokens.read(data["valid"]), count, generator, random=False)

    @property
    def _words(self) -> int:
        """Words of a sequence, without [CLS] and [SEP]."""
        return int(self.config["sequence_length"]) - (3 if self.nsp else 2)

    def build(self) -> nn.Module:
        return BERT(BERTConfig(**self.config["model"]))

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        batch = global_batch(self.config)
        examples = self._examples(self.train_N, steps * batch, self._generator, random=True)
        return tuple(tensor.view(steps, batch, *tensor.shape[1:]) for tensor in examples)

    def _examples(self, text_N: Tensor, count: int, generator: torch.Generator, random: bool) -> tuple[Tensor, ...]:
        """``count`` masked sequences: tokens_CT, segments_CT, positions_CK, labels_CK (and next_C with NSP)."""
        words = self._words
        if random:
            words_CW = tokens.random_windows(text_N, count, words, generator)
        else:
            words_CW = tokens.consecutive_windows(text_N, count, words, stride=words)
        count = len(words_CW)
        cls_C1 = torch.full((count, 1), self.special["[CLS]"])
        sep_C1 = torch.full((count, 1), self.special["[SEP]"])
        if not self.nsp:
            tokens_CT = torch.cat([cls_C1, words_CW, sep_C1], dim=1)
            return self._mask(tokens_CT, torch.zeros_like(tokens_CT), generator)
        half = words // 2
        next_C = torch.randint(2, (count,), generator=generator)  # 0: B follows A, 1: B is from elsewhere
        elsewhere_CW = tokens.random_windows(text_N, count, words - half, generator)
        second_CW = torch.where(next_C[:, None] == 0, words_CW[:, half:], elsewhere_CW)
        tokens_CT = torch.cat([cls_C1, words_CW[:, :half], sep_C1, second_CW, sep_C1], dim=1)
        segments_CT = torch.zeros_like(tokens_CT)
        segments_CT[:, half + 2 :] = 1
        return (*self._mask(tokens_CT, segments_CT, generator), next_C)

    def _mask(self, tokens_CT: Tensor, segments_CT: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        count, K = len(tokens_CT), self.config["masked"]
        order_CT = torch.rand(tokens_CT.shape, generator=generator)
        order_CT[(tokens_CT == self.special["[CLS]"]) | (tokens_CT == self.special["[SEP]"])] = 2.0  # never chosen
        positions_CK = order_CT.topk(K, dim=1, largest=False).indices.sort(dim=1).values
        labels_CK = tokens_CT.gather(1, positions_CK)
        choice_CK = torch.rand((count, K), generator=generator)
        random_CK = self._words_W[torch.randint(len(self._words_W), (count, K), generator=generator)]
        replaced_CK = torch.where(choice_CK < MASKED, self.special["[MASK]"], labels_CK)
        replaced_CK = torch.where((choice_CK >= MASKED) & (choice_CK < MASKED + RANDOM), random_CK, replaced_CK)
        return tokens_CT.scatter(1, positions_CK, replaced_CK), segments_CT, positions_CK, labels_CK

    def before(self, model: nn.Module) -> None:
        return

    def references(self) -> list[dict[str, Any]]:
        unigram = tokens.unigram_loss(self.train_N, self.eval_batch[3], self.vocab_size)
        return [{"name": "unigram", "value": unigram, "kind": "baseline"}]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        device = next(model.parameters()).device
        batch, total, right, next_right = self.config["micro_batch_size"], 0.0, 0, 0
        for examples in zip(*(tensor.split(batch) for tensor in self.eval_batch), strict=True):
            tokens_BT, segments_BT, positions_BK, labels_BK, *next_B = (tensor.to(device) for tensor in examples)
            output = model(tokens_BT, segments_BT)
            logits_BTV, next_logits_B2 = output if self.nsp else (output, None)
            logits_BKV = logits_BTV.gather(1, positions_BK[..., None].expand(-1, -1, logits_BTV.shape[-1])).float()
            total += nn.functional.cross_entropy(logits_BKV.flatten(0, 1), labels_BK.flatten(), reduction="sum").item()
            right += (logits_BKV.argmax(-1) == labels_BK).sum().item()
            if next_logits_B2 is not None:
                next_right += (next_logits_B2.argmax(-1) == next_B[0]).sum().item()
        asked = self.eval_batch[3].numel()
        loss = total / asked
        metrics = {"masked_accuracy": right / asked, "perplexity": math.exp(loss) if loss < 700 else math.inf}
        if self.nsp:
            metrics["next_sentence_accuracy"] = next_right / len(self.eval_batch[0])
        return loss, metrics

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        return {}, []
