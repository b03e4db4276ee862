"""Cutaway: whole sweeps only, and beside them the matrix-product rate of the machine at the plan's shapes."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from contender import Job, Result, Sweep, load_hf, serve
from floor import flops, products, seconds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway.engine.plan import TOKENS

COUNTABLE = 60.0
"""Seconds of a sweep up to which its FLOPs are also counted as they happen, in a run that is not timed."""


AFFORDABLE = 2e13
"""FLOPs of a plan up to which its bare products are timed before and after the sweep, and above which only after."""


def rates(d_model: int, device: str, seconds: float = 0.4) -> list[float]:
    """FLOP/s of single products of a chunk of rows with d x 4 d and back, float32, for about so long."""
    up, down = torch.randn(d_model, 4 * d_model, device=device), torch.randn(4 * d_model, d_model, device=device)
    narrow, wide = torch.randn(TOKENS, d_model, device=device), torch.randn(TOKENS, 4 * d_model, device=device)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for left, right in ((narrow, up), (wide, down)):
            start = time.perf_counter()
            left @ right
            if device != "cpu":
                torch.accelerator.synchronize()
            found.append(2 * TOKENS * 4 * d_model * d_model / (time.perf_counter() - start))
    return found


def load(folder: Path, device: str) -> Sweep:
    model = cutaway.Model(load_hf(folder, device))
    counted: dict[tuple[object, ...], int] = {}

    def sweep(job: Job) -> Result:
        clean = cutaway.Prompts(ids=job.clean, answers=job.answers, foils=job.foils)
        corrupt = cutaway.Prompts(ids=job.corrupt, answers=job.answers, foils=job.foils)
        if not job.whole:  # only to warm up
            layers = sorted({layer for layer, _ in job.cells})
            found = cutaway.denoise(model, clean, corrupt, job.site, layers=layers)["value"]
            axis = found.dims[2]
            cells = [found.sel(layer=layer, **{axis: i}).values for layer, i in job.cells]
            return Result(torch.tensor(cells))
        begin = time.perf_counter()
        plan = cutaway.denoise(model, clean, corrupt, job.site, dry_run=True)
        least = products(model, plan, corrupt, [clean])
        around = rates(model.d_model, device)
        floors = [seconds(least)] if plan.flops < AFFORDABLE else []
        start = time.perf_counter()
        dataset = cutaway.denoise(model, clean, corrupt, job.site)
        taken = time.perf_counter() - start
        floors += [seconds(least)]
        around += rates(model.d_model, device)
        key = (job.site, *job.clean.shape, int((job.clean != job.corrupt).any(0).int().argmax()))
        if key not in counted and taken < COUNTABLE:
            with FlopCounterMode(display=False) as counter:
                cutaway.denoise(model, clean, corrupt, job.site)
            counted[key] = counter.get_total_flops()
        values: Tensor = torch.from_numpy(dataset["value"].transpose(..., "prompt").values)
        more = {
            "rates": around,
            "floors": floors,
            "floor_flops": flops(least),
            "plan_flops": plan.flops,
            "counted_flops": counted.get(key),
            "cells_run": len(plan.variants),
            "plan": plan.describe(),
            "path": dataset.attrs["path"],
            "base": dataset["base"].values.tolist(),
        }
        beside = time.perf_counter() - begin - taken
        return Result(values.reshape(len(job.cells), -1), not_counted=beside, more=more)

    return sweep


if __name__ == "__main__":
    serve(load, ("cutaway",))
