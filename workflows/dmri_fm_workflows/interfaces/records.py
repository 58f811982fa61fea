"""Processing records: dictionaries that nodes hand on, joined for sidecars and report."""

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

from dmri_fm.model_metadata import join_models, metadata_of_map, nest_model

#: Entries of a record that hold one value per raw file.
BY_FILE = ("BScaling", "GradientsFixed", "KSpaceExtent", "VolumesCutShort", "VolumesLeftOut")


def join_records(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: warnings without repeats, entries by file or of a model together.

    Of other entries the last wins.

    Examples
    --------
    >>> join_records([{"Warnings": ["a"], "x": 1}, {"Warnings": ["b", "a"], "x": 2}])
    {'Warnings': ['a', 'b'], 'x': 2}
    >>> join_records([{"Model": {"Name": "x"}}, {"Model": {"Version": "1"}}])
    {'Model': {'Name': 'x', 'Version': '1'}}
    >>> join_records([{"BScaling": {"a.nii": "none"}}, {"BScaling": {"b.nii": "length"}}])
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


class _RecordsInputSpec(BaseInterfaceInputSpec):
    base = traits.Dict(desc="entries known when the graph is built")
    warnings_of = traits.Dict(desc="record of which only the warnings are taken over")
    taken_keys = traits.List(Str, desc="further entries of warnings_of that are taken over")
    model_record = traits.Dict(desc="record of a tensor model, goes under Model")
    param = Str(desc="label of the map of that model, whose status is its own")
    in_records = InputMultiObject(traits.Dict(), desc="records of several nodes, in order")


class _RecordOutputSpec(TraitedSpec):
    record = traits.Dict(desc="all of them")


class MergeRecords(SimpleInterface):
    """Join the records of several nodes into one."""

    input_spec = _RecordsInputSpec
    output_spec = _RecordOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        parts = [dict(self.inputs.base)] if isdefined(self.inputs.base) else []
        if isdefined(self.inputs.warnings_of):
            given = self.inputs.warnings_of
            taken = self.inputs.taken_keys if isdefined(self.inputs.taken_keys) else []
            parts.append({"Warnings": list(given.get("Warnings", []))})
            parts.append({key: given[key] for key in taken if key in given})
        if isdefined(self.inputs.model_record):
            record = metadata_of_map(self.inputs.model_record, self.inputs.param)
            parts.append(nest_model(record))
        if isdefined(self.inputs.in_records):
            parts += [dict(record) for record in self.inputs.in_records]
        self._results["record"] = join_records(parts)
        return runtime


class _RunRecordsInputSpec(BaseInterfaceInputSpec):
    in_records = InputMultiObject(traits.Dict(), mandatory=True, desc="records of the runs")


class MergeRunRecords(SimpleInterface):
    """Join the records of the runs of a series; where runs differ, every value is told."""

    input_spec = _RunRecordsInputSpec
    output_spec = _RecordOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        runs = [dict(record) for record in self.inputs.in_records]
        keys = dict.fromkeys(key for record in runs for key in record)
        self._results["record"] = {
            key: "; ".join(dict.fromkeys(str(record[key]) for record in runs if key in record))
            for key in keys
        }
        return runtime
