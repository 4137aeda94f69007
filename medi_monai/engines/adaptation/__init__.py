"""Learn attribute values that a model was not trained on."""
