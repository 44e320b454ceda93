"""`genmnist serve`: SavedModels behind TensorFlow Serving's REST contract.  Knows only them, none of the models' code."""
