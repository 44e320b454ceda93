"""`genmnist serve`: SavedModels behind TensorFlow Serving's REST contract.  Knows only them, not the models' code."""
