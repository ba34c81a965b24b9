"""Export as ONNX files, from waveform or features to probabilities."""
