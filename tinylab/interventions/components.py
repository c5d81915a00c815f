"""Components: what an intervention acts on, and the kinds of table that list them.

A `TableKind` is said once and read everywhere: it gives an impact table its columns, a sweep its matrix, invariants their
components, and a heat map its axes. A battery names the kind of its table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ColumnType = Literal["int64", "float64", "string"]


@dataclass(frozen=True)
class Component:
    """A part of the model: a site of one layer, or one unit of it (a head, a key-value head, a neuron)."""

    site: str
    layer: int
    unit: int | None = None
    kind: str = "head"  # of unit

    def __str__(self) -> str:
        """Such as `head_out of layer 1, head 3` or `k of layer 1, kv head 0`."""
        return f"{self.site} of layer {self.layer}" + ("" if self.unit is None else f", {self.kind} {self.unit}")


@dataclass(frozen=True)
class TableKind:
    """What a row of an impact table is about.

    `component` columns identify a component, whole numbers each: the layer first, or for one of two units the layer and place of
    each, for one of two layers both (`members`). Of the other columns, `apart` distinguish groups of runs, whose components are
    never compared; over the rest (a scale, say) a component's largest score counts.
    """

    name: str  # of the table, its file and its key in the manifest: head_impact
    columns: tuple[tuple[str, ColumnType], ...]  # what identifies a cell, in order, with types
    matrix: str  # of the sweep's table that joins them: head_matrix
    component: tuple[str, ...]
    plural: str  # what components are called in invariants.json: heads
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the columns fit together."""
        types = dict(self.columns)
        if not self.component or not {*self.component, *self.apart} <= set(types):
            raise ValueError(f"table {self.name}: component and apart name columns of its own ({', '.join(types)}), "
                             f"got {self.component} and {self.apart}.")
        if any(types[column] != "int64" for column in self.component):
            raise ValueError(f"table {self.name}: component columns are whole numbers (int64), got {types}.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that identify a cell."""
        return tuple(name for name, _ in self.columns)

    @property
    def of_units(self) -> bool:
        """Whether components are units of a layer that can be changed together: heads, not heads at one position each."""
        return self.component[0] == "layer" and len(self.component) > 1 and "position" not in self.component

    @property
    def members(self) -> tuple[tuple[str, ...], ...]:
        """Of pairs the columns of each of the two, its layer and, of units, its place in it; none of others."""
        columns, half = self.component, len(self.component) // 2
        return (columns[:half], columns[half:]) if columns[0] != "layer" and half else ()

    @property
    def varied(self) -> tuple[str, ...]:
        """Columns that are neither a component's nor distinguish groups, such as a scale."""
        return tuple(name for name in self.keys if name not in (*self.component, *self.apart))

    def listed(self, component: tuple[int, ...]) -> Any:
        """A component as JSON: {layer, head}, or the layer's bare number where that says it all."""
        return dict(zip(self.component, component, strict=True)) if len(self.component) > 1 else component[0]

    def as_json(self) -> dict[str, Any]:
        """The declaration as a manifest holds it, so that other programs need not have the battery."""
        return {"name": self.name, "columns": dict(self.columns), "matrix": self.matrix, "component": list(self.component),
                "plural": self.plural, "apart": list(self.apart)}

    @staticmethod
    def of_manifest(manifest: dict[str, Any]) -> TableKind:
        """The kind of a finished run's table; manifests of before the declaration name a shipped one."""
        told = manifest.get("table_kind")
        if told is None:
            return TABLE_KINDS[manifest["table"]]
        return TableKind(told["name"], tuple(told["columns"].items()), told["matrix"], tuple(told["component"]), told["plural"],
                         tuple(told["apart"]))


HEAD_IMPACT = TableKind("head_impact", (("layer", "int64"), ("head", "int64"), ("scale", "float64")), "head_matrix",
                        ("layer", "head"), "heads")
LAYER_IMPACT = TableKind("layer_impact", (("layer", "int64"), ("granularity", "string")), "layer_matrix",
                         ("layer",), "layers", ("granularity",))
NEURON_IMPACT = TableKind("neuron_impact", (("layer", "int64"), ("neuron", "int64")), "neuron_matrix", ("layer", "neuron"),
                          "neurons")
PAIR_IMPACT = TableKind(
    "pair_impact", (("layer1", "int64"), ("head1", "int64"), ("layer2", "int64"), ("head2", "int64"), ("scale", "float64")),
    "pair_matrix", ("layer1", "head1", "layer2", "head2"), "pairs",
)
SUBSET_IMPACT = TableKind("subset_impact", (("set", "int64"), ("scale", "float64")), "subset_matrix", ("set",), "sets")
LAYER_PAIR_IMPACT = TableKind(
    "pair_impact", (("layer1", "int64"), ("layer2", "int64"), ("granularity", "string"), ("scale", "float64")),
    "layer_pair_matrix", ("layer1", "layer2"), "layer_pairs", ("granularity",),
)
LAYER_SUBSET_IMPACT = TableKind("subset_impact", (("set", "int64"), ("granularity", "string"), ("scale", "float64")),
                                "layer_subset_matrix", ("set",), "layer_sets", ("granularity",))
POSITION_IMPACT = TableKind("position_impact", (("layer", "int64"), ("granularity", "string"), ("position", "int64")),
                            "position_matrix", ("layer", "position"), "positions", ("granularity",))
HEAD_POSITION_IMPACT = TableKind("position_impact", (("layer", "int64"), ("head", "int64"), ("position", "int64")),
                                 "head_position_matrix", ("layer", "head", "position"), "head_positions")
TABLE_KINDS = {kind.name: kind for kind in (HEAD_IMPACT, LAYER_IMPACT, NEURON_IMPACT, PAIR_IMPACT, SUBSET_IMPACT)}
"""The kinds of the shipped batteries that were there first; manifests may name them only."""
SHIPPED = (*TABLE_KINDS.values(), LAYER_PAIR_IMPACT, LAYER_SUBSET_IMPACT, POSITION_IMPACT, HEAD_POSITION_IMPACT)
"""The kinds of all shipped batteries; a table's name and its columns distinguish them."""
