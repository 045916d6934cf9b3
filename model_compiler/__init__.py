"""From a trained model to verified variants in a model package."""
