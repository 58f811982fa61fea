"""What ran, gathered from the nodes for sidecars and report."""

from __future__ import annotations

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _FactsInputSpec(BaseInterfaceInputSpec):
    in_facts = InputMultiObject(traits.Dict(), desc="facts of several nodes, in order")


class _FactsOutputSpec(TraitedSpec):
    facts = traits.Dict(desc="one dictionary; lists are joined, later scalars win")


class MergeFacts(SimpleInterface):
    """Join dictionaries of facts; lists such as `Warnings` are concatenated without repeats."""

    input_spec = _FactsInputSpec
    output_spec = _FactsOutputSpec

    def _run_interface(self, runtime):
        merged: dict[str, object] = {}
        for facts in self.inputs.in_facts if isdefined(self.inputs.in_facts) else []:
            for key, value in facts.items():
                if isinstance(value, list):
                    known = merged.get(key, [])
                    merged[key] = known + [item for item in value if item not in known]
                else:
                    merged[key] = value
        self._results["facts"] = merged
        return runtime
