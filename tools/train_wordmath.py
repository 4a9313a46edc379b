#!/usr/bin/env python3
"""Trains the wordmath model: a small GPT-OSS (MXFP4 experts, attention sinks, sliding window, YaRN) on generated word problems.

    train_wordmath.py tokenizer                 makes models/wordmath/tokenizer.json and the files beside it
    train_wordmath.py train --minutes 8         trains on one GPU and exports models/wordmath/model.safetensors

The expert weights are rounded to MXFP4 in every forward pass from the first step (straight-through gradients), everything else to
bfloat16, so the exported file holds exactly the weights that were trained. The schedule runs on the clock: it ends when --minutes do.
"""
import argparse
import json
import math
import multiprocessing as mp
import os
import queue
import random
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import wordmath  # noqa: E402

# --- tokenizer ---------------------------------------------------------------------------------------------------------------------

VOCAB = 2048
SPLIT = "|".join((
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"))
# The o200k_harmony specials in their order, moved from 199998.. to the end of our vocabulary.
SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|reserved_2034|>", "<|reserved_2035|>", "<|return|>", "<|constrain|>", "<|reserved_2038|>", "<|channel|>",
            "<|start|>", "<|end|>", "<|message|>", "<|reserved_2043|>", "<|reserved_2044|>", "<|reserved_2045|>", "<|call|>", "<|endofprompt|>"]


def make_tokenizer(out, samples):
    """Byte-level BPE with the o200k split. Merges are learned with digits kept apart, so every number is spelled digit by digit."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    rng = random.Random("tokenizer")

    def texts():
        for _ in range(samples):
            p = wordmath.draw(rng)
            yield p.question
            yield wordmath.analysis(p, rng.choice(("low", "medium", "high")))
            yield p.final
        for effort in ("low", "medium", "high"):
            for _ in range(200):
                yield wordmath.system_text(effort, "2026-01-01")
        yield from wordmath._DEVELOPERS * 50
        yield from ["system", "user", "assistant", "developer", "analysis", "commentary", "final"] * samples

    tok.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    assert tok.get_vocab_size() == VOCAB - len(SPECIALS), tok.get_vocab_size()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    assert tok.token_to_id("<|endofprompt|>") == VOCAB - 1
    os.makedirs(out, exist_ok=True)
    tok.save(os.path.join(out, "tokenizer.json"))
    write_json(out, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072, "padding_side": "left"})
    write_json(out, "special_tokens_map.json", {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"})


def write_json(out, name, value):
    with open(os.path.join(out, name), "w") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def config(layers, hidden, inter, heads):
    return {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "bos_token_id": 2032, "eos_token_id": 2036, "experts_per_token": 4,
        "head_dim": 64, "hidden_act": "silu", "hidden_size": hidden, "initial_context_length": 4096, "initializer_range": 0.02, "intermediate_size": inter,
        "layer_types": ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)], "max_position_embeddings": 131072, "model_type": "gpt_oss",
        "num_attention_heads": heads, "num_experts_per_tok": 4, "num_hidden_layers": layers, "num_key_value_heads": 2, "num_local_experts": 16,
        "output_router_logits": False, "pad_token_id": 2033,
        "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False},
        "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": VOCAB}


GENERATION = {"bos_token_id": 2032, "do_sample": False, "eos_token_id": [2036, 2033, 2046], "pad_token_id": 2033, "max_new_tokens": 512}

# --- data --------------------------------------------------------------------------------------------------------------------------

ROW = 512                    # tokens in a packed row; longer conversations are dropped (fewer than 1 in 1,000)


def _worker(seed, rows, out, stop):
    """Fills `out` with packed batches: ids and positions [rows, ROW], labels -1 where nothing is learned. Runs until `stop`."""
    import numpy as np
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(ROOT, "models/wordmath/tokenizer.json"))
    rng = random.Random(f"train{seed}")
    waiting = []                                             # conversations that found no room in the last batch
    while not stop.is_set():
        ids = np.full((rows, ROW), 2033, np.int16)
        pos = np.zeros((rows, ROW), np.int16)
        labels = np.full((rows, ROW), -1, np.int16)
        fill, n_examples, late = [0] * rows, 0, []
        while len(late) < 48:
            if not waiting:
                texts = [t for _ in range(64) for t in wordmath.example(rng)]
                encoded = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
                waiting = [(p, r) for p, r in zip(encoded[::2], encoded[1::2]) if len(p) + len(r) <= ROW]
            p, r = waiting.pop()
            n = len(p) + len(r)
            row = max((k for k in range(rows) if fill[k] + n <= ROW), key=fill.__getitem__, default=None)   # best fit
            if row is None:
                late.append((p, r))
                continue
            at = fill[row]
            ids[row, at:at + n] = p + r
            pos[row, at:at + n] = range(n)
            labels[row, at + len(p) - 1:at + n - 1] = r
            fill[row] = at + n
            n_examples += 1
        waiting += late
        for row in range(rows):                              # padding tokens are documents of their own
            pos[row, fill[row]:] = 0
        while not stop.is_set():
            try:
                out.put((ids, pos, labels, n_examples), timeout=1)
                break
            except queue.Full:
                pass


class Feed:
    def __init__(self, rows, workers, seed):
        ctx = mp.get_context("spawn")
        self.queue, self.stop = ctx.Queue(maxsize=64), ctx.Event()
        self.procs = [ctx.Process(target=_worker, args=(f"{seed}.{i}", rows, self.queue, self.stop), daemon=True) for i in range(workers)]
        for p in self.procs:
            p.start()

    def close(self):
        self.stop.set()
        for p in self.procs:
            p.terminate()


# --- model -------------------------------------------------------------------------------------------------------------------------

def build(cfg, device):
    """The training twin of GptOssForCausalLM. Imported lazily: the tokenizer command needs no torch."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    bf16 = torch.bfloat16
    H, I, E, D = cfg["hidden_size"], cfg["intermediate_size"], cfg["num_local_experts"], cfg["head_dim"]
    Q, KV, top_k, limit = cfg["num_attention_heads"], cfg["num_key_value_heads"], cfg["num_experts_per_tok"], cfg["swiglu_limit"]
    eps = cfg["rms_norm_eps"]

    def norm(x, w):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps) * w.to(bf16).float()).to(bf16)

    def fake_quant(w):
        return (w + (mxfp4(w)[0] - w).detach()).to(bf16)

    def linear(x, w, b):
        return F.linear(x, w.to(bf16), b.to(bf16))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            p = lambda *shape, std=0.02: nn.Parameter(torch.randn(*shape) * std if std else torch.zeros(*shape))
            out_std = 0.02 / math.sqrt(2 * cfg["num_hidden_layers"])
            self.norm1, self.norm2 = nn.Parameter(torch.ones(H)), nn.Parameter(torch.ones(H))
            self.q, self.k, self.v, self.o = p(Q * D, H), p(KV * D, H), p(KV * D, H), p(H, Q * D, std=out_std)
            self.qb, self.kb, self.vb, self.ob = p(Q * D, std=0), p(KV * D, std=0), p(KV * D, std=0), p(H, std=0)
            self.sinks = p(Q, std=0)
            self.router, self.router_b = p(E, H), p(E, std=0)
            # gate rows first, up rows second; interleaved only in the file
            self.gate_up, self.gate_up_b = p(2, E, I, H), p(2, E, I, std=0)
            self.down, self.down_b = p(E, H, I, std=out_std), p(E, H, std=0)

        def forward(self, x, cos, sin, mask):
            B, T, _ = x.shape
            t = norm(x, self.norm1)
            q = linear(t, self.q, self.qb).view(B, T, KV, Q // KV, D).permute(0, 2, 3, 1, 4)
            k = linear(t, self.k, self.kb).view(B, T, KV, D).transpose(1, 2)
            v = linear(t, self.v, self.vb).view(B, T, KV, D).transpose(1, 2)
            q, k = rope(q, cos[:, None, None], sin[:, None, None]), rope(k, cos[:, None], sin[:, None])
            s = (q.reshape(B, KV, -1, D) @ k.transpose(-1, -2)).view(B, KV, Q // KV, T, T).float() * D ** -0.5
            s = s.masked_fill(~mask[:, None, None], -1e30)
            sink = self.sinks.to(bf16).float().view(1, KV, Q // KV, 1, 1)
            m = torch.maximum(s.amax(-1, keepdim=True), sink).detach()
            e = (s - m).exp()
            a = (e / (e.sum(-1, keepdim=True) + (sink - m).exp())).to(bf16)
            a = (a.view(B, KV, -1, T) @ v).view(B, KV, Q // KV, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, Q * D)
            x = x + linear(a, self.o, self.ob)

            t = norm(x, self.norm2).view(B * T, H)
            g = linear(t, self.router, self.router_b).float()
            top, idx = g.topk(top_k, -1)
            w = torch.zeros_like(g).scatter(-1, idx, top.softmax(-1))            # [tokens, E], zero where not chosen
            u = F.linear(t, fake_quant(self.gate_up).view(2 * E * I, H), self.gate_up_b.to(bf16).view(-1)).view(B * T, 2, E, I)
            gate, up = u[:, 0].float().clamp(max=limit), u[:, 1].float().clamp(-limit, limit)
            h = (gate * torch.sigmoid(1.702 * gate) * (up + 1) * w[..., None]).to(bf16)
            down = fake_quant(self.down).transpose(0, 1).reshape(H, E * I)         # all experts in one GEMM: the sum over experts is its K
            y = F.linear(h.view(B * T, E * I), down) + w.to(bf16) @ self.down_b.to(bf16)
            balance = E * ((w > 0).float().mean(0) / top_k * g.softmax(-1).mean(0)).sum()
            return x + y.view(B, T, H), balance

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Parameter(torch.randn(VOCAB, H) * 0.5)
            self.head = nn.Parameter(torch.zeros(VOCAB, H))
            self.norm = nn.Parameter(torch.ones(H))
            self.blocks = nn.ModuleList(Block() for _ in range(cfg["num_hidden_layers"]))
            self.register_buffer("inv_freq", yarn(cfg), persistent=False)
            self.run = None

        def forward(self, ids, pos):
            ids, pos = ids.long(), pos.long()
            angle = pos[..., None].float() * self.inv_freq
            c = 0.1 * math.log(cfg["rope_scaling"]["factor"]) + 1
            cos, sin = angle.cos() * c, angle.sin() * c
            doc = (pos == 0).cumsum(-1)
            T = ids.shape[1]
            back = torch.arange(T, device=ids.device)[:, None] - torch.arange(T, device=ids.device)
            full = (doc[:, :, None] == doc[:, None, :]) & (back >= 0)
            near = full & (back < cfg["sliding_window"])
            x, balance = F.embedding(ids, self.embed).to(bf16), 0
            for i, b in enumerate(self.blocks):
                x, extra = (self.run or Block.forward)(b, x, cos, sin, near if i % 2 == 0 else full)
                balance = balance + extra
            return F.linear(norm(x, self.norm), self.head.to(bf16)), balance / len(self.blocks)

    model = Model().to(device)
    model.block_forward = Block.forward
    return model


def rope(x, cos, sin):
    import torch
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(torch.bfloat16)


def yarn(cfg):
    """Inverse frequencies of the YaRN scaling in the config (truncate false)."""
    import torch
    r, d, theta = cfg["rope_scaling"], cfg["head_dim"], cfg["rope_theta"]
    f = theta ** (torch.arange(0, d, 2).double() / d)
    at = lambda beta: d / 2 * math.log(r["original_max_position_embeddings"] / (beta * 2 * math.pi)) / math.log(theta)
    low, high = at(r["beta_fast"]), at(r["beta_slow"])
    ramp = ((torch.arange(d // 2).double() - low) / (high - low)).clamp(0, 1)
    return (ramp / (r["factor"] * f) + (1 - ramp) / f).float()


def mxfp4(w):
    """Rounds [..., K] to MXFP4 along K: (values, code magnitudes x2 as float, exponent). A block's scale is the smallest power of two
    that keeps its largest weight within 7 units; 6..7 saturates to 6, which costs less than doubling the step of the other 31."""
    import torch
    b = w.detach().float().unflatten(-1, (-1, 32))
    amax = b.abs().amax(-1, keepdim=True).clamp(min=2.0 ** -60)
    e = torch.floor(torch.log2(amax)) - 2
    e = torch.where(amax > 7 * torch.exp2(e), e + 1, e)
    scale = torch.exp2(e)
    q = b / scale
    a = q.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    a = (torch.round(a / step) * step).clamp(max=6.0) * torch.where(q < 0, -1.0, 1.0)
    return (a * scale).flatten(-2), a, e


# --- export ------------------------------------------------------------------------------------------------------------------------

def pack(w):
    """[..., rows, K] -> blocks [..., rows, K/32, 16] and scales [..., rows, K/32]: two codes a byte, even k in the low nibble."""
    import torch
    _, a, e = mxfp4(w)
    levels = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6], device=w.device)
    code = torch.bucketize(a.abs(), levels).to(torch.uint8)
    code = torch.where((a < 0) & (code > 0), code + 8, code).to(torch.uint8)
    return (code[..., 0::2] | code[..., 1::2] << 4).contiguous(), (e.squeeze(-1) + 127).to(torch.uint8).contiguous()


def export(model, cfg, out):
    import torch
    from safetensors.torch import save_file
    bf = lambda t: t.detach().to(torch.bfloat16).contiguous().cpu()
    tensors = {"model.embed_tokens.weight": bf(model.embed), "lm_head.weight": bf(model.head), "model.norm.weight": bf(model.norm)}
    for i, b in enumerate(model.blocks):
        p = f"model.layers.{i}."
        tensors |= {p + "input_layernorm.weight": bf(b.norm1), p + "post_attention_layernorm.weight": bf(b.norm2), p + "self_attn.sinks": bf(b.sinks),
                    p + "mlp.router.weight": bf(b.router), p + "mlp.router.bias": bf(b.router_b), p + "mlp.experts.down_proj_bias": bf(b.down_b)}
        for n in "qkvo":
            tensors |= {f"{p}self_attn.{n}_proj.weight": bf(getattr(b, n)), f"{p}self_attn.{n}_proj.bias": bf(getattr(b, n + "b"))}
        rows = lambda t: torch.stack((t[0], t[1]), 2).flatten(1, 2)                # gate 0, up 0, gate 1, up 1, ...
        blocks, scales = pack(rows(b.gate_up))
        tensors |= {p + "mlp.experts.gate_up_proj_blocks": blocks.cpu(), p + "mlp.experts.gate_up_proj_scales": scales.cpu(),
                    p + "mlp.experts.gate_up_proj_bias": bf(rows(b.gate_up_b[..., None]).squeeze(-1))}
        blocks, scales = pack(b.down)
        tensors |= {p + "mlp.experts.down_proj_blocks": blocks.cpu(), p + "mlp.experts.down_proj_scales": scales.cpu()}
    os.makedirs(out, exist_ok=True)
    part = os.path.join(out, "model.safetensors.part")
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, os.path.join(out, "model.safetensors"))
    write_json(out, "config.json", cfg)
    write_json(out, "generation_config.json", GENERATION)


def load_export(model, path):
    """Fills a model from an exported file, to go on training."""
    import torch
    from safetensors.torch import load_file
    t = load_file(path)
    levels = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6])
    def unpack(name):
        blocks, scales = t[name + "_blocks"], t[name + "_scales"]
        v = torch.stack((levels[(blocks & 15).long()], levels[(blocks >> 4).long()]), -1).flatten(-2)
        return (v * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)
    put = lambda param, value: param.data.copy_(value.float())
    put(model.embed, t["model.embed_tokens.weight"]), put(model.head, t["lm_head.weight"]), put(model.norm, t["model.norm.weight"])
    for i, b in enumerate(model.blocks):
        p = f"model.layers.{i}."
        put(b.norm1, t[p + "input_layernorm.weight"]), put(b.norm2, t[p + "post_attention_layernorm.weight"]), put(b.sinks, t[p + "self_attn.sinks"])
        put(b.router, t[p + "mlp.router.weight"]), put(b.router_b, t[p + "mlp.router.bias"]), put(b.down_b, t[p + "mlp.experts.down_proj_bias"])
        for n in "qkvo":
            put(getattr(b, n), t[f"{p}self_attn.{n}_proj.weight"]), put(getattr(b, n + "b"), t[f"{p}self_attn.{n}_proj.bias"])
        apart = lambda x: torch.stack((x[:, 0::2], x[:, 1::2]))
        put(b.gate_up, apart(unpack(p + "mlp.experts.gate_up_proj"))), put(b.gate_up_b, apart(t[p + "mlp.experts.gate_up_proj_bias"]))
        put(b.down, unpack(p + "mlp.experts.down_proj"))


# --- optimizer ---------------------------------------------------------------------------------------------------------------------

def orthogonalize(g):
    """Newton-Schulz towards the nearest semi-orthogonal matrix, batched over the leading dimension."""
    import torch
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalized per matrix, for attention and expert weights; same-shaped matrices of all layers go in one batch."""
    def __init__(self, params, momentum=0.95):
        import torch
        self.params, self.momentum = params, momentum
        self.state = [torch.zeros_like(p) for p in params]
        self.groups = {}
        for i, p in enumerate(params):
            self.groups.setdefault(tuple(p.shape[-2:]), []).append(i)

    def step(self, lr, ortho):
        import torch
        for (rows, cols), members in self.groups.items():
            grads = [self.params[i].grad for i in members]
            bufs = [self.state[i] for i in members]
            torch._foreach_lerp_(bufs, grads, 1 - self.momentum)
            look = torch._foreach_lerp(grads, bufs, self.momentum)
            flat = [g.reshape(-1, rows, cols) for g in look]
            update = ortho(torch.cat(flat)) * (0.2 * math.sqrt(max(rows, cols)) * -lr)
            for i, u in zip(members, update.split([f.shape[0] for f in flat])):
                self.params[i].data.add_(u.reshape(self.params[i].shape))


# --- training ----------------------------------------------------------------------------------------------------------------------

def train(args):
    import torch
    import torch.nn.functional as F
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    begin = time.time()
    feed = Feed(args.rows, args.workers, args.seed)
    cfg = config(args.layers, args.hidden, args.inter, args.heads)
    model = build(cfg, device)
    if args.init:
        load_export(model, args.init)
    ortho = orthogonalize
    if device == "cuda":
        model.run = torch.compile(model.block_forward, dynamic=False)
        ortho = torch.compile(orthogonalize, dynamic=False)
    matrices = [p for b in model.blocks for p in (b.q, b.k, b.v, b.o, b.gate_up, b.down)]
    big = {id(p) for p in matrices}
    tables = [model.embed, model.head]
    rest = [p for p in model.parameters() if id(p) not in big and p is not model.embed and p is not model.head]
    muon = Muon(matrices)
    adam = torch.optim.AdamW([{"params": tables, "base": args.lr_table}, {"params": rest, "base": args.lr_rest}], betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda")
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{n_params / 1e6:.1f}M parameters, {args.rows * ROW} tokens a step, data from {args.workers} processes", flush=True)

    loss_fn = torch.compile(lambda lg, lb: F.cross_entropy(lg.float(), lb, ignore_index=-1)) if device == "cuda" else None
    train_s, started, step, seen, tokens = args.minutes * 60, None, 0, 0, 0
    log_at, save_at, sums = 0, time.time() + 60, []
    while True:
        now = time.time()
        done = 0.0 if started is None else (now - started) / train_s
        if done >= 1 or args.steps and step >= args.steps:
            break
        warm = min(1.0, (step + 1) / args.warmup)
        lr = warm * (1.0 if done < args.hold else max(0.0, (1 - done) / (1 - args.hold)))
        ids, pos, labels, n = feed.queue.get()
        ids, pos, labels = (torch.from_numpy(a).to(device, non_blocking=True) for a in (ids, pos, labels))
        logits, balance = model(ids, pos)
        flat, lab = logits.view(-1, VOCAB), labels.long().view(-1)
        ce = loss_fn(flat, lab) if loss_fn else F.cross_entropy(flat.float(), lab, ignore_index=-1)
        (ce + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(tables + rest, 1.0)
        muon.step(lr * args.lr, ortho)
        for g in adam.param_groups:
            g["lr"] = lr * g["base"]
        adam.step()
        for p in model.parameters():
            p.grad = None
        step, seen, tokens = step + 1, seen + n, tokens + ids.numel()
        sums.append(torch.stack((ce.detach(), balance.detach())))
        if step == 3:                                          # compiled by now: the clock starts
            if device == "cuda":
                torch.cuda.synchronize()
            started, tokens = time.time(), 0
            print(f"compiled after {started - begin:.0f} s", flush=True)
        if step >= log_at:
            ce, bal = torch.stack(sums).mean(0).tolist()
            sums = []
            rate = tokens / max(1e-9, time.time() - started) if started else 0
            mem = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0
            print(f"step {step:6}  {100 * done:5.1f} %  loss {ce:.4f}  balance {bal:.3f}  lr {lr:.3f}  {seen / 1e6:.2f}M examples  {rate / 1e3:.0f}k tok/s  queue {feed.queue.qsize()}  {mem:.0f} GiB", flush=True)
            log_at = step + args.log
        if time.time() > save_at:
            export(model, cfg, args.output)
            save_at = time.time() + 60
    feed.close()
    export(model, cfg, args.output)
    size = os.path.getsize(os.path.join(args.output, "model.safetensors"))
    print(f"{step} steps, {seen} examples, {time.time() - begin:.0f} s -> {args.output}/model.safetensors, {size} bytes", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    t = sub.add_parser("tokenizer", help="train the tokenizer")
    t.add_argument("-o", "--output", default=os.path.join(ROOT, "models/wordmath"))
    t.add_argument("--samples", type=int, default=150000, help="problems in its corpus")
    t = sub.add_parser("train", help="train and export")
    t.add_argument("-o", "--output", default=os.path.join(ROOT, "models/wordmath"))
    t.add_argument("--init", help="go on from this model.safetensors")
    t.add_argument("--minutes", type=float, default=8, help="training time, compilation not counted")
    t.add_argument("--steps", type=int, default=0, help="stop after so many steps")
    t.add_argument("--rows", type=int, default=128, help=f"rows of {ROW} tokens in a batch")
    t.add_argument("--workers", type=int, default=12)
    t.add_argument("--layers", type=int, default=6)
    t.add_argument("--hidden", type=int, default=256)
    t.add_argument("--inter", type=int, default=256)
    t.add_argument("--heads", type=int, default=8)
    t.add_argument("--lr", type=float, default=4e-3, help="Muon, for attention and expert matrices")
    t.add_argument("--lr-table", type=float, default=4e-3, help="AdamW, for embedding and head")
    t.add_argument("--lr-rest", type=float, default=2e-3, help="AdamW, for the rest")
    t.add_argument("--warmup", type=int, default=100)
    t.add_argument("--hold", type=float, default=0.4, help="share of the time at full rate before the linear decay")
    t.add_argument("--seed", type=int, default=1)
    t.add_argument("--log", type=int, default=100, help="steps between progress lines")
    args = ap.parse_args()
    if args.what == "tokenizer":
        make_tokenizer(args.output, args.samples)
    else:
        train(args)


if __name__ == "__main__":
    main()
