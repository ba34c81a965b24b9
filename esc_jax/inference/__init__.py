"""Trained models on recordings: predictions over time, embeddings, and their output formats."""
