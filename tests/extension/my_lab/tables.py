"""A kind of table: a component is a layer at a position; over parts of the way the largest effect counts."""

from tinylab.interventions.components import TableKind

POSITION_IMPACT = TableKind(
    name="position_impact",
    columns=(("layer", "int64"), ("position", "int64"), ("part", "float64")),
    matrix="position_matrix",
    component=("layer", "position"),
    plural="positions",
)
