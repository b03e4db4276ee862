"""What is public, as facts that can be compared: names and signatures, commands and options, what results hold.

`python tests/public_api.py` (`make api`) writes them to `public_api.json`. `broken(old, new)` says what of the old the
new does not keep: adding is always fine. What versions promise: docs/versions.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch
import xarray as xr

import cutaway

FILE = Path(__file__).with_name("public_api.json")
ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "controls.against": "cutaway.controls",
    "geometry.standards.standard": "cutaway.geometry.standards",
    "ledger.additivity": "cutaway.ledger",
    "ledger.ledger": "cutaway.ledger",
    "ledger.summary": "cutaway.ledger",
    "resume.keeping.keep_sweeps": "cutaway.resume.keeping",
    **{f"stats.{name}": "cutaway.stats" for name in cutaway.stats.__all__},
    "steering.flips": "cutaway.steering",
    "tasks.make_task": "cutaway.tasks",
}
"""Public names that are not in `cutaway.__all__`: the documentation tells people to use them."""

Facts = dict[str, dict[str, Any]]


# -- Python -----------------------------------------------------------------------------------------------------------


def of_python() -> Facts:
    """Every public name, its parameters and members."""
    facts: Facts = {}
    for name in cutaway.__all__:
        facts |= of_name(f"cutaway.{name}", getattr(cutaway, name))
    for name, module in ELSEWHERE.items():
        __import__(module)
        facts |= of_name(f"cutaway.{name}", getattr(sys.modules[module], name.rpartition(".")[2]))
    for name, thing in objects().items():
        facts |= {f"{name}.{key}": {"kind": "attribute"} for key in vars(thing) if not key.startswith("_")}
    return facts


def of_name(name: str, thing: Any) -> Facts:
    """One name; of a class, its members that this package defines."""
    if inspect.isclass(thing):
        facts = {name: {"kind": "class", "parameters": parameters(thing)}}
        own = {key for base in thing.__mro__ if base.__module__.startswith("cutaway") for key in vars(base)}
        for key in sorted(k for k in own if not k.startswith("_")):
            member = inspect.getattr_static(thing, key)
            value = getattr(thing, key) if isinstance(member, classmethod | staticmethod) else member
            kind = {"kind": "method", "parameters": parameters(value)} if callable(value) else {"kind": "attribute"}
            facts[f"{name}.{key}"] = kind
        if dataclasses.is_dataclass(thing):
            facts |= {f"{name}.{f.name}": {"kind": "attribute"} for f in dataclasses.fields(thing)}
        return facts
    if inspect.isroutine(thing):
        return {name: {"kind": "function", "parameters": parameters(thing)}}
    return {name: {"kind": "value"}}


def parameters(thing: Any) -> list[list[str]]:
    """[name, how it is given, its default or "required"] of each parameter."""
    try:
        given = inspect.signature(thing).parameters.values()
    except ValueError:  # an exception's own
        return []
    return [[p.name, p.kind.description, _shown(p.default)] for p in given if not p.name.startswith("_")]


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(default, None | bool | int | float | str | tuple):
        return repr(default)
    return str(getattr(default, "name", type(default).__name__))


def vocabulary() -> Facts:
    """Words that are part of what people write: sites, metrics, tasks, studies, schema versions."""
    from cutaway.metrics import METRICS
    from cutaway.saving import SCHEMA_VERSION
    from cutaway.studies import STUDIES
    from cutaway.tasks import TASKS

    kinds = {"site": cutaway.SITES, "metric": METRICS, "task": TASKS, "study": STUDIES}
    facts: Facts = {f"{kind} {name}": {"kind": kind} for kind, names in kinds.items() for name in names}
    return facts | {"schema version of JSON documents": {"kind": "version", "number": SCHEMA_VERSION}}


# -- the command line -------------------------------------------------------------------------------------------------


def of_commands() -> Facts:
    """Every command with its arguments and options."""
    from cutaway.cli.group import cutaway as root

    return dict(_command("cutaway", root))


def _command(name: str, command: click.Command) -> Iterator[tuple[str, dict[str, Any]]]:
    yield name, {"kind": "command"}
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    for i, argument in enumerate(arguments):
        facts = {"kind": "argument", "place": i, "count": argument.nargs, "required": argument.required}
        yield f"{name} {(argument.metavar or argument.name or '').upper()}", facts
    for option in (p for p in command.params if isinstance(p, click.Option)):
        facts = {"kind": "option", "flag": option.is_flag, "required": option.required, "several": option.multiple}
        facts |= {"default": _shown(option.to_info_dict()["default"]), "environment": option.envvar}
        if isinstance(option.type, click.Choice):
            facts["choices"] = list(option.type.choices)
        for word in (*option.opts, *option.secondary_opts):
            yield f"{name} {word}", facts
    if isinstance(command, click.Group):
        context = click.Context(command)
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            yield from _command(f"{name} {sub}", found)


# -- results ----------------------------------------------------------------------------------------------------------


@cache
def model() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def prompts() -> tuple[cutaway.Prompts, cutaway.Prompts]:
    given: dict[str, Any] = {"answers": [" Warsaw"], "foils": [" Berlin"], "roles": {"ARG": -2}}
    clean, corrupt = (model().prompts([f"The capital of {x} is"], **given) for x in ("Poland", "Germany"))
    return clean, corrupt


@cache
def direction() -> cutaway.Direction:
    return cutaway.difference_of_means(model(), *prompts(), layer=2)


def objects() -> dict[str, Any]:
    """One of each kind of object that people hold."""
    trace = model().trace(prompts()[0])
    return {"cutaway.Model": model(), "cutaway.Prompts": prompts()[0], "cutaway.Trace": trace}


def results() -> dict[str, Callable[[], Any]]:
    """What the public functions give, by the call that gives it."""
    clean, corrupt = prompts()
    m, t, d = model(), model().trace(clean), direction()
    fits = m.prompts(["She went to the market and bought some bread.", "He saw the dog and the cat by the river."])
    return {
        "Model.top": lambda: m.top(clean),
        "lens": lambda: cutaway.lens(t, of=[" Warsaw"]),
        "cumulative": lambda: cutaway.cumulative(t),
        **{f"attribute by {by}": lambda by=by: cutaway.attribute(t, by=by) for by in ("layer", "component", "head")},
        "attribute by neuron": lambda: cutaway.attribute(t, by="neuron"),
        "attribute by source": lambda: cutaway.attribute(t, by="source", read=[-2, -1]),
        "split": lambda: cutaway.split(t, "L4.mlp"),
        "sweep": lambda: cutaway.sweep(m, clean, cutaway.ablate("z", layers=[0]), metric=["logit_diff", "kl"]),
        "sweep of vectors": lambda: cutaway.sweep(
            m, clean, cutaway.add("resid_post", {"v": d.vector}, scale=[1.0, 2.0], layers=[2])
        ),
        "screened sweep": lambda: cutaway.sweep(m, clean, cutaway.patch("z", source=corrupt), screen=0.5),
        "denoise": lambda: cutaway.denoise(m, clean, corrupt, "resid_pre", layers=[1]),
        "noise": lambda: cutaway.noise(m, clean, corrupt, "pattern", layers=[1]),
        "bos_sensitivity": lambda: cutaway.bos_sensitivity(m, clean.texts, [" Warsaw"], [" Berlin"]),
        "head_scores": lambda: cutaway.head_scores(m, rows=2, period=12),
        "role_attention": lambda: cutaway.role_attention(t, [("END", "ARG")]),
        "attention_patterns": lambda: cutaway.attention_patterns(t),
        "rotations": lambda: cutaway.rotations(t),
        "fit_subspaces": lambda: cutaway.fit_subspaces(m, fits, "mlp_pre", [2]).to_xarray(),
        "energy_by_token": lambda: cutaway.energy_by_token(
            m, fits, cutaway.fit_subspaces(m, fits, "mlp_pre", [2])[2].leading(1)
        ),
        "stages": lambda: cutaway.stages(t),
        "readout_edit": lambda: cutaway.readout_edit(t, d),
        "readout_flips": lambda: cutaway.readout_flips(t, d),
        "readout_score": lambda: cutaway.readout_score(t, d),
        "before_after": lambda: cutaway.before_after(t, d),
        "factorial": lambda: cutaway.factorial(m, clean, {"v": d}, [[2]]),
    }


def of_results() -> Facts:
    facts: Facts = {}
    with torch.no_grad():
        for name, make in results().items():
            facts |= of_arrays(name, make())
    return facts


def of_arrays(name: str, found: xr.Dataset | xr.DataArray) -> Facts:
    """Variables and coordinates with their dims, and the names of attributes."""
    if isinstance(found, xr.DataArray):
        found = found.to_dataset(name=found.name or "value", promote_attrs=True)
    facts: Facts = {f"{name} {list(found.sizes)}": {"kind": "result"}} if not found.variables else {}
    for key, variable in found.variables.items():
        kind = "coordinate" if key in found.coords else "variable"
        content = {"U": "text", "O": "text", "T": "text", "b": "truth"}.get(variable.dtype.kind, "number")
        facts[f"{name}[{str(key)!r}]"] = {"kind": kind, "dims": list(map(str, variable.dims)), "content": content}
    return facts | {f"{name}.attrs": {"kind": "attributes", "choices": sorted(map(str, found.attrs))}}


def of_study(kind: str, arrays: dict[str, Any]) -> Facts:
    """What a study's `result.zarr` and `result.json` hold."""
    facts: Facts = {}
    for name, array in arrays.items():
        facts |= of_arrays(f"study {kind}: {name}", array)
    return facts


def studies() -> dict[str, Any]:
    """The studies as the tests run them."""
    import test_studies
    import test_study_ioi
    import test_study_rotation
    import test_study_subspace
    import test_study_vector_arithmetic

    rooms = (test_study_ioi, test_study_rotation, test_study_subspace, test_study_vector_arithmetic)
    made = [test_studies.run(test_studies.wordy.model(), test_studies.ASK), *(room.study() for room in rooms)]
    return {study.kind: study for study in made}


# -- comparing --------------------------------------------------------------------------------------------------------


def broken(old: Facts, new: Facts) -> list[str]:
    """What was promised and is not kept, one line each; additions are fine."""
    lines = []
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            lines.append(f"{name}: gone ({was['kind']})")
            continue
        for key, value in was.items():
            why = _unlike(key, value, now.get(key))
            if why:
                lines.append(f"{name}: {why}")
    required = [k for k, f in new.items() if k not in old and f["kind"] in ("option", "argument") and f["required"]]
    return lines + [f"{name}: new and required" for name in required if name.rpartition(" ")[0] in old]


def _unlike(key: str, was: Any, now: Any) -> str:
    """Why a changed fact breaks what was promised; empty if it does not."""
    if key == "parameters":
        return _unlike_parameters(was, now or [])
    if key == "choices":
        lost = [c for c in was if c not in (now or was)]
        return f"choices gone: {', '.join(lost)}" if lost else ""
    if was == now or (key == "required" and was and not now):
        return ""
    return f"{key} was {was}, is {now}"


def _unlike_parameters(was: list[list[str]], now: list[list[str]]) -> str:
    names = [p[0] for p in now]
    for parameter in was:
        name, how, default = parameter
        if name not in names:
            return f"parameter {name} is gone"
        _, how_now, default_now = now[names.index(name)]
        if how != how_now:
            return f"parameter {name} was {how}, is {how_now}"
        if default not in ("required", default_now):
            return f"the default of {name} was {default}, is {default_now}"
    fixed = [p[0] for p in was if p[1].startswith("positional")]
    if names[: len(fixed)] != fixed and fixed:
        return f"parameters came in the order {', '.join(fixed)}; now {', '.join(names)}"
    known = {p[0] for p in was}
    added = [p[0] for p in now if p[0] not in known and p[2] == "required" and not p[1].startswith("variadic")]
    return f"parameter {added[0]} is new and required" if added else ""


def promised(kind: str, study: Any) -> None:
    """Fail if a study lacks arrays, variables or coordinates that `public_api.json` has of it."""
    facts = json.loads(FILE.read_text())["facts"]
    mine = {key: fact for key, fact in facts.items() if key.startswith(f"study {kind}: ")}
    lines = broken(mine, of_study(kind, study.arrays))
    assert mine and not lines, "\n".join(["What was promised is not kept:", *lines, HELP])


def allowed(then: str, now: str, changelog: str) -> str:
    """Why a promise may not be broken between two versions; empty if it may."""
    heading = re.search(rf"^## \[{re.escape(now)}\] - (.*)$", changelog, re.M)
    if heading is None:
        return f"CHANGELOG.md has no heading for {now}."
    if then == now:
        return "" if heading[1] == "unreleased" else f"{now} is released: raise the version in pyproject.toml first."
    (old_major, old_minor), (major, minor) = (tuple(map(int, v.split(".")[:2])) for v in (then, now))
    if (major, minor if major == 0 else 0) > (old_major, old_minor if major == 0 else 0):
        return ""
    return f"From {then} to {now} nothing may go away: raise the {'minor' if major == 0 else 'major'} version."


HELP = (
    "Keep what was promised, under its old name too if need be. If it has to go: raise the minor version (from 1.0 on "
    "the major one) in pyproject.toml and src/cutaway/__init__.py, say so in CHANGELOG.md, "
    "and write the new promises with `make api`."
)


def main() -> int:
    """Write the file, unless that breaks what a release has promised."""
    facts = of_python() | vocabulary() | of_commands() | of_results()
    for kind, study in studies().items():
        facts |= of_study(kind, study.arrays)
    if FILE.is_file():
        then = json.loads(FILE.read_text())
        lines = broken(then["facts"], facts)
        why = allowed(then["version"], cutaway.__version__, (ROOT / "CHANGELOG.md").read_text()) if lines else ""
        print("\n".join(lines) or "Everything that was promised is kept.")
        if why:
            print(why, HELP, sep="\n", file=sys.stderr)
            return 1
    rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(facts.items()))
    FILE.write_text(f'{{\n "version": {json.dumps(cutaway.__version__)},\n "facts": {{\n{rows}\n }}\n}}\n')
    print(f"{len(facts)} facts in {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
