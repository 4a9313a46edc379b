#!/usr/bin/env python3
"""One GPT-OSS MoE layer on PyTorch tensors through Moxie's C interface, with nothing but ctypes.

    python3 examples/ops_ctypes.py [build/libmoxie-cuda.so] [n_tok]

Packs random MXFP4 experts, makes the plans, captures router + experts in a CUDA graph, and compares with the same layer in
float32 torch.  The declarations are those of include/moxie_route.h and include/moxie_ops.h, field by field.
"""
import ctypes as C
import sys

import torch

P, I, F, U64 = C.c_void_p, C.c_int32, C.c_float, C.c_uint64


def struct(name, **fields):
    return type(name, (C.Structure,), {"_fields_": list(fields.items())})


Err = struct("moxie_err", code=I, text=C.c_char * 508)
RouterShape = struct("moxie_router_shape", n_expert=I, n_used=I, score=I, renormalise=I, n_group=I, n_group_used=I, logit_dtype=I,
                     n_embd=I, n_tok_max=I, bias_dtype=I, expert_first=I, n_expert_here=I, scale=F, flags=C.c_uint32)
RouterArgs = struct("moxie_router_args", n_tok=I, tile_n=I, n_vocab=I, reserved=I, x=P, w_router=P, b_router=P, logits=P, select_bias=P,
                    expert_scale=P, hash_table=P, tok_id=P, n_tok_real=P, topk_id_in=P, topk_w_in=P, logits_out=P, topk_id=P, topk_w=P,
                    expert_off=P, sorted_pair=P, tiles=P, head=P, tok_done=P, ws=P, norm=P, h=P, eps=F)
Weights = struct("moxie_moe_weights", gate_up=P, down=P, gate_up_mul=P, down_mul=P, gate_up_bias=P, down_bias=P)
PackSizes = struct("moxie_moe_pack_sizes", gate_up=U64, down=U64, gate_up_mul=U64, down_mul=U64, gate_up_bias=U64, down_bias=U64)
PackArgs = struct("moxie_moe_pack_args", source=I, n_expert=I, n_embd=I, n_ff=I, expert0=I, n_expert_part=I, gate_up=P, gate_up_scale=P,
                  gate=P, gate_scale=P, up=P, up_scale=P, down=P, down_scale=P, gate_up_bias=P, down_bias=P, out=Weights)
Tables = struct("moxie_moe_tables", topk_id=P, topk_w=P, expert_off=P, sorted_pair=P, tiles=P, head=P, tok_done=P, tile_n=I)
Desc = struct("moxie_moe_desc", n_expert=I, n_used=I, n_embd=I, n_ff=I, max_tok=I, act=I, alpha=F, beta=F, limit=F, routed_scale=F, portable=I,
              smem_limit=I)
Args = struct("moxie_moe_args", x=P, w=C.POINTER(Weights), t=C.POINTER(Tables), residual=P, shared=P, out=P, workspace=P, n_tok=I)

E, K, H, FF = 32, 4, 2880, 2880
SOFTMAX, BF16, GPT_OSS, SWIGLU_CLAMP = 0, 1, 0, 0


def check(rc, err):
    if rc:
        raise RuntimeError(f"{rc}: {err.text.decode()}")


def buffer(n):
    return torch.empty(max(int(n), 256), dtype=torch.uint8, device="cuda")  # torch aligns to 512 bytes


def dequantise(blocks, scales):
    """[.., rows, groups, 16] codes and [.., rows, groups] e8m0 scales -> [.., rows, 32 * groups] float32."""
    value = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], device="cuda")
    code = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()  # low nibble = even k
    return (value[code] * torch.exp2(scales.float() - 127).unsqueeze(-1)).flatten(-2)


def main():
    lib = C.CDLL(sys.argv[1] if len(sys.argv) > 1 else "build/libmoxie-cuda.so")
    n_tok = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    for name in ("moxie_router_ws_bytes", "moxie_moe_plan_workspace_bytes", "moxie_moe_tables_bytes"):
        getattr(lib, name).restype = U64
    err = Err()
    torch.manual_seed(0)
    gu = torch.randint(0, 256, (E, 2 * FF, H // 32, 16), dtype=torch.uint8, device="cuda")
    gus = torch.randint(116, 121, (E, 2 * FF, H // 32), dtype=torch.uint8, device="cuda")
    dn = torch.randint(0, 256, (E, H, FF // 32, 16), dtype=torch.uint8, device="cuda")
    dns = torch.randint(116, 121, (E, H, FF // 32), dtype=torch.uint8, device="cuda")
    gub, dnb = (torch.randn(E, n, device="cuda").bfloat16() for n in (2 * FF, H))
    w_router, b_router = torch.randn(E, H, device="cuda").bfloat16() * 0.02, torch.randn(E, device="cuda").bfloat16()
    x = torch.randn(n_tok, H, device="cuda").bfloat16()
    out = torch.full_like(x, float("nan"))

    # once per layer, at load: experts into Moxie's layout
    sizes = PackSizes()
    check(lib.moxie_moe_pack_bytes(E, H, FF, C.byref(sizes), C.byref(err)), err)
    packed = {name: buffer(getattr(sizes, name)) for name, _ in PackSizes._fields_}
    weights = Weights(**{name: t.data_ptr() for name, t in packed.items()})
    pack = PackArgs(source=GPT_OSS, n_expert=E, n_embd=H, n_ff=FF, gate_up=gu.data_ptr(), gate_up_scale=gus.data_ptr(), down=dn.data_ptr(),
                    down_scale=dns.data_ptr(), gate_up_bias=gub.data_ptr(), down_bias=dnb.data_ptr(), out=weights)
    check(lib.moxie_moe_pack(C.byref(pack), P(torch.cuda.current_stream().cuda_stream), C.byref(err)), err)

    # once: plans, workspaces, tables
    router, moe = P(), P()
    shape = RouterShape(n_expert=E, n_used=K, score=SOFTMAX, renormalise=1, n_embd=H, n_tok_max=n_tok, bias_dtype=BF16)
    check(lib.moxie_router_plan_create(C.byref(router), C.byref(shape), 0, C.byref(err)), err)
    desc = Desc(n_expert=E, n_used=K, n_embd=H, n_ff=FF, max_tok=n_tok, act=SWIGLU_CLAMP, alpha=1.702, beta=1.0, limit=7.0)
    check(lib.moxie_moe_plan_create(C.byref(moe), C.byref(desc), 0, C.byref(err)), err)
    tile_n = lib.moxie_moe_plan_tile_n(moe, n_tok)
    block = buffer(lib.moxie_moe_tables_bytes(n_tok, K, E, tile_n))
    t = Tables()
    lib.moxie_moe_tables_cut(C.byref(t), P(block.data_ptr()), n_tok, K, E, tile_n)
    router_ws, moe_ws = buffer(lib.moxie_router_ws_bytes(router)), buffer(lib.moxie_moe_plan_workspace_bytes(moe, n_tok))
    text = C.create_string_buffer(4096)
    for plan, explain in ((router, lib.moxie_router_explain), (moe, lib.moxie_moe_plan_explain)):
        explain(plan, text, C.c_size_t(4096))
        print(text.value.decode().rstrip())

    # every step: two calls, captured in a graph like any other work of the stream
    route = RouterArgs(n_tok=n_tok, tile_n=tile_n, x=x.data_ptr(), w_router=w_router.data_ptr(), b_router=b_router.data_ptr(),
                       topk_id=t.topk_id, topk_w=t.topk_w, expert_off=t.expert_off, sorted_pair=t.sorted_pair, tiles=t.tiles, head=t.head,
                       tok_done=t.tok_done, ws=router_ws.data_ptr())
    step = Args(x=x.data_ptr(), w=C.pointer(weights), t=C.pointer(t), residual=x.data_ptr(), out=out.data_ptr(), workspace=moe_ws.data_ptr(),
                n_tok=n_tok)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = P(torch.cuda.current_stream().cuda_stream)
        check(lib.moxie_router_run(router, C.byref(route), stream, C.byref(err)), err)
        check(lib.moxie_moe_run(moe, C.byref(step), stream, C.byref(err)), err)
    graph.replay()
    torch.cuda.synchronize()

    # the same layer in float32
    logits = x.float() @ w_router.float().T + b_router.float()
    top, ids = logits.topk(K)
    p = top.softmax(-1)
    want = x.float().clone()
    for e in ids.unique().tolist():
        rows, slots = (ids == e).nonzero(as_tuple=True)
        h = x[rows].float() @ dequantise(gu[e], gus[e]).T + gub[e].float()
        gate, up = h[:, 0::2].clamp(max=7), h[:, 1::2].clamp(-7, 7)
        act = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        y = act @ dequantise(dn[e], dns[e]).T + dnb[e].float()
        want.index_add_(0, rows, y * p[rows, slots, None])
    error = ((out.float() - want).norm() / want.norm()).item()
    print(f"{n_tok} tokens: relative error {error:.2e} against float32")

    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(50):
        graph.replay()
    stop.record()
    torch.cuda.synchronize()
    print(f"{start.elapsed_time(stop) / 50 * 1000:.1f} us per layer (one layer again and again: weights partly in L2)")
    lib.moxie_router_plan_free(router)
    lib.moxie_moe_plan_free(moe)
    return 0 if error < 5e-3 else 1


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    sys.exit(main())
