"""What ran, gathered from the nodes for sidecars and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    InputMultiObject,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.model_metadata import join_models, nest_model

#: Facts of the raw runs of a series: one entry per file.
BY_FILE = ("BScaling", "VolumesCutShort", "VolumesLeftOut")


def join_facts(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: warnings without repeats, facts by file or of a model together.

    Of other entries the last wins.

    Examples
    --------
    >>> join_facts([{"Warnings": ["a"], "x": 1}, {"Warnings": ["b", "a"], "x": 2}])
    {'Warnings': ['a', 'b'], 'x': 2}
    >>> join_facts([{"Model": {"Name": "x"}}, {"Model": {"Version": "1"}}])
    {'Model': {'Name': 'x', 'Version': '1'}}
    >>> join_facts([{"BScaling": {"a.nii": "none"}}, {"BScaling": {"b.nii": "length"}}])
    {'BScaling': {'a.nii': 'none', 'b.nii': 'length'}}
    """
    joined: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key == "Warnings":
                known = joined.get(key, [])
                joined[key] = known + [item for item in value if item not in known]
            elif key == "Model":
                joined[key] = join_models(joined.get(key, {}), value)
            elif key in BY_FILE:
                joined[key] = {**joined.get(key, {}), **value}
            else:
                joined[key] = value
    return joined


class _FactsInputSpec(BaseInterfaceInputSpec):
    base = traits.Dict(desc="what is known when the graph is built")
    warnings_of = traits.Dict(desc="facts of which only the warnings are taken over")
    taken_keys = traits.List(Str, desc="further entries of warnings_of that are taken over")
    model_facts = traits.Dict(desc="what a tensor model says of itself: goes under Model")
    in_facts = InputMultiObject(traits.Dict(), desc="facts of several nodes, in order")


class _FactsOutputSpec(TraitedSpec):
    facts = traits.Dict(desc="all of them")


class MergeFacts(SimpleInterface):
    """Join the facts of several nodes into one dictionary."""

    input_spec = _FactsInputSpec
    output_spec = _FactsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        parts = [dict(self.inputs.base)] if isdefined(self.inputs.base) else []
        if isdefined(self.inputs.warnings_of):
            given = self.inputs.warnings_of
            taken = self.inputs.taken_keys if isdefined(self.inputs.taken_keys) else []
            parts.append({"Warnings": list(given.get("Warnings", []))})
            parts.append({key: given[key] for key in taken if key in given})
        if isdefined(self.inputs.model_facts):
            parts.append(nest_model(self.inputs.model_facts))
        if isdefined(self.inputs.in_facts):
            parts += [dict(facts) for facts in self.inputs.in_facts]
        self._results["facts"] = join_facts(parts)
        return runtime


class _RunFactsInputSpec(BaseInterfaceInputSpec):
    in_facts = InputMultiObject(traits.Dict(), mandatory=True, desc="facts of each run, in order")


class MergeRunFacts(SimpleInterface):
    """Join the facts of the runs of a series; where runs differ, every value is told."""

    input_spec = _RunFactsInputSpec
    output_spec = _FactsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        runs = [dict(facts) for facts in self.inputs.in_facts]
        keys = dict.fromkeys(key for facts in runs for key in facts)
        self._results["facts"] = {
            key: "; ".join(dict.fromkeys(str(facts[key]) for facts in runs if key in facts))
            for key in keys
        }
        return runtime
