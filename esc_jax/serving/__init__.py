"""Services around a trained model."""
