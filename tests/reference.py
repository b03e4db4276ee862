"""Independent references: every site of a decoder, read and edited by plain hooks and knowledge of the family.

Nothing here measures anything: `LAYOUTS` says, family by family, which module holds what, and attention is recomputed
by hand from the outputs of the q, k and v projections (de-fusing, clipping, q/k norms, rotation, scale, soft-cap,
alibi, mask, sinks). `record` returns the activations of a run, `brute_force_logits` the logits of an edited one.

A run is a dict `(site, layer) -> tensor`; `embed`, `final_norm` and `logits` have layer None. An edit is
`(site, layer, function)`, the function taking and returning the tensor in the layout of the site:

    embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, final_norm   [prompt, position, d_model]
    mlp_pre, mlp_act                                                         [prompt, position, neuron]
    q, z; k, v                                   [prompt, position, head, d_head]; with kv heads for k and v
    pattern                                      [prompt, head, query, key]
    logits                                       [prompt, position, vocab]

Edits compose: an edited q changes the pattern, which changes z, and so on up. What a family has no such thing for is in
`UNSUPPORTED` and raises KeyError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from families import FAMILIES, Family

Site = tuple[str, int | None]
Edit = tuple[str, int | None, Callable[[torch.Tensor], torch.Tensor]]
Run = dict[Site, torch.Tensor]

STREAM_SITES = ("resid_pre", "resid_post")
MLP_SITES = ("mlp_pre", "mlp_act")
HEAD_SITES = ("q", "k", "v", "pattern", "z")
LAYER_SITES = (*STREAM_SITES, "resid_mid", "attn_out", "mlp_out", *MLP_SITES, *HEAD_SITES)
MODEL_SITES = ("embed", "final_norm", "logits")
SITES = (*LAYER_SITES, *MODEL_SITES)


@dataclass(frozen=True)
class Layout:
    """Where a family keeps things. Paths are below the model (blocks, norm, unembed) or below a block (the rest)."""

    blocks: str = "model.layers"
    norm: str = "model.norm"
    unembed: str = "lm_head"
    attn_out: str = "self_attn"  # the module whose output is added to the stream after attention
    mlp_out: str = "mlp"
    mid: str = "post_attention_layernorm"  # the module that reads the stream after attention
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    out: str = "self_attn.o_proj"  # the output projection: z enters it
    pre: str = "mlp.gate_proj"  # its output (the first half of it, if twice as wide) enters the nonlinearity
    down: str = "mlp.down_proj"  # the neurons enter it
    fused: str = "thirds"  # how one projection holds q, k and v: see _defuse
    clip: float | None = None  # bound on the outputs of the projections
    qk_norm: str | None = None  # "rms": each head; "rms_flat": all heads at once; "layer": each head, no bias
    qk_norm_paths: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    rope: str | None = "halves"  # which coordinates rotate together: i and i + n/2, or "pairs" 2i and 2i + 1
    rope_dims: int | None = None  # how many coordinates of a head rotate; None: all
    theta: float | tuple[float, ...] = 1e4  # base of the rotation, of all layers or of each
    scale: float | None = None  # of the scores; None: d_head ** -0.5
    scale_by_layer: bool = False  # scores of layer l are divided by l + 1
    scale_q: bool = False  # q is scaled before the product, the scores are not
    alibi: float = 0.0  # the distance penalty slope * key position enters the scores times this
    alibi_twice_if_eager: bool = False


GPT2 = Layout(
    blocks="transformer.h", norm="transformer.ln_f", attn_out="attn", mid="ln_2", qkv=("attn.c_attn",),
    out="attn.c_proj", pre="mlp.c_fc", down="mlp.c_proj", rope=None,
)  # fmt: skip
NEOX = Layout(
    blocks="gpt_neox.layers", norm="gpt_neox.final_layer_norm", attn_out="attention",
    qkv=("attention.query_key_value",), out="attention.dense", pre="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h",
    fused="heads", rope_dims=4,
)  # fmt: skip
GPTJ = Layout(
    blocks="transformer.h", norm="transformer.ln_f", attn_out="attn", out="attn.out_proj", pre="mlp.fc_in",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"), down="mlp.fc_out", rope="pairs", rope_dims=4,
)  # fmt: skip
OPT = Layout(
    blocks="model.decoder.layers", norm="model.decoder.final_layer_norm", mlp_out="fc2", mid="final_layer_norm",
    out="self_attn.out_proj", pre="fc1", down="fc2", rope=None, scale_q=True,
)  # fmt: skip
FALCON = replace(
    NEOX, blocks="transformer.h", norm="transformer.ln_f", attn_out="self_attention",
    qkv=("self_attention.query_key_value",), out="self_attention.dense", fused="groups", rope_dims=None,
)  # fmt: skip
LLAMA = Layout()
EXPERTS = Layout(pre="", down="")
POST_NORM = Layout(attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm", mid="mlp")
GEMMA2 = replace(POST_NORM, mid="pre_feedforward_layernorm", scale=1 / 3)
STABLELM = Layout(rope_dims=4)

LAYOUTS: dict[str, Layout] = {
    "gpt2": GPT2,
    "gpt2_scaled": replace(GPT2, scale_by_layer=True),
    "gpt_neo": replace(
        GPT2,
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        out="attn.attention.out_proj",
        scale=1.0,
    ),
    "gpt_neox": NEOX,
    "gpt_neox_sequential": NEOX,
    "gptj": GPTJ,
    "codegen": replace(GPTJ, qkv=("attn.qkv_proj",), fused="codegen"),
    "opt": OPT,
    "opt_post_norm": OPT,
    "falcon": FALCON,
    "falcon_new": FALCON,
    "falcon_alibi": replace(FALCON, fused="heads", rope=None, alibi=8**-0.5, alibi_twice_if_eager=True),
    "phi": Layout(
        norm="model.final_layernorm", out="self_attn.dense", pre="mlp.fc1", down="mlp.fc2", rope_dims=4
    ),
    "phi3": Layout(qkv=("self_attn.qkv_proj",), pre="mlp.gate_up_proj"),
    "llama": LLAMA,
    "llama_biased": LLAMA,
    "mistral": LLAMA,
    "mixtral": replace(EXPERTS, theta=1e6),
    "qwen2": LLAMA,
    "qwen2_window": LLAMA,
    "qwen3": replace(LLAMA, qk_norm="rms"),
    "qwen3_moe": replace(EXPERTS, qk_norm="rms"),
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3": replace(GEMMA2, qk_norm="rms", theta=(1e4, 1e4, 1e6, 1e4)),
    "olmo": replace(LLAMA, clip=1.5),
    "olmo2": replace(POST_NORM, qk_norm="rms_flat"),
    "olmo3": replace(POST_NORM, qk_norm="rms_flat", theta=5e5),
    "stablelm": STABLELM,
    "stablelm_parallel": STABLELM,
    "stablelm_qk_norm": replace(
        STABLELM, qk_norm="layer", qk_norm_paths=("self_attn.q_layernorm", "self_attn.k_layernorm")
    ),
    "cohere": Layout(qk_norm="layer", rope="pairs", theta=5e5),
    "cohere2": Layout(rope="pairs"),
    "granite": replace(LLAMA, scale=0.2),
    "glm4": Layout(
        attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm", pre="mlp.gate_up_proj", rope="pairs",
        rope_dims=6,
    ),
    "starcoder2": Layout(pre="mlp.c_fc", down="mlp.c_proj"),
    "smollm3": replace(LLAMA, theta=2e6),
    "bloom": replace(
        FALCON, fused="heads", attn_out="self_attention.dense", mlp_out="mlp.dense_4h_to_h", rope=None, alibi=1.0
    ),
    "mpt": Layout(
        blocks="transformer.blocks", norm="transformer.norm_f", attn_out="attn", mlp_out="ffn.down_proj", mid="norm_2",
        qkv=("attn.Wqkv",), out="attn.out_proj", pre="ffn.up_proj", down="ffn.down_proj", rope=None, alibi=1.0,
    ),
    "gpt_oss": EXPERTS,
    "exaone4": replace(POST_NORM, qk_norm="rms"),
    "mamba": Layout(blocks="backbone.layers", norm="backbone.norm_f"),
    "rwkv": Layout(blocks="rwkv.blocks", norm="rwkv.ln_out", unembed="head"),
    "recurrent_gemma": Layout(norm="model.final_norm"),
    "bamba": Layout(norm="model.final_layernorm"),
}  # fmt: skip


def _why_not(row: Family, site: str) -> str | None:
    if row.recurrent and site not in (*STREAM_SITES, *MODEL_SITES):
        return "recurrent blocks: only the stream is referenced"
    if row.stream_norm and site in ("resid_mid", "final_norm"):
        return "the stream itself is normalised inside the block, and there is no final norm"
    if row.parallel and site == "resid_mid":
        return "parallel block"
    if row.moe and site in MLP_SITES:
        return "experts"
    return None


UNSUPPORTED: dict[tuple[str, str], str] = {
    (name, site): why for name, row in FAMILIES.items() for site in SITES if (why := _why_not(row, site))
}


def sites(row: Family) -> list[Site]:
    """Every place of a family that is referenced."""
    found: list[Site] = [(s, layer) for s in LAYER_SITES for layer in range(row.n_layers)]
    return [p for p in found + [(s, None) for s in MODEL_SITES] if (row.name, p[0]) not in UNSUPPORTED]


# --- attention, by hand -------------------------------------------------------------------------------------------


def _defuse(layout: Layout, row: Family, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """q, k and v as [prompt, position, head, d_head] from the outputs of their projection(s)."""
    heads, kv_heads, d = row.n_heads, row.n_kv_heads, row.d_head
    if len(outputs) == 3:
        parts = outputs
    elif layout.fused == "thirds":  # all of q, then all of k, then all of v
        parts = list(outputs[0].split([heads * d, kv_heads * d, kv_heads * d], dim=-1))
    elif layout.fused == "heads":  # q, k, v of the first head, of the second, ...
        parts = list(outputs[0].unflatten(-1, (heads, 3, d)).unbind(-2))
    elif layout.fused == "groups":  # the queries of the first key/value head, its key, its value, ...
        group = heads // kv_heads
        parts = list(outputs[0].unflatten(-1, (kv_heads, group + 2, d)).split([group, 1, 1], dim=-2))
    elif layout.fused == "codegen":  # four shards, each q, v, k
        q, v, k = outputs[0].unflatten(-1, (4, 3, heads * d // 4)).unbind(-2)
        parts = [q, k, v]
    else:
        raise ValueError(layout.fused)
    batch, length = outputs[0].shape[:2]
    parts = [p.reshape(batch, length, -1, d) for p in parts]
    return [p if layout.clip is None else p.clamp(-layout.clip, layout.clip) for p in parts]


def _head_norm(kind: str, module: Any, offset: float, x: torch.Tensor) -> torch.Tensor:
    """The norm that q or k [prompt, position, head, d_head] goes through before its rotation."""
    shape, dtype = x.shape, x.dtype
    parts = list(module.norms) if hasattr(module, "norms") else [module]
    weight = torch.cat([p.weight[None] for p in parts]) if len(parts) > 1 else module.weight
    eps = getattr(parts[0], "eps", None) or parts[0].variance_epsilon
    inside = dtype if isinstance(parts[0], torch.nn.LayerNorm) else torch.float32  # the families' own norms cast
    x = (x.flatten(2) if kind == "rms_flat" else x).to(inside)
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (offset + weight.to(inside))
    return x.reshape(shape).to(dtype)


def _rotate(layout: Layout, layer: int, x: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x is [prompt, position, head, d_head]."""
    n = layout.rope_dims or x.shape[-1]
    theta = layout.theta[layer] if isinstance(layout.theta, tuple) else layout.theta
    frequency = 1.0 / theta ** (torch.arange(0, n, 2, dtype=torch.float32) / n)  # rounded as the models do
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None, None] * frequency  # [position, 1, n / 2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turning, rest = x[..., :n], x[..., n:]
    a, b = (turning[..., 0::2], turning[..., 1::2]) if layout.rope == "pairs" else turning.chunk(2, -1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    both = torch.stack(turned, -1).flatten(-2) if layout.rope == "pairs" else torch.cat(turned, -1)
    return torch.cat([both, rest], -1)


def _pattern(
    layout: Layout, row: Family, layer: int, q: torch.Tensor, k: torch.Tensor, sinks: torch.Tensor | None, eager: bool
) -> torch.Tensor:
    """[prompt, head, query, key] from q and k [prompt, position, head, d_head]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    k = k.repeat_interleave(row.n_heads // row.n_kv_heads, dim=2)
    scale = 1.0 if layout.scale_q else row.d_head**-0.5 if layout.scale is None else layout.scale
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(wide), k.to(wide)) * scale
    if layout.scale_by_layer:
        scores = scores / (layer + 1)
    if row.attn_softcap:
        scores = row.attn_softcap * torch.tanh(scores / row.attn_softcap)
    at = torch.arange(q.shape[1])
    if layout.alibi:
        slopes = 2.0 ** (-8 * torch.arange(1, row.n_heads + 1) / row.n_heads)
        twice = 2.0 if layout.alibi_twice_if_eager and eager else 1.0
        scores = scores + twice * layout.alibi * slopes[:, None, None] * at.to(wide)
    distance = at[:, None] - at
    visible = (distance >= 0) & (distance < (row.window(layer) or len(at)))
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is None:
        return scores.softmax(-1).to(q.dtype)
    column = sinks.to(wide)[:, None, None].expand(*scores.shape[:3], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1].to(q.dtype)


def mix(row: Family, pattern: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """z [prompt, position, head, d_head] = pattern @ v."""
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(row.n_heads // row.n_kv_heads, dim=2))


def unembed(model: Any, row: Family, normed: torch.Tensor) -> torch.Tensor:
    """Logits from the output of the final norm."""
    head = model.get_submodule(LAYOUTS[row.name].unembed)
    logits = row.logit_scale * normed @ head.weight.T
    logits = logits if head.bias is None else logits + row.logit_scale * head.bias
    return logits if row.softcap is None else row.softcap * torch.tanh(logits / row.softcap)


# --- one forward with hooks ---------------------------------------------------------------------------------------


class _Forward:
    """One forward in which every place goes through `touch`: edited if an edit is given for it, then recorded."""

    def __init__(self, model: Any, row: Family, edits: Iterable[Edit]):
        self.model, self.row, self.layout = model, row, LAYOUTS[row.name]
        self.run: Run = {}
        self.edits: dict[Site, list[Callable[[torch.Tensor], torch.Tensor]]] = {}
        places = set(sites(row))
        for site, layer, function in edits:
            if (site, layer) not in places:
                raise KeyError((row.name, site, layer, UNSUPPORTED.get((row.name, site), "no such place")))
            self.edits.setdefault((site, layer), []).append(function)

    def touch(self, site: str, layer: int | None, value: torch.Tensor) -> torch.Tensor:
        for function in self.edits.get((site, layer), ()):
            value = function(value.clone())
        self.run[site, layer] = value.detach().clone()  # some families write into it later
        return value

    def _before(self, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
        """`change` sees the first positional input of the module and may replace it."""

        def hook(_: nn.Module, args: tuple) -> tuple | None:
            new = change(args[0])
            return None if new is None else (new, *args[1:])

        return module.register_forward_pre_hook(hook)

    def _after(self, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
        """`change` sees the (first) output of the module and may replace it."""

        def hook(_: nn.Module, __: tuple, output: Any) -> Any:
            new = change(output[0] if isinstance(output, tuple) else output)
            return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

        return module.register_forward_hook(hook)

    def _place(self, *places: Site, scale: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """A change that touches these places in turn; without an edit the module's own tensor goes on, bit for bit."""

        def change(x: torch.Tensor) -> torch.Tensor | None:
            value = x.reshape(self.shape) * scale
            for site, layer in places:
                value = self.touch(site, layer, value)
            return (value / scale).reshape(x.shape) if any(p in self.edits for p in places) else None

        return change

    def _hooks(self) -> Iterable[Any]:
        model, row, layout = self.model, self.row, self.layout
        blocks = list(model.get_submodule(layout.blocks))[: row.n_layers]
        for layer, block in enumerate(blocks):
            yield self._before(block, self._place(*([("embed", None)] if layer == 0 else []), ("resid_pre", layer)))
            if not row.recurrent:
                yield from self._attention(block, layer)
                yield from self._writes(block, layer)
            yield self._after(block, self._place(("resid_post", layer)))
        if (row.name, "final_norm") not in UNSUPPORTED:
            yield self._after(model.get_submodule(layout.norm), self._place(("final_norm", None)))

    def _attention(self, block: Any, layer: int) -> Iterable[Any]:
        row, layout = self.row, self.layout
        outputs: dict[int, torch.Tensor] = {}

        def keep(i: int) -> Callable[[torch.Tensor], None]:
            def change(x: torch.Tensor) -> None:
                outputs[i] = x.clone()

            return change

        def enter_projection(x: torch.Tensor) -> torch.Tensor | None:
            q, k, v = _defuse(layout, row, [outputs[i] for i in sorted(outputs)])
            if layout.qk_norm:
                for_q, for_k = (block.get_submodule(p) for p in layout.qk_norm_paths)
                q = _head_norm(layout.qk_norm, for_q, row.norm_offset, q)
                k = _head_norm(layout.qk_norm, for_k, row.norm_offset, k)
            if layout.rope and (not row.rotates or row.rotates[layer]):
                q, k = _rotate(layout, layer, q), _rotate(layout, layer, k)
            q = q * row.d_head**-0.5 if layout.scale_q else q
            q, k, v = self.touch("q", layer, q), self.touch("k", layer, k), self.touch("v", layer, v)
            sinks = block.get_parameter("self_attn.sinks") if row.sinks else None
            eager = self.model.config._attn_implementation == "eager"
            pattern = self.touch("pattern", layer, _pattern(layout, row, layer, q, k, sinks, eager))
            by_hand = any((site, layer) in self.edits for site in ("q", "k", "v", "pattern"))
            z = mix(row, pattern, v) if by_hand else x.reshape(*self.shape[:2], row.n_heads, row.d_head)
            z = self.touch("z", layer, z)
            return z.reshape(x.shape) if by_hand or ("z", layer) in self.edits else None

        for i, path in enumerate(layout.qkv):
            yield self._after(block.get_submodule(path), keep(i))
        yield self._before(block.get_submodule(layout.out), enter_projection)

    def _writes(self, block: Any, layer: int) -> Iterable[Any]:
        row, layout, scale = self.row, self.layout, self.row.residual_scale
        width = row.d_mlp or 0

        def to_mid(x: torch.Tensor) -> torch.Tensor | None:
            """An edit of the stream between the branches is made by changing what attention adds to it."""
            if ("resid_mid", layer) not in self.edits:
                return None
            start = self.run["resid_pre", layer]
            mid = start + scale * x.reshape(self.shape)
            for function in self.edits["resid_mid", layer]:
                mid = function(mid.clone())
            return ((mid - start) / scale).reshape(x.shape)

        def keep_mid(x: torch.Tensor) -> None:
            self.run["resid_mid", layer] = x.detach().clone().reshape(self.shape)

        def enter_mlp(x: torch.Tensor) -> torch.Tensor | None:
            gate = self.touch("mlp_pre", layer, x[..., :width].reshape(*self.shape[:2], width))
            if ("mlp_pre", layer) not in self.edits:
                return None
            return torch.cat([gate.reshape(*x.shape[:-1], width), x[..., width:]], -1)

        def enter_down(x: torch.Tensor) -> torch.Tensor | None:
            act = self.touch("mlp_act", layer, x.reshape(*self.shape[:2], width))
            return act.reshape(x.shape) if ("mlp_act", layer) in self.edits else None

        yield self._after(block.get_submodule(layout.attn_out), self._place(("attn_out", layer), scale=scale))
        if (row.name, "resid_mid") not in UNSUPPORTED:
            yield self._after(block.get_submodule(layout.attn_out), to_mid)
            yield self._before(block.get_submodule(layout.mid), keep_mid)
        if row.d_mlp is not None:
            yield self._after(block.get_submodule(layout.pre), enter_mlp)
            yield self._before(block.get_submodule(layout.down), enter_down)
        yield self._after(block.get_submodule(layout.mlp_out), self._place(("mlp_out", layer), scale=scale))

    def __call__(self, ids: torch.Tensor) -> Run:
        self.shape = (*ids.shape, self.row.d_model)
        with torch.no_grad(), ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            self.touch("logits", None, self.model(ids, use_cache=False).logits)
        return self.run


def record(model: nn.Module, row: Family | str, ids: torch.Tensor, edits: Iterable[Edit] = ()) -> Run:
    """Every referenced place of one forward over ids [prompt, position], as it is after the edits."""
    return _Forward(model, FAMILIES[row] if isinstance(row, str) else row, edits)(ids)


def brute_force_logits(
    model: nn.Module, row: Family | str, ids: torch.Tensor, edits: Iterable[Edit] = ()
) -> torch.Tensor:
    """Logits [prompt, position, vocab] of one full forward under the edits."""
    return record(model, row, ids, edits)["logits", None]
