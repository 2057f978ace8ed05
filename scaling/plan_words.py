"""A plan in words: the decision first, then the reasons; for a terminal and for plan.md alike.

`**` marks what a reader should see first, as in Markdown.
"""

from __future__ import annotations

from scaling.cards import rows_and_runs
from scaling.plan_tables import Plan
from scaling.quantities import (
    format_bytes,
    format_count,
    format_duration,
    format_flops,
    format_money,
    format_percent,
)

CONVENTIONS = {
    "6nd": "6 N D",
    "model_causal": "causal attention",
    "model_full": "full attention",
    "hardware": "hardware",
    "non-vocab": "without vocabulary",
}
SHOWN_FLOPS = ("6nd", "model_causal", "model_full")
COUNTS = {
    "total": "all parameters",
    "total-less-input-embedding": "parameters without the input embedding",
    "non-embedding": "parameters without embeddings",
}
AXES = ("data", "fsdp", "tensor", "pipeline", "context")
SMALL_SHARE = 0.005  # terms of the step below this share are not named


def decision(plan: Plan) -> list[str]:
    """The sentences that somebody who reads nothing else should read."""
    shape, band, best = plan["shape"], plan["band"], plan["optimum"]
    lines = [
        f"**Train {format_count(shape['params'])} parameters on {format_count(plan['tokens'])} tokens**   "
        f"({plan['tokens'] / shape['params']:.3g} tokens per parameter)"
    ]
    lines += _bought(plan)
    span = f"**{format_count(band['params_lo'])} to {format_count(band['params_hi'])}**{sizes_counted(plan)}"
    shaped = (plan.get("allocation") or {}).get("shaped_by") or []
    of_what = "training compute" if shaped else "compute"
    line = f"Any size from {span} wastes at most {format_percent(band['waste'], 0)} of the {of_what}"
    if best.get("params_lo") is not None:
        repeated = "without repetition " if "--unique-tokens" in shaped else ""
        line += (
            f"; {repeated}the law puts its optimum at {format_count(best['params'])}, with "
            f"{format_percent(best['level'], 0)} confidence between {format_count(best['params_lo'])} and "
            f"{format_count(best['params_hi'])}"
        )
    if band["expected_waste"] is not None and not shaped:
        line += f". Not knowing the law exactly, expect to waste {format_percent(band['expected_waste'])}"
    lines.append(line + ".")
    lines += _priced(plan)
    if plan["prediction"] is not None:
        p = plan["prediction"]
        lines.append(
            f"Sealed prediction: **{p['loss']:.4f} nats per token**, {p['loss_lo']:.4f} to "
            f"{p['loss_hi']:.4f} ({format_percent(p['level'], 0)}, one new run)."
        )
    return lines + _time(plan)


def sizes_counted(plan: Plan) -> str:
    """What the law's sizes count, where it is not every parameter as in the headline."""
    convention = plan["convention"]
    if convention["flops"] == "non-vocab":
        return " (FLOPs per token / 6, without vocabulary)"
    return "" if convention["params"] == "total" else f" ({COUNTS[convention['params']]})"


def _bought(plan: Plan) -> list[str]:
    """What binds, where it is not simply the compute that was asked for."""
    budget = plan.get("budget")
    if budget is None or budget["binding"] == "--flops":
        return []
    said = f"**{format_flops(budget['flops'])} FLOPs**"
    target = budget["target"]
    if target is not None:
        line = f"A loss of {target['loss']:g} needs {said}"
        if target["flops_lo"] is not None:
            high = "no end" if target["flops_hi"] is None else format_flops(target["flops_hi"])
            low = format_flops(target["flops_lo"])
            line += f", with {format_percent(target['level'], 0)} confidence {low} to {high}"
        return [line + (f"; {budget['slack']}." if budget["slack"] else ".")]
    asked = budget["asked"]
    with_what = []
    if "seconds" in asked:
        chips = "chip" if budget["chips"] == 1 else "chips"
        with_what.append(f"{format_duration(asked['seconds'])} on {budget['chips']:,} {chips}")
    if "usd" in asked:
        with_what.append(format_money(asked["usd"]))
    line = f"That is {said}, for {' and '.join(with_what)}: {budget['binding']} is what binds"
    if budget["binding"] == "memory":
        line += (
            "; no larger size fits, so the rest of the budget goes into more tokens than this size's optimum"
        )
    others = [(k, v) for k, v in budget["bounds"].items() if k != budget["binding"]]
    if others:
        line += "; " + ", ".join(f"{name} alone would allow {format_flops(value)}" for name, value in others)
    return [line + "."]


def _priced(plan: Plan) -> list[str]:
    price = plan.get("price")
    if price is None:
        allocation = plan.get("allocation") or {}
        if not allocation.get("shaped_by"):
            return []
        own = format_count(plan["optimum"]["params"])
        return [f"{allocation['shaped_by'][-1]} holds the size below the law's {own}."]
    lines = []
    own = format_count(price["params_of_optimum"])
    moved = f"{' and '.join(price['shaped_by'])}: the law's own optimum is {own}"
    lines.append(
        f"{moved}; leaving it costs {price['loss'] - price['loss_of_optimum']:.4f} nats per token, or "
        f"**{format_percent(price['training_waste'])} of the training compute**."
    )
    if "lifetime_saving" in price:
        lines.append(
            f"Over training and {format_count(price['serve_tokens'])} served tokens it takes "
            f"{format_flops(price['lifetime_flops'])} FLOPs, "
            f"**{format_percent(price['lifetime_saving'])} less** than the "
            f"{format_count(price['params_of_equal_loss'])} that reach the same loss at the least training "
            "cost (Sardana et al. 2024)."
        )
    if "epochs" in price:
        lines.append(
            f"The {format_count(price['unique_tokens'])} unique tokens are seen "
            f"**{price['epochs']:.3g} times**, which costs {price['repetition_loss']:.4f} nats per token "
            "(Muennighoff et al. 2023)."
        )
    return lines


def _time(plan: Plan) -> list[str]:
    time = plan["time"]
    if time is None:
        return []
    cost = ""
    if time["cost_usd"] is not None:
        cost = f", **{format_money(time['cost_usd'])}** at {format_money(time['price_usd'])} an hour"
    elif time["cost_low_usd"] is not None:
        spread = f"{format_money(time['cost_low_usd'])} to {format_money(time['cost_high_usd'])}"
        cost = f", **{spread}** at market prices"
    chips = f"on {time['chips']:,} x {time['title']}"
    span = ""
    if "seconds_lo" in time:
        ends = f"{format_duration(time['seconds_lo'])} to {format_duration(time['seconds_hi'])}"
        span = f"{ends}, {format_percent(time['level'], 0)}"
    if time["basis"] == "profile":
        return [
            f"**{format_duration(time['seconds'])}** ({span}) {chips}, by steps measured there on "
            f"{time['measured'][:10]}."
        ]
    if time["basis"] != "estimate":
        share = format_percent(time["utilisation"], 0)
        return [
            f"**{format_duration(time['seconds'])}** {chips} at {share} of its dense {time['peak_format']} "
            f"peak, as stated: {format_count(time['chip_hours'])} chip-hours{cost}."
        ]
    thumb = time["rule_of_thumb"]
    memory, state = plan["memory"], plan["state"]
    return [
        f"**{format_duration(time['seconds'])}** ({span}) {chips}: "
        f"{format_count(time['chip_hours'])} chip-hours{cost}.",
        f"Layout: {layout_words(plan)}: {format_bytes(memory['bytes_per_device'])} of "
        f"{format_bytes(memory['usable_bytes'])} on each chip.",
        f"Training state {format_bytes(state['training_state_bytes'])}, a checkpoint "
        f"{format_bytes(state['checkpoint_bytes'])}: {_cards(plan)}. At the usual "
        f"{format_percent(thumb['utilisation'], 0)} of the peak it would be "
        f"{format_duration(thumb['seconds'])}, {format_count(thumb['chip_hours'])} chip-hours.",
    ]


def _cards(plan: Plan) -> str:
    state, size = plan["state"]["training_state_bytes"], plan["memory"]["chip_bytes"]
    one = f"one {plan['time']['title']}"
    return f"it would fit on {one}" if state <= size else f"it does not fit on {one}"


def layout_words(plan: Plan) -> str:
    """`fsdp 256, micro-batch 8 of 2,048 tokens, remat minimal`."""
    layout = plan["layout"]
    axes = ", ".join(f"{axis} {layout[axis]:,}" for axis in AXES if layout[axis] > 1) or "one chip"
    said = f"{axes}; micro-batch {layout['micro_batch_seqs']}"
    if layout["grad_accum"] > 1:
        said += f", accumulated {layout['grad_accum']} times"
    return f"{said}; remat {layout['remat']}"


def reasons(plan: Plan) -> list[tuple[str, str]]:
    """(name, text) rows behind the decision."""
    law, best, shape, convention = plan["law"], plan["optimum"], plan["shape"], plan["convention"]
    rows = []
    if law["name"] == "fit":
        runs = plan["inputs"].get("runs") or {}
        rows.append(("Law", f"fitted to {rows_and_runs(runs)} of up to {format_flops(law['c_max'])} FLOPs"))
    else:
        rows.append(("Law", f"{law['name']}: {law['title']}"))
        rows.append(("", f"{law['citation']}; {law['place']}"))
        rows.append(("Exponents", law["exponents"]))
    counted = CONVENTIONS.get(convention["flops"], convention["flops"])
    optimum = (
        f"{format_count(best['params'])}{sizes_counted(plan) or ' ' + COUNTS['total']}, "
        f"{format_count(best['tokens'])} tokens ({best['tokens_per_param']:.3g} per parameter)"
    )
    rows.append(("Optimum", optimum + (f", loss {best['loss']:.4f}" if best["loss"] is not None else "")))
    budget = f"{format_flops(plan['inputs']['flops'])} FLOPs, counted as {counted}"
    if plan["extrapolation"] is not None:
        budget += f"; {plan['extrapolation']:.3g}x the largest run behind the law"
    rows.append(("Budget", budget))
    groups = "" if shape["kv_heads"] == shape["heads"] else f" ({shape['kv_heads']} key-value)"
    rows.append(
        (
            "Shape",
            f"{shape['layers']} layers, width {shape['width']:,}, {shape['heads']} heads{groups} of "
            f"{shape['head_dim']}, ffn {shape['ffn']:,}, vocabulary {shape['vocab']:,}: {shape['params']:,} "
            f"parameters, {shape['params_non_embedding']:,} without embeddings",
        )
    )
    flops = ", ".join(f"{format_flops(plan['flops'][k])} by {CONVENTIONS[k]}" for k in SHOWN_FLOPS)
    rows.append(("FLOPs", flops))
    if plan["steps"] is not None:
        said = f"{plan['steps']:,} of {plan['batch']:,} sequences of {plan['seq']:,} tokens"
        if plan.get("batch_source"):
            said += f"; batch: {plan['batch_source']}"
        laws = plan.get("batch_laws")
        if laws:
            said += f" ({', '.join(f'{name} {format_count(value)}' for name, value in laws.items())})"
        if plan.get("critical_batch_tokens"):
            said += f"; critical batch {format_count(plan['critical_batch_tokens'])} tokens (Kaplan et al.)"
        rows.append(("Steps", said))
    return rows + _hardware_reasons(plan)


def _hardware_reasons(plan: Plan) -> list[tuple[str, str]]:
    rows = []
    if plan.get("step") is not None:
        step, layout, ops = plan["step"], plan["layout"], plan["operations"]
        total = step["step_time_s"]
        shares = [
            f"{term['name']} {format_percent(term['seconds'] / total, 0)}"
            for term in sorted(step["terms"], key=lambda t: -t["seconds"])
            if term["seconds"] / total >= SMALL_SHARE
        ]
        rows.append(
            (
                "Step",
                f"{format_duration(total)} ({format_duration(step['step_time_lo_s'])} to "
                f"{format_duration(step['step_time_hi_s'])}): {', '.join(shares)}; that is an MFU of "
                f"{format_percent(step['mfu'], 0)} by {CONVENTIONS[step['mfu_convention']]}",
            )
        )
        tried = f"{layout['fitting']} of {layout['tried']} layouts fit"
        rows.append(("Layout", f"{layout['reason']}; {tried}"))
        parts = sorted(plan["memory"]["terms"].items(), key=lambda item: -item[1])
        rows.append(
            ("Memory", ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size >= 1e8))
        )
        lost = 1 - ops["goodput"]
        rows.append(
            (
                "Running",
                f"{ops['failures']:.1f} failures expected, a checkpoint every "
                f"{format_duration(ops['checkpoint_interval_s'])}: {format_percent(lost)} of the time is lost"
                + ("" if ops["energy_kwh"] is None else f"; {format_count(ops['energy_kwh'])} kWh"),
            )
        )
    time = plan["time"]
    if time is not None and time["price_source"] not in (None, "as given"):
        rows.append(("Price", time["price_source"]))
    return rows
