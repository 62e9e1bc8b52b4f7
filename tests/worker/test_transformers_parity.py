"""The same weights give the same logits, loss and gradients as in transformers and peft."""

from __future__ import annotations

import pytest
import torch

from llmbench.worker.methods.lora import apply_lora
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.hf

Tensors = dict[str, torch.Tensor]

HEADS = 4
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-12)]
VOCABULARIES = [128, 100]  # a multiple of 64, and one that needs padding
B, T, K = 3, 24, 5


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_same(ours: Tensors, theirs: Tensors, limit: float) -> None:
    assert ours.keys() == theirs.keys()
    errors = {name: relative_error(ours[name], theirs[name]) for name in ours}
    assert max(errors.values()) <= limit, max(errors.items(), key=lambda item: item[1])


def gradients(model: torch.nn.Module) -> Tensors:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def randomize(model: torch.nn.Module) -> None:
    """Every parameter gets a value that matters: as initialized, biases are zero and gains are one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)


def pad_rows(tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, 0, 0, -tensor.size(0) % 64), value=value)


def gpt_names(theirs: Tensors, padding: float) -> Tensors:
    """Tensors of transformers' GPT-2 (weights or gradients) under our names; its Conv1D holds weights transposed."""
    renamed = {}
    for name, tensor in theirs.items():
        for old, new in (
            ("base_model.model.", ""),
            ("transformer.", ""),
            ("wte.", "token_embedding."),
            ("wpe.", "position_embedding."),
            ("h.", "blocks."),
            ("ln_1.", "attention_norm."),
            ("ln_2.", "mlp_norm."),
            ("ln_f.", "norm."),
            ("attn.c_attn.", "attention.qkv."),
            ("attn.c_proj.", "attention.proj."),
            ("mlp.c_fc.", "mlp.fc."),
            ("mlp.c_proj.", "mlp.proj."),
            ("base_layer.", "base."),
            ("lora_A.default.weight", "A"),
            ("lora_B.default.weight", "B"),
        ):
            name = name.replace(old, new)
        conv1d = name.endswith(("qkv.weight", "proj.weight", "fc.weight", "base.weight"))
        tensor = tensor.T if conv1d else tensor
        rows_of_qkv = ".qkv." in name and not name.endswith(".A")
        renamed[name] = by_head(tensor) if rows_of_qkv else tensor
    renamed.pop("lm_head.weight", None)  # tied to the token embedding
    if "token_embedding.weight" in renamed:
        renamed["token_embedding.weight"] = pad_rows(renamed["token_embedding.weight"], padding)
    return renamed


def by_head(rows: torch.Tensor) -> torch.Tensor:
    """Rows in the order (q or k or v, head, E) put in ours: (head, q or k or v, E)."""
    return rows.unflatten(0, (3, HEADS, -1)).transpose(0, 1).flatten(0, 2)


def bert_names(theirs: Tensors, padding: float) -> Tensors:
    """Tensors of transformers' BERT under our names; its queries, keys and values are three products, ours one."""
    renamed = {}
    for name, tensor in theirs.items():
        for old, new in (
            ("bert.embeddings.word_embeddings", "token_embedding"),
            ("bert.embeddings.position_embeddings", "position_embedding"),
            ("bert.embeddings.token_type_embeddings", "segment_embedding"),
            ("bert.embeddings.LayerNorm", "embedding_norm"),
            ("bert.pooler.dense", "pooler"),
            ("bert.encoder.layer", "blocks"),
            ("attention.self", "attention"),
            ("attention.output.dense", "attention.proj"),
            ("attention.output.LayerNorm", "attention_norm"),
            ("intermediate.dense", "mlp.fc"),
            ("output.dense", "mlp.proj"),
            ("output.LayerNorm", "mlp_norm"),
            ("cls.predictions.transform.dense", "mlm_head.dense"),
            ("cls.predictions.transform.LayerNorm", "mlm_head.norm"),
            ("cls.predictions.bias", "mlm_head.vocabulary.bias"),
            ("cls.seq_relationship", "nsp_head"),
        ):
            name = name.replace(old, new)
        if not name.startswith("cls.predictions.decoder"):  # tied to the token embedding and the bias
            renamed[name] = tensor
    for name in [name for name in renamed if ".query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("query", "qkv")] = by_head(torch.cat(parts))
    renamed["token_embedding.weight"] = pad_rows(renamed["token_embedding.weight"], padding)
    return renamed


def their_gpt(vocab_size: int, dtype: torch.dtype) -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=32,
        n_layer=2,
        n_head=HEADS,
        n_embd=48,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = transformers.GPT2LMHeadModel(config).to(dtype)
    randomize(model)
    return model


def our_gpt(vocab_size: int, dtype: torch.dtype) -> GPT:
    return GPT(GPTConfig(vocab_size, n_positions=32, n_layer=2, n_head=HEADS, d_model=48)).to(dtype)


def their_bert(vocab_size: int, nsp: bool, dtype: torch.dtype) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        hidden_size=48,
        intermediate_size=160,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        pad_token_id=None,
        attn_implementation="eager",
    )
    model = (transformers.BertForPreTraining if nsp else transformers.BertForMaskedLM)(config).to(dtype)
    randomize(model)
    return model


def assert_same_training(ours: torch.nn.Module, theirs: torch.nn.Module, tokens_BT: torch.Tensor, limit: float) -> None:
    inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    our_loss = ours(inputs_BT, targets_BT)
    our_loss.backward()
    # The loss of transformers is in fp32 whatever the model is, so its logits get one in their own precision too.
    assert our_loss.item() == pytest.approx(theirs(tokens_BT, labels=tokens_BT).loss.item(), rel=1e-6)
    their_loss = torch.nn.functional.cross_entropy(theirs(inputs_BT).logits.flatten(0, 1), targets_BT.flatten())
    their_loss.backward()
    assert relative_error(our_loss, their_loss) <= limit
    assert_same(gradients(ours), gpt_names(gradients(theirs), padding=0.0), limit)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_gpt_is_gpt2(vocab_size: int, dtype: torch.dtype, limit: float) -> None:
    theirs, ours = their_gpt(vocab_size, dtype), our_gpt(vocab_size, dtype)
    # Padding rows of 5 would take nearly all of the probability if they were not masked.
    ours.load_state_dict(gpt_names(theirs.state_dict(), padding=5.0))
    tokens_BT = torch.randint(vocab_size, (B, T + 1))

    logits_BTV = ours(tokens_BT)[..., :vocab_size]
    assert relative_error(logits_BTV, theirs(tokens_BT).logits) <= limit

    assert_same_training(ours, theirs, tokens_BT, limit)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("nsp", [False, True])
def test_bert_is_bert(nsp: bool, vocab_size: int, dtype: torch.dtype, limit: float) -> None:
    theirs = their_bert(vocab_size, nsp, dtype)
    ours = BERT(BERTConfig(vocab_size, n_positions=32, n_layer=2, n_head=HEADS, d_model=48, d_ff=160, nsp=nsp)).to(
        dtype
    )
    ours.load_state_dict(bert_names(theirs.state_dict(), padding=5.0))
    tokens_BT, segments_BT = torch.randint(vocab_size, (B, T)), torch.randint(2, (B, T))
    positions_BK = torch.stack([torch.randperm(T)[:K] for _ in range(B)])
    labels_BK, next_B = torch.randint(vocab_size, (B, K)), torch.randint(2, (B,))

    their_output = theirs(tokens_BT, token_type_ids=segments_BT)
    if nsp:
        mlm_BTV, nsp_B2 = ours(tokens_BT, segments_BT)
        assert relative_error(nsp_B2, their_output.seq_relationship_logits) <= limit
        assert relative_error(mlm_BTV[..., :vocab_size], their_output.prediction_logits) <= limit
    else:
        assert relative_error(ours(tokens_BT, segments_BT)[..., :vocab_size], their_output.logits) <= limit

    labels_BT = torch.full((B, T), -100).scatter(1, positions_BK, labels_BK)
    more = {"next_sentence_label": next_B} if nsp else {}
    their_loss = theirs(tokens_BT, token_type_ids=segments_BT, labels=labels_BT, **more).loss
    their_loss.backward()
    our_loss = ours(tokens_BT, segments_BT, positions_BK, labels_BK, next_B if nsp else None)
    our_loss.backward()
    assert relative_error(our_loss, their_loss) <= limit
    assert_same(gradients(ours), bert_names(gradients(theirs), padding=0.0), limit)


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
def test_lora_is_pefts(dtype: torch.dtype, limit: float) -> None:
    peft = pytest.importorskip("peft")
    rank, alpha, vocab_size = 4, 12, 100
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True
    )
    theirs = peft.get_peft_model(their_gpt(vocab_size, dtype), config, autocast_adapter_dtype=False)
    randomize(theirs)  # B too: while it is zero, A has no gradient
    ours = apply_lora(our_gpt(vocab_size, dtype), rank, alpha)
    ours.load_state_dict(gpt_names(theirs.state_dict(), padding=5.0))
    tokens_BT = torch.randint(vocab_size, (B, T + 1))

    assert relative_error(ours(tokens_BT)[..., :vocab_size], theirs(tokens_BT).logits) <= limit

    assert_same_training(ours, theirs, tokens_BT, limit)
    assert len(gradients(ours)) == 2 * 2 * 2  # A and B of two projections of two blocks
