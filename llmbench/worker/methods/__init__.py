"""How a model is adapted or compressed: functions from a model to a model."""
